"""Death at a fault point: what a test sets in a process, so that another one has to go on where it stopped."""

import os
import signal
from collections.abc import Mapping

from lmdbresults import faultpoints

__all__ = ["DIE_AT", "DIE_FLAG", "die_as_told", "die_at"]

#: The environment variables by which a test tells a process that it starts where to die, and with which flag file.
DIE_AT = "LMDBRESULTS_DIE_AT"
DIE_FLAG = "LMDBRESULTS_DIE_FLAG"


def die_at(point: str, flag_file: str | os.PathLike[str]) -> None:
    """Have this process, and what it forks from now on, end at a fault point as by kill -9: the first one that comes.

    That is the one that creates ``flag_file``, and writes its process id into it; the others go on. Raises
    ``ValueError`` for what is none of `lmdbresults.faultpoints.POINTS`.
    """
    if point not in faultpoints.POINTS:
        raise ValueError(f"There is no fault point {point!r}; there are: {', '.join(faultpoints.POINTS)}.")
    flag = os.fspath(flag_file)

    def passing(reached: str) -> None:
        if reached == point and _is_first(flag):
            os.kill(os.getpid(), signal.SIGKILL)

    faultpoints.hook = passing


def die_as_told(environment: Mapping[str, str] = os.environ) -> None:
    """Do `die_at` if the environment names a point and a flag file."""
    if DIE_AT in environment:
        die_at(environment[DIE_AT], environment[DIE_FLAG])


def _is_first(flag: str) -> bool:
    try:
        descriptor = os.open(flag, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    os.write(descriptor, str(os.getpid()).encode())
    os.close(descriptor)
    return True
