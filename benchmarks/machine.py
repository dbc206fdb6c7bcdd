"""What the figures were measured on: machine, file system, versions."""

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
    """Return the lines of a header; ``folder`` is where the files of the run are."""
    engines = f"LMDB {'.'.join(map(str, lmdb.version()[:3]))}, Redis {_redis()}, SQLite {sqlite3.sqlite_version}"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} CPUs ({_processor()}), {platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.2f} over the last minute, before this run",
        "files on": _filesystem(folder),
        # A build without profile-guided optimisation is a third slower, and nothing but its date tells them apart.
        "Python": f"{platform.python_implementation()} {platform.python_version()}, built {platform.python_build()[1]}",
        "packages": ", ".join(f"{package} {_installed(package)}" for package in PACKAGES),
        "engines": engines,
    }


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.machine()


def _filesystem(folder: Path) -> str:
    """Return the type of the file system: on tmpfs a commit does not write to a disk."""
    mounts = [line.split()[1:3] for line in _read("/proc/mounts").splitlines()]
    holding = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]), default=("", "unknown file system"))[1]


def _read(path: str) -> str:
    """Return the text of a file that only Linux has."""
    return Path(path).read_text() if os.path.exists(path) else ""


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _redis() -> str:
    binary = shutil.which("redis-server")
    output = subprocess.check_output([binary, "--version"], text=True, timeout=10) if binary else ""
    found = re.search(r"v=(\S+)", output)
    return found[1] if found else "none"
