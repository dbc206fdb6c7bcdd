"""A lock of the process: transactions share it; fork, resize and close of a file hold it exclusively.

There is one per process, because a fork concerns every open file. Shared access is the hot path: each thread has a
lock of its own, which never contends (0.3 µs; a counter under a condition: 1.5 µs). Exclusive access takes the locks of
all threads.

Lock order: the list of threads, their locks, the writer lock of a file, LMDB's own lock.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable
from os import getpid
from typing import Final, Protocol

from lmdbresults.errors import NestedTransaction

__all__ = ["ExclusiveWanted", "gate", "is_owned"]

#: Seconds that a fork waits for transactions of other threads. A transaction that does not end may be waiting for a
#: lock that is held for the fork, such as that of a thread pool; then the stores of the child are unusable.
_FORK_TIMEOUT: Final = 10.0


class ExclusiveWanted(BaseException):
    """Raised in a long wait under shared access while another thread waits for exclusive access.

    The operation must end, call `ForkGate.give_way`, and start again.
    """


class ForkAware(Protocol):
    """An object that is called in the child of each fork."""

    def after_fork_in_child(self) -> None:
        """Start with new state; what belongs to the parent must not be touched."""


class Closable(Protocol):
    """An object that a child must not inherit as it is."""

    def close(self) -> None:
        """Close it; it can be opened again. No transaction is open in this process."""


class _Thread(threading.local):
    """The state of a thread; under gevent and eventlet, of a greenlet."""

    lock: threading.RLock
    """Held during a transaction."""
    is_exclusive = False
    """Whether the thread has exclusive access, or waits for it."""
    is_forking = False
    """Whether it has that for a fork."""

    def __init__(self, list_lock: threading.RLock, locks: "weakref.WeakSet[threading.RLock]") -> None:
        with list_lock:
            self.lock = threading.RLock()
            locks.add(self.lock)


class ForkGate:
    """A lock with cheap shared and expensive exclusive access."""

    def __init__(self, fork_timeout: float = _FORK_TIMEOUT) -> None:
        self.fork_timeout = fork_timeout
        self._watchers: weakref.WeakSet[ForkAware] = weakref.WeakSet()
        self._closed: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork_in_parent,
                after_in_child=self.after_fork_in_child,
            )
            # A second time, in case a signal handler raises as the first call begins: nothing else releases the locks.
            os.register_at_fork(after_in_parent=self._after_fork_in_parent)

    def _reset(self) -> None:
        self._pid = os.getpid()
        #: The pid while shared access is open; 0 while a thread has exclusive access or waits for it.
        self._open_pid = self._pid
        #: Guards the set below; held during exclusive access, so that no thread can join.
        self._list_lock = threading.RLock()
        self._locks: weakref.WeakSet[threading.RLock] = weakref.WeakSet()
        self._thread = _Thread(self._list_lock, self._locks)

    def watch_forks(self, watcher: ForkAware) -> None:
        """Call the watcher in the child of every fork, for as long as it lives."""
        self._watchers.add(watcher)

    def close_before_forks(self, closable: Closable) -> None:
        """Call its ``close()`` before every fork, for as long as it lives."""
        self._closed.add(closable)

    # -- shared access -------------------------------------------------------------------------------------------

    def try_shared(self) -> "threading.RLock | None":
        """Return the lock of this thread, or None if a rare case needs `shared` to decide. The hot path."""
        lock = self._thread.lock
        if lock._is_owned() or getpid() != self._open_pid:  # type: ignore[attr-defined]
            return None
        return lock

    def shared(self) -> "threading.RLock":
        """Return the lock that this thread must hold during a transaction.

        Raises `NestedTransaction` in a signal handler that interrupts its thread as that closes a file or forks.
        """
        self.detect_fork()
        if not self._open_pid and self._thread.is_exclusive:
            raise NestedTransaction("This thread is closing a file or forking: a signal handler cannot use stores now.")
        return self._thread.lock

    def is_exclusive(self) -> bool:
        """Return whether this thread has exclusive access."""
        return self._thread.is_exclusive

    def is_wanted(self) -> bool:
        """Return whether another thread waits for exclusive access. See `ExclusiveWanted`."""
        return not self._open_pid and not self._thread.is_exclusive

    def give_way(self) -> None:
        """Return when no thread has or awaits exclusive access. This thread must not hold shared access."""
        with self._list_lock:
            pass

    # -- exclusive access ----------------------------------------------------------------------------------------

    def exclusive(self, work: Callable[[], object], timeout: float = -1) -> bool:
        """Call ``work`` when no transaction is open in this process, and keep new ones out meanwhile.

        Returns False, without calling it, if that takes longer than ``timeout`` seconds (-1: wait). Raises
        `NestedTransaction` if the caller is inside a transaction.
        """
        self.refuse_in_transaction()
        try:
            has_access = self._acquire_all(timeout)
            if has_access:
                work()
            return has_access
        finally:
            try:
                self._release_all()
            finally:  # again, if a signal handler has raised during the first call, as Celery's soft time limit does
                if self._thread.is_exclusive:
                    self._release_all()

    def refuse_in_transaction(self) -> None:
        """Raise `NestedTransaction` if this thread is in a transaction, or has or awaits exclusive access."""
        self.detect_fork()
        if self._thread.is_exclusive or is_owned(self._thread.lock):
            raise NestedTransaction(
                "This must wait until no transaction is open in the process, so it cannot be done inside one: "
                "leave the transaction first."
            )

    def _acquire_all(self, timeout: float) -> bool:
        self._thread.is_exclusive = True
        if not self._list_lock.acquire(timeout=timeout):
            return False
        self._open_pid = 0
        deadline = time.monotonic() + timeout
        return all(
            lock.acquire(timeout=timeout if timeout < 0 else max(deadline - time.monotonic(), 0))
            for lock in list(self._locks)
        )

    def _release_all(self) -> None:
        """Release what this thread has acquired, be it all locks or some."""
        for lock in list(self._locks):
            if is_owned(lock):
                lock.release()
        if is_owned(self._list_lock):
            self._open_pid = self._pid
            self._list_lock.release()
        self._thread.is_exclusive = False

    # -- forks ---------------------------------------------------------------------------------------------------

    def detect_fork(self) -> None:
        """Reset if this is a child of a fork that Python's hooks have not seen."""
        if os.getpid() != self._pid:
            self.after_fork_in_child()

    def _before_fork(self) -> None:
        try:
            self.refuse_in_transaction()
        except NestedTransaction:
            return  # nothing can be closed, so the stores of the child are unusable
        self._thread.is_forking = True
        if self._acquire_all(self.fork_timeout):
            for closable in list(self._closed):
                closable.close()

    def _after_fork_in_parent(self) -> None:
        if self._thread.is_forking:  # not if a signal handler forks while its thread has access for another reason
            try:
                self._release_all()
            finally:
                if self._thread.is_exclusive:
                    self._release_all()
            self._thread.is_forking = False

    def after_fork_in_child(self) -> None:
        """Reset this object and all watchers in a child."""
        self._reset()
        for watcher in list(self._watchers):
            watcher.after_fork_in_child()


def is_owned(lock: threading.RLock) -> bool:
    """Return whether this thread holds a lock."""
    owned: bool = lock._is_owned()  # type: ignore[attr-defined]
    return owned


gate = ForkGate()
