"""Processes on a disk that fails: the next sync of a file raises an error of the system, once."""

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lmdbresults import LMDBStore, errors
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from tests.crash.recording import compiled
from tests.support.processes import PATIENCE

__all__ = [
    "BOTH",
    "checkpoint_of",
    "damage",
    "environment",
    "fail",
    "fail_next",
    "refuses",
    "run_failing",
]


def environment(path: str, former: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process for which the next sync of a data file fails once `fail_next` was called."""
    libraries = [compiled("failing.c"), *former.get("LD_PRELOAD", "").split()]
    return {**former, "LD_PRELOAD": " ".join(libraries), "FAILING_SYNC": _order(path)}


def fail_next(path: str, code: int = errno.EIO) -> None:
    """Have the next sync of a file fail, in the process that notices first. Processes that are to fail call it, too."""
    draft = Path(f"{_order(path)}.draft")
    draft.write_text(f"{code} {os.path.realpath(path)}\n")
    draft.rename(_order(path))


def run_failing(source: str, path: str, *arguments: object, former: Mapping[str, str] = os.environ) -> str:
    """Return what some source prints in an interpreter for which syncs may fail; it has to end well."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", source, path, *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment(path, former),
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _order(path: str) -> str:
    return f"{os.path.dirname(path)}-failing"  # not in the folder, where everything may be recorded


#: Stores something that a checkpoint covers, and something for which the sync fails; says what it was told, and ends.
FAILS = """
import sys
from lmdbresults import errors, open_store
from tests.support.failing import fail_next
path, code, durability = sys.argv[1:]
store = open_store(path, durability=durability, checkpoint_interval=3600)
store.set(b"covered", b"value")
store.flush()
fail_next(path, int(code))
try:
    store.set(b"not on the disk", b"value")
    store.flush()
except errors.DiskFailed as error:
    print(error)
"""
BOTH = [b"covered", b"not on the disk"]


def fail(path: str, durability: str = "checkpoint", code: int = errno.EIO) -> str:
    """Have a process be told that the disk has failed, and end; return what it was told."""
    return run_failing(FAILS, path, code, durability).strip()


def checkpoint_of(path: str) -> int:
    sidecar = Sidecar(path)
    try:
        return sidecar.read().durable.txn
    finally:
        sidecar.close()


def refuses(store: LMDBStore) -> bool:
    try:
        store.set(b"more", b"value")
    except errors.DiskFailed:
        return True
    return False


def damage(path: str) -> None:
    """As if the pages of the last commits had been taken out of memory, and the disk had others: zeros."""
    with open(path, "r+b") as file:
        file.seek(2 * 4096)
        file.write(bytes(os.path.getsize(path) - 2 * 4096))
