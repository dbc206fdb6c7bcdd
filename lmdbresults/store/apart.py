"""An interpreter of its own, for work on files that may end a process: by a signal out of LMDB, or by never ending."""

import os
import signal
import subprocess
import sys

from lmdbresults.errors import StoreError

__all__ = ["WorkDied", "run_apart"]

#: The package, and all that it needs, is found where the caller finds it; nothing else of the caller gets there.
_START = "import sys; sys.path[:] = {path!r}; from {module} import main; main(sys.argv[1:])"


class WorkDied(StoreError):
    """Raised when the interpreter ends by a signal or an error, or is not done in time."""


def run_apart(module: str, arguments: list[str], *, timeout: float | None = None) -> bytes:
    """Return what ``main(arguments)`` of a module has printed in an interpreter of its own. Raises `WorkDied`.

    The caller is not forked: a new program is started, which inherits neither descriptors nor locks.
    """
    code = _START.format(path=sys.path, module=module)
    command = [_interpreter(), "-I", "-c", code, *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise WorkDied(f"was not done after {timeout} seconds") from error
    if done.returncode < 0:
        raise WorkDied(f"died by {_signal_name(-done.returncode)}")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise WorkDied(f"failed: {said[-1]}")
    return done.stdout


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
