"""Processes on a disk that fails: the next sync of a file raises an error of the system, once."""

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.crash.recording import compiled
from tests.processes import PATIENCE

__all__ = ["environment", "fail_next", "run_failing"]


def environment(path: str, former: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process for which the next sync of a data file fails once `fail_next` was called."""
    libraries = [compiled("failing.c"), *former.get("LD_PRELOAD", "").split()]
    return {**former, "LD_PRELOAD": " ".join(libraries), "FAILING_SYNC": _order(path)}


def fail_next(path: str, code: int = errno.EIO) -> None:
    """Have the next sync of a file fail, of whichever process notices first. Also called by those that are to fail."""
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
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _order(path: str) -> str:
    return f"{os.path.dirname(path)}-failing"  # not in the folder, where everything may be recorded
