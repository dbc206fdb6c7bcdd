"""Death at a fault point: a test kills a process at a named step, so that another process must go on from there."""

import os
import signal
from collections.abc import Mapping

from lmdbresults import faultpoints

__all__ = ["DIE_AT", "DIE_FLAG", "die_as_told", "die_at"]

#: The environment variables that tell a started process where to die, and with which flag file.
DIE_AT = "LMDBRESULTS_DIE_AT"
DIE_FLAG = "LMDBRESULTS_DIE_FLAG"


def die_at(point: str, flag_file: str | os.PathLike[str]) -> None:
    """Kill (as by kill -9) the first process that reaches a fault point: this one, or one that it forks from now on.

    The first process creates ``flag_file`` with its process id; later ones go on. Raises ValueError if the point is not
    one of `lmdbresults.faultpoints.POINTS`.
    """
    if point not in faultpoints.POINTS:
        raise ValueError(f"Unknown fault point {point!r}; known are: {', '.join(faultpoints.POINTS)}.")
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
