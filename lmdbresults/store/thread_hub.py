"""Waiting in threads and greenlets: they share one subscription, which one of them reads for all.

The first thread that waits reads; when it leaves, another takes over. So there is no background thread, and a thread
that waits alone is woken by the socket itself.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final

from lmdbresults.process.fork_gate import gate, is_owned
from lmdbresults.store import following
from lmdbresults.store.following import Hub, Source, Values, Wait, closed_while_waiting

__all__ = ["ThreadHub", "ThreadWait"]

#: Seconds after which a thread that sleeps tries to read, should an exception have kept the reader from waking it.
_LONGEST_SLEEP: Final = 30.0
#: Seconds that `ThreadHub.close` waits for the reader to leave.
_CLOSING_PATIENCE: Final = 1.0


class ThreadWait(Wait, Iterator[Values]):
    """The wait of one thread, or greenlet, for a ``for`` loop."""

    _hub: "ThreadHub"

    def __init__(
        self,
        hub: "ThreadHub",
        keys: Collection[bytes],
        until: float = math.inf,
        *,
        every_change: bool = False,
        interval: float = math.inf,
        on_interval: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(hub, keys, until, every_change, interval, on_interval)
        #: Released to wake the thread: a semaphore of one. Waking is a single step in C, so a signal handler may wake
        #: the thread that it has interrupted; `threading.Event` takes a lock of its own for that.
        self._bell = threading.Lock()
        self._bell.acquire()
        #: Whether it is among the waiting threads of the hub.
        self.is_waiting = False

    def __next__(self) -> Values:
        if self._keys is not None:
            return self._begin(self._keys)
        if self._has_ended:
            raise StopIteration
        self._hub.wait(self, self._next_look())
        return self._take()

    def close(self, *error: object) -> None:
        if self.is_waiting:  # a signal handler has raised while the thread left
            self._hub.leave(self)
        super().close()

    __exit__ = close

    def sleep(self, seconds: float) -> None:
        """Sleep until `wake`, which may have come before."""
        self._bell.acquire(timeout=max(seconds, 0))

    def wake(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:  # it is released already
            return


class ThreadHub(Hub):
    """The waiting threads of one process. A child begins without any."""

    def __init__(self, store: Source, chores: Callable[[], object]) -> None:
        super().__init__(store, chores)
        gate.watch_forks(self)

    def _reset(self) -> None:
        super()._reset()
        #: Held by the thread that reads. Reentrant, because a signal handler may wait while its thread reads; and it
        #: knows its owner, so that an exception at any instruction does not leave it held.
        self._reading = threading.RLock()
        self._reader: ThreadWait | None = None
        #: The reader, while there is nothing to read and it just sleeps.
        self._dozing: ThreadWait | None = None
        #: Whether the reader was made to leave, for its chores.
        self._is_interrupted = False
        #: The threads that wait, the reader included.
        self._waiting: set[ThreadWait] = set()

    def after_fork_in_child(self) -> None:
        """Forget the threads of the parent."""
        self._reset()

    def wait(self, waiter: ThreadWait, until: float) -> None:
        """Sleep until a waiter has news, or ``until``, or until there may be chores.

        Raises `StoreClosed` once the hub is closed.
        """
        self._chores()
        if waiter.keys and waiter.generation is not self.generation:  # it began before a fork
            self._deliver(self.follow(waiter, waiter.keys))
        is_nested = self._reader is not None and is_owned(self._reading)  # in a signal handler
        # The order matters: first among the waiting, then a try. The reader that leaves does it the other way round, so
        # one of the two sees the other.
        waiter.is_waiting = True
        self._waiting.add(waiter)
        try:
            if not waiter.news and not self._is_closed:
                if is_nested or self._reading.acquire(blocking=False):
                    self._read(waiter, until)
                else:
                    if self._dozing is not None:  # by now there may be something to read
                        self._dozing.wake()
                    waiter.sleep(min(until - time.monotonic(), _LONGEST_SLEEP))
        finally:
            self.leave(waiter)
        if self._is_closed:
            raise closed_while_waiting()

    def leave(self, waiter: ThreadWait) -> None:
        """Let another thread read, if this one did. May be called again: a signal handler may raise at any step."""
        if self._reader is waiter:
            self._reader = None
        while self._reader is None and is_owned(self._reading):
            self._reading.release()
        self._waiting.discard(waiter)
        if self._reader is None:
            for successor in list(self._waiting)[:1]:
                successor.wake()
        waiter.is_waiting = False

    def _read(self, waiter: ThreadWait, until: float) -> None:
        """Read the subscription for all threads until there is something to do for this one."""
        interrupted, self._reader = self._reader, waiter
        until = min(until, time.monotonic() + following.CHORES_EVERY)
        try:
            while not (waiter.news or self._is_interrupted or self._is_closed):
                now = time.monotonic()
                if now >= until:
                    break
                seconds = max(min(until, self._look_at) - now, 0)
                self._dozing = waiter  # before it looks: a thread that follows the first key sees this, or is seen
                if self.subscription.fileno() >= 0:
                    self._dozing = None
                    self._take(self.subscription.receive(seconds))
                else:
                    waiter.sleep(seconds)
                    self._take({})
        except BaseException:  # of a signal handler, perhaps after a message was received and before it was delivered
            self._make_all_look()
            raise
        finally:
            self._dozing = None
            self._is_interrupted = False
            self._reader = interrupted
            if interrupted is not None:  # by a signal handler, which may have read the news of its thread
                self.subscription.ring()

    def interrupt(self) -> None:
        """Make the reader leave, and threads that follow nothing: there is a chore. Any thread may call this."""
        if not self._is_interrupted:
            self._is_interrupted = True
            self._wake([waiter for waiter in list(self._waiting) if not waiter.keys])

    def _wake(self, waiters: Collection[ThreadWait]) -> None:
        for waiter in waiters:
            waiter.wake()
        reader = self._reader
        if reader is not None:
            reader.wake()
            self.subscription.ring()

    def close(self) -> None:
        """Close the subscription; every wait raises `StoreClosed`."""
        self._is_closed = True
        self._wake(list(self._waiting))
        # The reader leaves first: once the socket is closed, another file may get its number.
        is_alone = self._reading.acquire(timeout=_CLOSING_PATIENCE)
        try:
            self.subscription.close()
        finally:
            if is_alone:
                self._reading.release()
            self._wake(list(self._waiting))
