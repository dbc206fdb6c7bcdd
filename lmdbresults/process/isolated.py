"""Work in a subprocess, for files on which LMDB may crash the process that opens them, or loop for ever."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from lmdbresults.errors import StoreError

if TYPE_CHECKING:
    import subprocess

__all__ = ["SubprocessFailed", "run_isolated"]

#: The subprocess finds modules where the caller does, and inherits nothing else.
_START: Final = "import sys; sys.path[:] = {path!r}; from {module} import main; main(sys.argv[1:])"
#: Seconds between two calls of ``meanwhile``.
_TICK: Final = 0.1


class SubprocessFailed(StoreError):
    """Raised when a subprocess ends by a signal or an error, or exceeds its time."""


def run_isolated(
    module: str,
    arguments: list[str],
    *,
    timeout: float | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> bytes:
    """Return what ``main(arguments)`` of a module prints in a subprocess.

    Raises `SubprocessFailed`, or `StoreError` if none can be started.

    The subprocess is a new interpreter and not a fork: it inherits neither descriptors nor locks. It is killed after
    ``timeout`` seconds, and when an exception interrupts the wait. ``meanwhile`` is called ten times a second.
    """
    code = _START.format(path=sys.path, module=module)
    with _start([_interpreter(), "-I", "-c", code, *arguments]) as process:
        try:
            output, complaints = _communicate(process, timeout, meanwhile)
        finally:
            process.kill()
    if process.returncode < 0:
        raise SubprocessFailed(f"died by {_signal_name(-process.returncode)}")
    if process.returncode:
        lines = complaints.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise SubprocessFailed(f"failed: {lines[-1]}")
    return output


def _start(command: list[str]) -> "subprocess.Popen[bytes]":
    from subprocess import DEVNULL, PIPE, Popen  # takes milliseconds, and few processes need it

    try:
        return Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)  # noqa: S603
    except OSError as error:  # which says nothing about what was to be done in it
        raise StoreError(
            f"No subprocess could be started ({error.strerror}). Close files, or raise the limits of this process and "
            "of the system: ulimit -n, ulimit -u, memory."
        ) from error


def _communicate(
    process: "subprocess.Popen[bytes]", timeout: float | None, meanwhile: Callable[[], object] | None
) -> tuple[bytes, bytes]:
    from subprocess import TimeoutExpired

    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        wait = left if meanwhile is None else min(left, _TICK)
        try:
            return process.communicate(timeout=None if math.isinf(wait) else max(wait, 0))
        except TimeoutExpired:
            if time.monotonic() >= deadline:
                raise SubprocessFailed(f"did not finish within {timeout} seconds") from None
            if meanwhile is not None:
                meanwhile()


def _interpreter() -> str:
    """Return the Python interpreter: ``sys.executable`` may be a server that embeds Python."""
    if os.path.basename(sys.executable or "").startswith(("python", "pypy")):
        return sys.executable
    return os.path.join(sys.exec_prefix, "bin", "python3")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
