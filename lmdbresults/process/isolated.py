"""An interpreter of its own, for work on files that may end a process: by a signal out of LMDB, or by never ending."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from subprocess import DEVNULL, PIPE
from typing import Final

from lmdbresults.errors import StoreError

__all__ = ["WorkDied", "run_apart"]

#: The package, and all that it needs, is found where the caller finds it; nothing else of the caller gets there.
_START: Final = "import sys; sys.path[:] = {path!r}; from {module} import main; main(sys.argv[1:])"
#: Seconds between two looks at how far the work is.
_TICK: Final = 0.1


class WorkDied(StoreError):
    """Raised when the interpreter ends by a signal or an error, or is not done in time."""


def run_apart(
    module: str,
    arguments: list[str],
    *,
    timeout: float | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> bytes:
    """Return what ``main(arguments)`` of a module has printed in an interpreter of its own. Raises `WorkDied`.

    The caller is not forked: a new program is started, which inherits neither descriptors nor locks. ``meanwhile`` is
    called ten times a second. An exception ends the program.
    """
    code = _START.format(path=sys.path, module=module)
    command = [_interpreter(), "-I", "-c", code, *arguments]
    with _started(command) as process:
        try:
            said, complaints = _communicate(process, timeout, meanwhile)
        finally:
            process.kill()
    if process.returncode < 0:
        raise WorkDied(f"died by {_signal_name(-process.returncode)}")
    if process.returncode:
        lines = complaints.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise WorkDied(f"failed: {lines[-1]}")
    return said


def _started(command: list[str]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)  # noqa: S603
    except OSError as error:
        raise WorkDied(f"could not be started: {error}") from error


def _communicate(
    process: "subprocess.Popen[bytes]", timeout: float | None, meanwhile: Callable[[], object] | None
) -> tuple[bytes, bytes]:
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        wait = left if meanwhile is None else min(left, _TICK)
        try:
            return process.communicate(timeout=None if math.isinf(wait) else max(wait, 0))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                raise WorkDied(f"was not done after {timeout} seconds") from None
            if meanwhile is not None:
                meanwhile()


def _interpreter() -> str:
    """Return the program to start: in a server that embeds Python, ``sys.executable`` may be that server."""
    if os.path.basename(sys.executable or "").startswith(("python", "pypy")):
        return sys.executable
    return os.path.join(sys.exec_prefix, "bin", "python3")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
