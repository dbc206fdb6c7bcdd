"""Gives mapped pages of data files back, so that a process does not look as large as the files that it reads.

LMDB reads through a map, and the kernel counts each page that was read as memory of the process, although it can take
the page away at any moment. Limits like Celery's `worker_max_memory_per_child` compare that sum. A page that is given
back stays in the cache of the system: reading it again takes a fraction of a microsecond.
"""

import os
from contextlib import suppress
from typing import Final

__all__ = ["mapped_memory"]

#: Bytes that are read until the memory of the process is looked at, which takes 0.01 ms.
_LOOK_EVERY: Final = 32 << 20
#: Bytes of mapped files, shared libraries included, up to which nothing is given back.
_MOST: Final = 64 << 20
_MADV_DONTNEED: Final = 4


class MappedMemory:
    """The mapped pages of all data files that are open in this process."""

    def __init__(self) -> None:
        #: The files that are open.
        self.paths: set[str] = set()
        #: Bytes that were read since memory was looked at. Threads may lose some of each other's, which does no harm.
        self._read = 0

    def note_read(self, size: int) -> None:
        """Note that about so many bytes were read, and give pages back if there are many.

        Call it inside a transaction: then no thread of the process unmaps a file meanwhile.
        """
        self._read += size
        if self._read >= _LOOK_EVERY:
            self._read = 0
            with suppress(OSError, ImportError, AttributeError, ValueError):  # not Linux
                if _resident() > _MOST:
                    self._give_back()

    def _give_back(self) -> None:
        import ctypes  # rarely needed

        advise = ctypes.CDLL(None).madvise
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        paths = {os.fsencode(path) for path in tuple(self.paths)}
        with open("/proc/self/maps", "rb") as maps:
            for line in maps:
                place, kind, *_, path = line.rstrip(b"\n").split(maxsplit=5)
                # A shared map that cannot be written to: nothing is lost, whatever it belongs to.
                if kind == b"r--s" and path in paths:
                    first, end = (int(address, 16) for address in place.split(b"-"))
                    advise(first, end - first, _MADV_DONTNEED)


def _resident() -> int:
    """Return how many bytes of mapped files count as memory of this process."""
    with open("/proc/self/statm") as fields:
        return int(fields.read().split()[2]) * os.sysconf("SC_PAGE_SIZE")


mapped_memory = MappedMemory()
