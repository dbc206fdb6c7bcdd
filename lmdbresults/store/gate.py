"""The gate between transactions and what must not happen during one: fork, resize, close.

Every transaction passes the gate shared; whoever resizes or closes an environment, or forks, holds it exclusively.
There is one gate a process, because a fork concerns every environment at once. Shared is the hot side: it takes a
lock that no other thread uses, so that entering never contends (measured: 0.3 µs against 1.5 µs for a counter under
a condition). Exclusive takes the locks of all threads.

Order of locks: the register, the members, then the writer lock of an environment, then LMDB's own.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from lmdbresults.errors import NestedTransaction

__all__ = ["gate"]


class ForkAware(Protocol):
    """What has to be told about forks."""

    def before_fork(self) -> None:
        """Let go of everything that a child must not inherit. No transaction is open in this process."""

    def after_fork_in_child(self) -> None:
        """Start anew; nothing that belonged to the parent may be touched."""


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

    def _start_anew(self) -> None:
        self.pid = os.getpid()
        #: Guards the set of members; held all the while somebody is alone, so that no new member can join.
        self._register = threading.RLock()
        self._members: weakref.WeakSet[threading.RLock] = weakref.WeakSet()
        #: The present thread's (under gevent and eventlet: greenlet's) own lock.
        self._local = threading.local()

    def watch_forks(self, watcher: ForkAware) -> None:
        """Call the watcher around every fork from now on, for as long as it lives."""
        self._watchers.add(watcher)

    def shared(self) -> "threading.RLock":
        """Return the lock that the present thread holds during a transaction."""
        try:
            lock: threading.RLock = self._local.lock
        except AttributeError:
            with self._register:
                lock = threading.RLock()
                self._members.add(lock)
            self._local.lock = lock
        return lock

    def is_shared_by_me(self) -> bool:
        """Return whether the present thread is inside a transaction."""
        return self.shared()._is_owned()  # type: ignore[attr-defined,no-any-return]

    @contextmanager
    def exclusive(self, timeout: float = -1) -> Iterator[bool]:
        """Wait until no transaction is open in this process, and let none begin inside the block.

        Yields False, holding nothing, if one lock takes longer than ``timeout`` seconds (-1: wait). Raises
        `NestedTransaction` if the caller is inside a transaction: two who waited like that would wait for each other.
        """
        if self.is_shared_by_me():
            raise NestedTransaction(
                "This has to wait until no transaction is open in the process, so it cannot happen inside one: "
                "leave the transaction first."
            )
        with ExitStack() as held:
            yield self._take_all(held, timeout)

    def _take_all(self, held: ExitStack, timeout: float = -1) -> bool:
        def take(lock: "threading.RLock") -> bool:
            taken = lock.acquire(timeout=timeout)
            if taken:
                held.callback(lock.release)
            return taken

        # The members are listed only once the register is held, which keeps new ones out.
        if take(self._register) and all(take(lock) for lock in list(self._members)):
            return True
        held.close()
        return False

    # -- fork ----------------------------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        if self.is_shared_by_me():
            return  # a fork inside a transaction: nothing can be let go, so the child will find its stores unusable
        self._local.forking = ExitStack()
        self._take_all(self._local.forking)
        self._tell(lambda watcher: watcher.before_fork())

    def _after_fork_in_parent(self) -> None:
        held = self._local.__dict__.pop("forking", None)
        if held is not None:
            held.close()

    def after_fork_in_child(self) -> None:
        """Begin anew in a child. Called by Python, or by whoever notices that `pid` is no longer the process's."""
        self._start_anew()
        self._tell(lambda watcher: watcher.after_fork_in_child())

    def _tell(self, message: Callable[[ForkAware], None]) -> None:
        for watcher in list(self._watchers):
            message(watcher)


gate = Gate()
