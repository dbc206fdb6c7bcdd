"""The gate between transactions and what must not happen during one: fork, resize, close.

Every transaction passes the gate shared; whoever resizes or closes an environment, or forks, holds it exclusively.
There is one gate a process, because a fork concerns every environment at once. Shared is the hot side: it takes a
lock that no other thread uses, so that entering never contends (measured: 0.3 µs against 1.5 µs for a counter under
a condition). Exclusive takes the locks of all threads.

Order of locks: the register, the members, then the writer lock of an environment, then LMDB's own.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from lmdbresults.errors import NestedTransaction

__all__ = ["gate", "is_mine"]


#: Seconds that a fork waits for the transactions of other threads. One that does not end may be waiting itself, for a
#: lock that is held for the fork; then the child will find its stores unusable.
_FORK_PATIENCE: Final = 10.0


class ForkAware(Protocol):
    """What has to be told about forks."""

    def before_fork(self) -> None:
        """Let go of everything that a child must not inherit. No transaction is open in this process."""

    def after_fork_in_child(self) -> None:
        """Start anew; nothing that belonged to the parent may be touched."""


class _Own(threading.local):
    """What belongs to a thread (under gevent and eventlet: to a greenlet)."""

    lock: "threading.RLock | None" = None
    """Its lock, once it has had a transaction."""
    is_alone = False
    """Whether it keeps all others out, or is about to."""
    is_forking = False
    """Whether it does so for a fork."""


class Gate:
    """A lock that many may share, cheaply, and one may hold alone, dearly."""

    def __init__(self) -> None:
        self._watchers: weakref.WeakSet[ForkAware] = weakref.WeakSet()
        self._start_anew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before_fork,
                after_in_parent=self._after_fork_in_parent,
                after_in_child=self.after_fork_in_child,
            )
            # Once more, for a signal handler that raises as the first one begins: nothing else gives back the locks.
            os.register_at_fork(after_in_parent=self._after_fork_in_parent)

    def _start_anew(self) -> None:
        self.pid = os.getpid()
        #: Whether some thread keeps all others out.
        self.is_taken = False
        #: Guards the set of members; held all the while somebody is alone, so that no new member can join.
        self._register = threading.RLock()
        self._members: weakref.WeakSet[threading.RLock] = weakref.WeakSet()
        self._own = _Own()

    def watch_forks(self, watcher: ForkAware) -> None:
        """Call the watcher around every fork from now on, for as long as it lives."""
        self._watchers.add(watcher)

    def shared(self) -> "threading.RLock":
        """Return the lock that the present thread holds during a transaction."""
        lock = self._own.lock
        if lock is None:
            with self._register:
                lock = threading.RLock()
                self._members.add(lock)
            self._own.lock = lock
        return lock

    def at_rest(self) -> "threading.RLock | None":
        """Return the lock that the present thread holds during a transaction, if nothing speaks against one now.

        None: it is in a transaction, or alone, or has had none yet, or nobody has noticed a fork; see which it is.
        """
        lock = self._own.lock
        if lock is None or lock._is_owned() or self.is_taken or os.getpid() != self.pid:  # type: ignore[attr-defined]
            return None
        return lock

    def refuse_inside(self) -> None:
        """Raise `NestedTransaction` if the present thread is inside a transaction, or has everybody wait already."""
        self.notice_fork()
        if self._own.is_alone or is_mine(self.shared()):
            raise NestedTransaction(
                "This has to wait until no transaction is open in the process, so it cannot happen inside one: "
                "leave the transaction first."
            )

    def notice_fork(self) -> None:
        """Begin anew if this is a child of a fork that Python's hooks have not seen."""
        if os.getpid() != self.pid:
            self.after_fork_in_child()

    def refuse_while_alone(self) -> None:
        """Raise `NestedTransaction` if a signal handler comes while its thread opens, closes or forks."""
        if self.is_taken and self._own.is_alone:
            raise NestedTransaction("This thread is closing or forking: a signal handler cannot use a store now.")

    def alone(self, work: Callable[[], object], timeout: float = -1) -> bool:
        """Wait until no transaction is open in this process, then do the work while none can begin.

        Returns False, and has not done it, if that takes longer than about ``timeout`` seconds (-1: wait). Raises
        `NestedTransaction` if the caller is inside a transaction: two who waited like that would wait for each other.
        """
        self.refuse_inside()
        try:
            is_alone = self._take_all(timeout)
            if is_alone:
                work()
            return is_alone
        finally:
            try:
                self._give_all_back()
            finally:  # once more, if a signal handler has raised in its midst, as Celery's soft time limit does
                self._give_all_back()

    def _take_all(self, timeout: float = -1) -> bool:
        self._own.is_alone = True
        if not self._register.acquire(timeout=timeout):
            return False
        self.is_taken = True
        until = time.monotonic() + timeout
        # The members are listed only once the register is held, which keeps new ones out.
        return all(
            lock.acquire(timeout=timeout if timeout < 0 else max(until - time.monotonic(), 0))
            for lock in list(self._members)
        )

    def _give_all_back(self) -> None:
        """Release what this thread has taken, be it all or not."""
        for lock in list(self._members):
            if is_mine(lock):
                lock.release()
        if is_mine(self._register):
            self.is_taken = False
            self._register.release()
        self._own.is_alone = False

    # -- fork ----------------------------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        try:
            self.refuse_inside()
        except NestedTransaction:
            return  # nothing can be let go, so the child will find its stores unusable
        self._own.is_forking = True
        if self._take_all(_FORK_PATIENCE):
            self._tell(lambda watcher: watcher.before_fork())

    def _after_fork_in_parent(self) -> None:
        if self._own.is_forking:  # not if a signal handler forks while its thread is alone for another reason
            try:
                self._give_all_back()
            finally:
                self._give_all_back()
            self._own.is_forking = False

    def after_fork_in_child(self) -> None:
        """Begin anew in a child."""
        self._start_anew()
        self._tell(lambda watcher: watcher.after_fork_in_child())

    def _tell(self, message: Callable[[ForkAware], None]) -> None:
        for watcher in list(self._watchers):
            message(watcher)


def is_mine(lock: threading.RLock) -> bool:
    """Return whether the present thread holds a lock."""
    owned: bool = lock._is_owned()  # type: ignore[attr-defined]
    return owned


gate = Gate()
