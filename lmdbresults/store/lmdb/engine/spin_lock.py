"""The way to LMDB's write lock where several processes write: some tries while awake, before the sleep.

LMDB's lock is a mutex whose waiters sleep. Going to sleep and waking takes as long as a commit, on a virtual machine
above all, and whoever is woken often finds the lock taken again. So whoever writes first tries for a lock of the
kernel's, and gives the processor away after each try. That lock only orders who comes when: whoever does not get it
goes on to LMDB's lock all the same, and so does whoever does not know of it. It goes with its process, however that
ends.

A process that writes alone does nothing of this: that others write shows by the numbers of commits.
"""

import fcntl
import os
import struct
import sys
import threading
import time
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

__all__ = ["Entrance"]

#: With 20, two processes on two cores store 1.7 times as much as without, four 1.4 times; with 100 four store less.
_TRIES: Final = 20
#: Seconds of trying. Where all cores are busy each try gives a time slice away, about 3 ms: one is enough then.
_LONGEST: Final = 0.001
#: For how many commits others are expected once they have been met.
_REMEMBERED: Final = 64

#: A lock of an open file description on Linux, unlike those that a process loses as it closes any descriptor of a file.
_SET_LOCK: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None) if sys.platform == "linux" else None
#: The byte that is locked: no file is as long.
_BYTE: Final = 1 << 62
#: ``struct flock``: type, whence, start, length, process id.
_FLOCK: Final = struct.Struct("@hhqqi")
_TAKE: Final = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0)
_GIVE_BACK: Final = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, _BYTE, 1, 0)


class Entrance:
    """What a process does before it asks for LMDB's write lock. Guarded by the writer lock of its environment."""

    def __init__(self, descriptor: int = -1) -> None:
        #: Of the data file; -1 where there is no such lock.
        self._descriptor = descriptor if _SET_LOCK is not None else -1
        self._open_way = threading.RLock()  # a block that costs nothing
        #: What to enter before LMDB's lock is asked for: this, or nothing.
        self.way: AbstractContextManager[Any] = self._open_way
        #: The number of the next commit, unless somebody else comes in between.
        self.next = -1
        self._left = 0
        self._is_held = False

    def meet_others(self) -> None:
        """Expect other processes for a while, as one has written since this one has."""
        if self._descriptor >= 0 and self.next >= 0:
            self._left, self.way = _REMEMBERED, self

    def __enter__(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self.way = self._open_way
        try:
            self._is_held = self._try()
        except BaseException:  # of a signal handler, which may come when the lock is had already
            self._give_back()
            raise

    def __exit__(self, *_: object) -> None:
        if self._is_held:
            self._give_back()

    def _try(self) -> bool:
        until = time.perf_counter() + _LONGEST
        for _ in range(_TRIES):
            try:
                fcntl.fcntl(self._descriptor, _SET_LOCK, _TAKE)  # type: ignore[arg-type]
            except (BlockingIOError, PermissionError):
                os.sched_yield()
            except OSError:  # a file system without such locks
                self._descriptor, self.way = -1, self._open_way
                return False
            else:
                return True
            if time.perf_counter() > until:
                return False
        return False

    def _give_back(self) -> None:
        self._is_held = False
        with suppress(OSError):
            fcntl.fcntl(self._descriptor, _SET_LOCK, _GIVE_BACK)  # type: ignore[arg-type]
