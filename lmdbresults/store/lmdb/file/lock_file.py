"""LMDB's lock file, mapped: which process holds the write lock, and the table of readers (reader_table.py)."""

import mmap
import os
import sys
from contextlib import suppress
from typing import Final

from lmdbresults.store.lmdb.file.paths import LOCK_SUFFIX

__all__ = ["UNKNOWN", "LockFile"]

#: By machine, where the mutex of the write lock lies and where the first reader: after a header of 24 bytes and a mutex
#: of 40 or 48, and after the second mutex, each time rounded up to cache lines of 64.
_PLACES: Final = {"x86_64": (64, 128), "aarch64": (128, 192)}
#: The bits of the first word of a mutex that hold the thread id of its owner. Others say that the owner has died, and
#: that threads wait for it.
_OWNER: Final = 0x3FFFFFFF

#: The word of a lock that cannot be seen: as if it were always free.
UNKNOWN: Final = memoryview(bytes(4)).cast("I")


class LockFile:
    """The lock file of an LMDB environment that is open in this process. Close it only after the environment.

    Closing any descriptor of the file drops the locks that this process has on it, as POSIX says.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        #: The content; None on a system where its layout is not known.
        self.map: mmap.mmap | None = None
        #: The first word of the write lock: 0 while it is free. Looking at it takes 0.05 µs.
        self.word = UNKNOWN
        mutex, self.first_reader = _places()
        if self.first_reader:
            self._descriptor = os.open(path + LOCK_SUFFIX, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            self.map = mmap.mmap(self._descriptor, 0)
            if mutex:
                self.word = memoryview(self.map)[mutex : mutex + 4].cast("I")

    def close(self) -> None:
        """Close the file. May be called again."""
        word, self.word = self.word, UNKNOWN
        if word is not UNKNOWN:
            word.release()
        if self.map is not None:
            self.map.close()
            self.map = None
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def owner(self) -> int:
        """Return the id of the thread that holds the write lock, in any process; 0 if it is free or cannot be seen."""
        return self.word[0] & _OWNER


def _places() -> tuple[int, int]:
    """Return the places of the write lock and of the first reader; 0 where they are not known."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return 0, 0
    mutex, first_reader = _PLACES.get(os.uname().machine, (0, 0))
    with suppress(ValueError, OSError):
        if os.confstr("CS_GNU_LIBC_VERSION"):
            return mutex, first_reader
    return 0, first_reader  # in other C libraries a mutex begins with other things
