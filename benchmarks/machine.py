"""What the figures were measured on: without it they cannot be compared with anybody else's."""

import os
import platform
import re
import shutil
import sqlite3
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import lmdb

PACKAGES = ("lmdbresults", "celery", "kombu", "lmdb", "msgpack", "redis", "hiredis", "sqlalchemy", "diskcache")


def describe(folder: Path) -> dict[str, str]:
    """Machine, file system of the folder, and versions, as the lines of a header."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} CPUs ({processor()}), {platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.2f} over the last minute, before this run",
        "files on": filesystem(folder),
        # A build without profile-guided optimisation takes a third more, and no variable tells it apart for sure.
        "Python": f"{platform.python_implementation()} {platform.python_version()}, built {platform.python_build()[1]}",
        "packages": ", ".join(f"{package} {installed(package)}" for package in PACKAGES),
        "engines": f"LMDB {lmdb_version()}, Redis {redis_version()}, SQLite {sqlite3.sqlite_version}",
    }


def processor() -> str:
    """The model, where the system tells."""
    try:
        models = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        models = []
    return models[0] if models else platform.machine()


def filesystem(folder: Path) -> str:
    """Type of the file system that holds the folder: on tmpfs a commit costs no disk."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown file system"
    holding = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1]


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def lmdb_version() -> str:
    return ".".join(map(str, lmdb.version()[:3]))


def redis_version() -> str:
    binary = shutil.which("redis-server")
    if binary is None:
        return "none"
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    found = re.search(r"v=(\S+)", told)
    return found[1] if found else "unknown"
