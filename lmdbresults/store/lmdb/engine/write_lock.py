"""Waits for LMDB's write lock that signals, deadlines and forks can end, and in which other greenlets run.

LMDB's lock is a mutex. A thread that waits for it sleeps in C: no signal handler runs, no deadline applies, the hub of
gevent is blocked, and going to sleep and waking up takes as long as a commit. So a writer reads the word of the mutex
first (file/lock_file.py), and asks LMDB only if the mutex is free:

- The threads of a process acquire a Python lock first, so at most one of them competes with other processes.
- Without contention, a process only reads the word: 0.05 µs per write.
- Processes that contend also acquire a kernel lock (fcntl). They spin a few times, which lets two processes store 1.7
  times as much, and then sleep between tries. The kernel releases the lock when its holder exits. If the holder is
  stopped before it has the mutex, the others go on without the kernel lock after `_IDLE_TIME`.

A race remains: another process may acquire the mutex in the fraction of a microsecond between the read and the call.
The loser sleeps in C until that one transaction ends.
"""

import fcntl
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lmdbresults.errors import StoreBusy
from lmdbresults.process.fork_gate import ExclusiveWanted, gate, is_owned
from lmdbresults.process.identity import describe
from lmdbresults.store.lmdb.engine.signal_safe import SpecialMethod
from lmdbresults.store.lmdb.file import reader_table
from lmdbresults.store.lmdb.file.byte_lock import SET_LOCK, request
from lmdbresults.store.lmdb.file.lock_file import UNKNOWN, LockFile, is_free, owner_of

if TYPE_CHECKING:
    import lmdb

__all__ = ["WriteLock"]

Result = TypeVar("Result")

logger = logging.getLogger("lmdbresults")

#: Tries before the first sleep. With 20, two processes on two cores store 1.7 times as much as without, and four
#: processes 1.4 times; with 100, four processes store less.
_SPINS: Final = 20
#: Seconds after which spinning ends anyway. If all cores are busy, each try yields a time slice of about 3 ms.
_SPIN_TIME: Final = 0.001
#: The holder of the kernel lock counts as stopped once the mutex has been free for so many seconds meanwhile.
_IDLE_TIME: Final = 0.02
#: For how many writes a process acquires the kernel lock after it has met contention.
_CONTENDED_WRITES: Final = 64
#: Seconds until a wait is logged.
_WARN_AFTER: Final = 5.0
#: Seconds that closing a file waits for other processes. A fork closes files too.
_CLOSE_TIMEOUT: Final = 1.0

#: The byte that is locked. No file is that long.
_BYTE: Final = 1 << 62
_LOCK: Final = request(fcntl.F_WRLCK, _BYTE)
_UNLOCK: Final = request(fcntl.F_UNLCK, _BYTE)


class WriteLock:
    """The locks that a thread holds when it asks LMDB for the write lock.

    Use `run`; or ``with lock.threads, lock.processes:``, and `wait` inside if ``word[0]`` is not 0. The lock of the
    threads guards the other attributes.
    """

    def __init__(self, path: str, timeout: float | None) -> None:
        self._path, self._timeout = path, timeout
        #: The lock of the threads: held by one thread of the process.
        self.thread_lock = threading.RLock()
        #: The same, with the timeout.
        self.threads: AbstractContextManager[Any] = self.thread_lock
        if timeout is not None:
            self.threads = _TimedLock(self, self.thread_lock, timeout)
        #: When the present wait for other processes ends by `StoreBusy`.
        self.deadline = math.inf
        self._no_lock = threading.RLock()  # never contended: stands for no lock, and is the fastest context manager
        #: The lock of the processes: this object, which acquires the kernel lock, after contention; else no lock.
        self.processes: AbstractContextManager[Any] = self._no_lock
        #: For how many more writes this process acquires the kernel lock.
        self._expected = 0
        #: Since when the kernel lock has been held by another process while the mutex was free.
        self._idle_since = math.inf
        #: The words of LMDB's mutexes, for writers and for the reader table: ``word[0]`` is 0 while one is free.
        self.word = self.reader_word = UNKNOWN
        #: A descriptor of the data file; -1 if there are no kernel locks.
        self._descriptor = -1

    def attach(self, lock_file: LockFile, descriptor: int) -> None:
        """Use the locks of an open file. The descriptor is one of the data file."""
        self.word, self.reader_word = lock_file.word, lock_file.reader_word
        self._descriptor = descriptor if SET_LOCK is not None else -1

    def detach(self) -> None:
        """Forget the open file."""
        self.word = self.reader_word = UNKNOWN
        self._descriptor, self.processes = -1, self._no_lock

    def run(self, handle: "lmdb.Environment", step: Callable[..., Result], *args: Any) -> Result:
        """Return ``step(txn, *args)``, run in a write transaction of the open file. It must not change anything."""
        with self.threads, self.processes:
            if self.word[0]:
                self.wait()
            with handle.begin(write=True) as txn:
                return step(txn, *args)

    # -- other processes -----------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Wait until LMDB's lock is free. The next writes expect contention.

        Raises `StoreBusy` after the timeout, `ExclusiveWanted` if a fork waits, and whatever a signal handler raises.
        """
        self._expect()
        self._poll(lambda: is_free(self.word), self.deadline, self.describe)

    def wait_for_reader_table(self) -> None:
        """Wait until a read transaction can begin: another process has the reader table locked.

        LMDB holds that lock for 0.05 µs, unless the process is stopped meanwhile. Raises like `wait`, and `StoreBusy`
        after some seconds even if there is no timeout.
        """
        timeout = reader_table.LOCK_PATIENCE if self._timeout is None else self._timeout
        self._poll(lambda: is_free(self.reader_word), time.monotonic() + timeout, self._describe_reader)

    def __enter__(self) -> None:
        """Acquire the kernel lock, or go on without it if its holder is stopped."""
        self._expected -= 1
        if self._expected <= 0:
            self.processes = self._no_lock
        self._idle_since = math.inf
        try:
            if not self._try_kernel_lock():
                self._poll(self._try_kernel_lock, self.deadline, self.describe)
        except BaseException:  # a signal handler may have raised right after the lock was acquired
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, ValueError):  # does nothing if the lock is not held
            fcntl.fcntl(self._descriptor, SET_LOCK, _UNLOCK)  # type: ignore[arg-type]

    def _expect(self) -> None:
        if self._descriptor >= 0:
            self._expected, self.processes = _CONTENDED_WRITES, self

    def _try_kernel_lock(self) -> bool:
        """Return True with the lock held, if the file system has no such locks, or if the holder is stopped."""
        try:
            fcntl.fcntl(self._descriptor, SET_LOCK, _LOCK)  # type: ignore[arg-type]
        except (BlockingIOError, PermissionError):
            pass
        except OSError:  # a file system without such locks
            self._descriptor, self.processes = -1, self._no_lock
            return True
        else:
            return True
        self._expect()
        self._idle_since = math.inf if self.word[0] else min(self._idle_since, time.monotonic())
        if time.monotonic() < self._idle_since + _IDLE_TIME:
            return False
        self.processes = self._no_lock
        return True

    def _poll(self, is_ready: Callable[[], bool], deadline: float, describe: Callable[[float], str]) -> None:
        began = now = time.monotonic()
        if gate.is_exclusive():
            deadline = began + _CLOSE_TIMEOUT
        tries, warn_at = 0, began + _WARN_AFTER
        while not is_ready():
            tries, now = tries + 1, time.monotonic()
            if tries < _SPINS and now < began + _SPIN_TIME:
                os.sched_yield()
                continue
            if gate.is_wanted():
                raise ExclusiveWanted
            if now >= deadline:
                raise StoreBusy(describe(now - began))
            if now >= warn_at:
                logger.warning("%s", describe(now - began))
                warn_at = math.inf
            time.sleep(_pause(now - began))

    def describe(self, seconds: float) -> str:
        """Return the message about a wait of so many seconds."""
        owner = owner_of(self.word)
        return (
            f"{self._path}: a write has waited for {seconds:.1f} seconds for other write transactions"
            f"{f', now that of {describe(owner)}' if owner else ''}. "
            "End a process that hangs, make transactions shorter, or "
            f"{'set lock_timeout, after which a write fails' if self._timeout is None else 'raise lock_timeout'}."
        )

    def _describe_reader(self, seconds: float) -> str:
        return (
            f"{self._path}: a read has waited for {seconds:.1f} seconds to begin, because "
            f"{describe(owner_of(self.reader_word))} was stopped as it began to read. Continue or end it."
        )


def _pause(waited: float) -> float:
    """Return how long to sleep until the next try: up to a millisecond at first, then a thousandth of the wait."""
    return min(max(waited / 8, 0.00005), max(waited / 1000, 0.0005), 0.02)


class _TimedLock:
    """The lock of the threads with a timeout, which also sets the deadline for other processes."""

    def __init__(self, owner: WriteLock, lock: threading.RLock, timeout: float) -> None:
        self._owner, self._lock, self._timeout = owner, lock, timeout
        self._exit = lock.__exit__

    def __enter__(self) -> None:
        deadline = time.monotonic() + self._timeout
        try:
            if not self._lock.acquire(timeout=self._timeout):
                raise StoreBusy(self._owner.describe(self._timeout))
            self._owner.deadline = deadline
        except BaseException:  # a signal handler may have raised right after the lock was acquired
            if is_owned(self._lock):
                self._lock.release()
            raise

    __exit__ = SpecialMethod(attrgetter("_exit"))
