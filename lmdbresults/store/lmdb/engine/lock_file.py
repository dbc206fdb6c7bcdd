"""LMDB's lock file, read to see which process holds the write lock."""

import mmap
import os
import sys
from contextlib import suppress
from typing import Final

__all__ = ["UNKNOWN", "LockFile"]

#: Where the mutex of the write lock lies, by machine: after a header of 24 bytes and another mutex, in lines of 64.
_PLACES: Final = {"x86_64": 64, "aarch64": 128}
#: The bits of the first word of a mutex that hold the thread id of its owner. Others say that its owner has died, and
#: that threads sleep for it.
_OWNER: Final = 0x3FFFFFFF
_SIZE: Final = 256

#: The word of a lock of which nothing can be seen: as if it were always free.
UNKNOWN: Final = memoryview(bytes(4)).cast("I")


class LockFile:
    """The lock file of an LMDB environment that is open in this process. Close it only after the environment.

    Closing any descriptor of it takes the locks from an environment that is open, as POSIX has it.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(f"{path}-lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._map: mmap.mmap | None = None
        #: The word of the write lock: 0 while it is free. Looking at it takes 0.05 µs.
        self.word = UNKNOWN
        place = _place()
        if place:
            self._map = mmap.mmap(self._descriptor, _SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
            self.word = memoryview(self._map)[place : place + 4].cast("I")

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self.word = UNKNOWN
        mapped, self._map = self._map, None
        if mapped is not None:
            mapped.close()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def owner(self) -> int:
        """Return the id of the thread that holds the write lock, in whichever process; 0 if it is free."""
        return self.word[0] & _OWNER


def _place() -> int:
    """Return the place of the word; 0 if this system is not known to have one that can be read."""
    with suppress(AttributeError, ValueError, OSError):
        if sys.platform == "linux" and sys.maxsize > 1 << 32 and os.confstr("CS_GNU_LIBC_VERSION"):
            return _PLACES.get(os.uname().machine, 0)
    return 0
