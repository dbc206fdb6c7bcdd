"""Locks on single bytes of a file that belong to an open file description, and end with its last descriptor.

A process loses POSIX locks when it closes any other descriptor of the file. These it keeps. Linux only.
"""

import fcntl
import os
import struct
import sys
from typing import Final

__all__ = ["SET_LOCK", "holder_of", "request"]

#: The command for `fcntl.fcntl`, which does not wait; None if the system has no such locks.
SET_LOCK: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None) if sys.platform == "linux" else None
#: ``struct flock``: type, whence, start, length, process id.
_FLOCK: Final = struct.Struct("@hhqqi")


def request(kind: int, byte: int) -> bytes:
    """Return the argument of the command that locks (``F_WRLCK``) or unlocks (``F_UNLCK``) a byte."""
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


def holder_of(answer: bytes) -> tuple[int, int]:
    """Return the kind of a lock, by the answer of ``F_GETLK``, and its process; ``F_UNLCK`` if there is none."""
    kind, _, _, _, process = _FLOCK.unpack(answer)
    return kind, process
