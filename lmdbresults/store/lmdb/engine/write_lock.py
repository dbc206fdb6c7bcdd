"""Waiting for LMDB's write lock, so that signals, deadlines, forks and other greenlets end the wait.

LMDB's lock is a mutex. Threads that wait for it sleep in C: signal handlers do not run, no deadline holds, the hub of
gevent stands still, and going to sleep and waking up takes as long as a commit. So a writer looks at the mutex first
(file/lock_file.py), and asks LMDB only when it is free:

- The threads of a process queue at a Python lock, so that at most one of them deals with other processes.
- Alone, a process only looks: 0.05 µs a write.
- Processes that have met queue at a lock of the kernel's. They try it some times awake, which makes two of them 1.7
  times as fast, and then sleep between tries. The kernel releases the lock when its process ends. A process that is
  stopped there, between the two locks, costs the others some tries: then they go on without it.

What remains is a race: another process may acquire the mutex in the fraction of a microsecond between the look and the
call. The loser sleeps in C for as long as that one transaction runs.
"""

import fcntl
import logging
import math
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from operator import attrgetter
from typing import Any, Final

from lmdbresults.errors import StoreBusy
from lmdbresults.process.fork_gate import ExclusiveWanted, gate, is_owned
from lmdbresults.process.identity import describe
from lmdbresults.store.lmdb.engine.signal_safe import Block, SpecialMethod, Steps, lend
from lmdbresults.store.lmdb.file.lock_file import UNKNOWN, LockFile

__all__ = ["WriteLock"]

logger = logging.getLogger("lmdbresults")

#: Tries while awake. With 20, two processes on two cores store 1.7 times as much as without, four 1.4 times; with 100
#: four store less.
_SPINS: Final = 20
#: Seconds of them. Where all cores are busy each try gives a time slice away, about 3 ms: one is enough then.
_SPIN_TIME: Final = 0.001
#: Seconds for which the mutex is free but the kernel's lock held, until its holder is taken to be stopped.
_IDLE_TIME: Final = 0.02
#: For how many writes other processes are expected once they were met.
_REMEMBERED: Final = 64
#: Seconds until the log tells of a wait.
_WARN_AFTER: Final = 5.0
#: Seconds that closing a file, which a fork does too, waits for other processes.
_CLOSE_TIMEOUT: Final = 1.0

#: A lock of an open file description on Linux, unlike those that a process loses as it closes any descriptor of a file.
_SET_LOCK: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None) if sys.platform == "linux" else None
#: The byte that is locked: no file is as long.
_BYTE: Final = 1 << 62
#: ``struct flock``: type, whence, start, length, process id.
_FLOCK: Final = struct.Struct("@hhqqi")
_LOCK: Final = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0)
_UNLOCK: Final = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, _BYTE, 1, 0)


class WriteLock:
    """What a thread holds when it asks LMDB for the write lock: ``with lock.threads, lock.processes:``, then `wait`.

    `acquire` does all of this, less quickly. The other attributes are guarded by the lock of the threads.
    """

    def __init__(self, path: str, timeout: float | None) -> None:
        self._path = path
        self._thread_lock = threading.RLock()
        #: Held by one thread of the process.
        self.threads: AbstractContextManager[Any] = self._thread_lock
        if timeout is not None:
            self.threads = _TimedLock(self, self._thread_lock, timeout)
        #: When the present wait for other processes ends by `StoreBusy`.
        self.deadline = math.inf
        self._nothing = threading.RLock()  # a context manager that costs nothing
        #: Held by one process: this object while other processes are expected, else nothing.
        self.processes: AbstractContextManager[Any] = self._nothing
        #: For how many writes they are expected.
        self._expected = 0
        #: Since when the kernel's lock was held and the mutex free.
        self._idle_since = math.inf
        self._lock_file: LockFile | None = None
        #: ``word[0]`` is 0 while LMDB's lock is free: then `wait` is not needed.
        self.word = UNKNOWN
        #: A descriptor of the data file; -1 if there is no lock of the kernel's.
        self._descriptor = -1

    def attach(self, lock_file: LockFile, descriptor: int) -> None:
        """Use the locks of an open file. The descriptor is one of the data file."""
        self._lock_file, self.word = lock_file, lock_file.word
        self._descriptor = descriptor if _SET_LOCK is not None else -1

    def detach(self) -> None:
        """Forget the open file."""
        self._lock_file, self.word, self._descriptor, self.processes = None, UNKNOWN, -1, self._nothing

    def is_owned(self) -> bool:
        """Return whether this thread holds the lock of the threads."""
        return is_owned(self._thread_lock)

    def acquire(self) -> Block[None]:
        """Return a context manager in which to ask LMDB for the lock."""
        return Block(self._acquire())

    def _acquire(self) -> Steps[None]:
        with self.threads, self.processes:
            if self.word[0]:
                self.wait()
            yield from lend(None)
        yield 0

    # -- other processes -----------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Return when LMDB's lock is free, and expect other processes from now on.

        Raises `StoreBusy` after the timeout, `ExclusiveWanted` to give way to a fork, what a signal handler raises.
        """
        self._expect()
        self._poll(self._is_free)

    def __enter__(self) -> None:
        """Acquire the kernel's lock, or see that its holder is stopped."""
        self._expected -= 1
        if self._expected <= 0:
            self.processes = self._nothing
        self._idle_since = math.inf
        try:
            if not self._try_kernel_lock():
                self._poll(self._try_kernel_lock)
        except BaseException:  # perhaps of a signal handler, right after the lock was acquired
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, ValueError):  # does nothing if the lock is not held
            fcntl.fcntl(self._descriptor, _SET_LOCK, _UNLOCK)  # type: ignore[arg-type]

    def _expect(self) -> None:
        if self._descriptor >= 0:
            self._expected, self.processes = _REMEMBERED, self

    def _is_free(self) -> bool:
        owner = self._lock_file.owner() if self._lock_file is not None else 0
        if owner:
            with suppress(PermissionError):  # the process of another user
                try:
                    os.kill(owner, 0)
                except ProcessLookupError:  # in a PID namespace of its own: LMDB has to sort that out
                    return True
        return not owner

    def _try_kernel_lock(self) -> bool:
        """Return whether to go on: with the lock, without one where there is none, or because its holder is stopped."""
        try:
            fcntl.fcntl(self._descriptor, _SET_LOCK, _LOCK)  # type: ignore[arg-type]
        except (BlockingIOError, PermissionError):
            pass
        except OSError:  # a file system without such locks
            self._descriptor, self.processes = -1, self._nothing
            return True
        else:
            return True
        self._expect()
        self._idle_since = math.inf if self.word[0] else min(self._idle_since, time.monotonic())
        if time.monotonic() < self._idle_since + _IDLE_TIME:
            return False
        self.processes = self._nothing
        return True

    def _poll(self, is_ready: Callable[[], bool]) -> None:
        began = now = time.monotonic()
        deadline = began + _CLOSE_TIMEOUT if gate.is_exclusive() else self.deadline
        tries, warn_at = 0, began + _WARN_AFTER
        while not is_ready():
            tries, now = tries + 1, time.monotonic()
            if tries < _SPINS and now < began + _SPIN_TIME:
                os.sched_yield()
                continue
            if gate.is_wanted():
                raise ExclusiveWanted
            if now >= deadline:
                raise StoreBusy(self.describe(now - began))
            if now >= warn_at:
                logger.warning("%s", self.describe(now - began))
                warn_at = math.inf
            time.sleep(_pause(now - began))

    def describe(self, seconds: float) -> str:
        """Return the sentences for a wait that has lasted for so long."""
        owner = self._lock_file.owner() if self._lock_file is not None else 0
        return (
            f"{self._path}: a write has waited for {seconds:.1f} seconds for other write transactions"
            f"{f', now that of {describe(owner)}' if owner else ''}. "
            "End a process that hangs, make transactions shorter, or raise lock_timeout."
        )


def _pause(waited: float) -> float:
    """Return how long to sleep until the next try: up to a millisecond at first, then a thousandth of the wait."""
    return min(max(waited / 8, 0.00005), max(waited / 1000, 0.0005), 0.02)


class _TimedLock:
    """The lock of the threads, with a timeout."""

    def __init__(self, owner: WriteLock, lock: threading.RLock, timeout: float) -> None:
        self._owner, self._lock, self._timeout = owner, lock, timeout
        self._exit = lock.__exit__

    def __enter__(self) -> None:
        deadline = time.monotonic() + self._timeout
        try:
            if not self._lock.acquire(timeout=self._timeout):
                raise StoreBusy(self._owner.describe(self._timeout))
            self._owner.deadline = deadline
        except BaseException:  # perhaps of a signal handler, right after the lock was acquired
            if is_owned(self._lock):
                self._lock.release()
            raise

    __exit__ = SpecialMethod(attrgetter("_exit"))
