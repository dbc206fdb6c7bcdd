"""Many threads (or greenlets) that wait, and one subscription between them.

Whichever thread comes first reads the subscription for all; when it leaves, another takes over. So there is no thread
of ours, and one that waits alone is woken by the socket itself.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final

from lmdbresults.errors import StoreClosed
from lmdbresults.process.fork_gate import gate, is_owned
from lmdbresults.store.base import Sent, Store, Subscription

__all__ = ["Hub", "Listener"]

#: Seconds between two looks where no messages can arrive: at first, and at most.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
#: Looking again in case that a message was lost may take this part of the time.
_SHARE_OF_LOOKING: Final = 0.005
#: Seconds of which a C int holds the milliseconds. Who waits longer does so in turns.
_LONGEST_WAIT: Final = 2_000_000.0
#: Seconds that closing waits for the thread that reads to leave.
_CLOSING_PATIENCE: Final = 1.0


class Hub:
    """The one subscription of a store for all threads of a process. It is made when somebody waits."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.subscription: Subscription = store.subscribe()
        self._is_closed = False
        self._start_anew()
        gate.watch_forks(self)

    def _start_anew(self) -> None:
        #: Changes with a fork, after which nothing is registered any more.
        self.generation = object()
        #: Guards the listeners by key. Nothing else is taken, and no transaction begun, while it is held. Reentrant
        #: because a signal handler may wait.
        self._lock = threading.RLock()
        self._listeners: dict[bytes, set[Listener]] = {}
        #: Held by the thread that reads the subscription. Reentrant for two reasons: a signal handler may wait in its
        #: turn, and it knows its owner, so that an exception at any instruction does not leave it held.
        self._reading = threading.RLock()
        #: What that thread waits by, besides the subscription.
        self.reader: threading.Event | None = None
        #: Listeners that have left, with the keys that are still noted for them.
        self.left: deque[tuple[Listener, Collection[bytes]]] = deque()
        #: Threads that wait, that one included.
        self._others: set[threading.Event] = set()

    def before_fork(self) -> None:
        """Nothing to do: the subscription stays the parent's."""

    def after_fork_in_child(self) -> None:
        """Forget who waited in the parent."""
        self._start_anew()

    def close(self) -> None:
        """Give the subscription back, and have everybody who waits look at everything."""
        self._is_closed = True
        self._wake(self._tell(None))
        # Whoever polls the socket leaves first: once it is closed, another file may get its number.
        is_alone = self._reading.acquire(timeout=_CLOSING_PATIENCE)
        try:
            self.subscription.close()
        finally:
            if is_alone:
                self._reading.release()
            self._wake(self._tell(None))

    # -- listeners -------------------------------------------------------------------------------------------------

    def add(self, listener: "Listener", keys: Iterable[bytes]) -> None:
        """Have a listener told of news about keys."""
        with self._lock:
            for key in keys:
                self._listeners.setdefault(key, set()).add(listener)

    def remove(self, listener: "Listener", keys: Collection[bytes]) -> None:
        """Tell a listener nothing more about keys, and take the registrations back that nobody else needs."""
        unneeded = []
        with self._lock:
            for key in keys:
                those = self._listeners.get(key, set())
                those.discard(listener)
                if not those:
                    self._listeners.pop(key, None)
                    unneeded.append(key)
        try:
            self.subscription.remove(unneeded)
        finally:  # who has come in between may have lost his registration by this
            self._wake(self._tell(dict.fromkeys(unneeded)))

    def clear_up(self) -> None:
        """Forget listeners that have left."""
        with suppress(IndexError):  # of an empty deque: other threads take from it as well
            while self.left:
                self.remove(*self.left.popleft())

    def _tell(self, changed: Mapping[bytes, Sent | None] | None) -> list[tuple["Listener", bytes]]:
        """Tell listeners what has become of keys; None: that any may have changed. Return whom, and what of."""
        told: list[tuple[Listener, bytes]] = []
        with self._lock:
            if changed is None:
                changed = dict.fromkeys(self._listeners)
            for key in changed:
                for listener in list(self._listeners.get(key, ())):
                    told.append((listener, key))
        for listener, key in told:
            listener.tell(key, changed[key])
        return told

    def _wake(self, told: Iterable[tuple["Listener", bytes]]) -> None:
        for listener in {listener for listener, _ in told}:
            listener.wake()

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait(self, awake: threading.Event, is_over: Callable[[], bool], until: float) -> None:
        """Return when ``is_over``, which is asked whenever ``awake`` is set, or at ``until`` by the monotonic clock."""
        is_nested = is_owned(self._reading)  # in a signal handler that has interrupted the reading
        self._others.add(awake)
        try:
            while not is_over() and (left := until - time.monotonic()) > 0:
                # The order matters: first among the others, then a try. Whoever stops reading does it the other way
                # round, so one of the two sees the other.
                if is_nested or self._reading.acquire(blocking=False):
                    self._read(awake, is_over, until)
                    break
                _pause(awake, left)
        finally:
            if not is_nested and is_owned(self._reading):
                self._reading.release()
            self._others.discard(awake)
            if self._others:
                for other in list(self._others)[:1]:
                    other.set()

    def _read(self, awake: threading.Event, is_over: Callable[[], bool], until: float) -> None:
        interrupted, self.reader = self.reader, awake
        try:
            while not is_over() and (left := until - time.monotonic()) > 0:
                if self._is_closed or self.subscription.fileno() < 0:
                    _pause(awake, left)
                else:
                    self._tell(self.subscription.receive(min(left, _LONGEST_WAIT)))
        except BaseException:  # of a signal handler, perhaps after the drain and before everybody was told
            self._tell(None)
            raise
        finally:
            self.reader = interrupted
            if interrupted is not None:  # that thread may have news by now
                self.subscription.ring()

    def wake(self, waiting: threading.Event) -> None:
        """Have a thread that waits ask again whether that is over."""
        waiting.set()
        if waiting is self.reader:
            self.subscription.ring()


class Listener:
    """One who waits for keys to change. Several threads may wait at one listener, and one of them gets the news."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._keys: set[bytes] = set()
        #: The moment before the last look at everything, how soon that may be repeated, and how long to wait for it.
        self._moment = self._began = -1
        self._look_again_at = -math.inf
        self._pause = _FIRST_PAUSE
        self._is_inherited = False
        self._start_anew()

    def _start_anew(self) -> None:
        self._generation = self._hub.generation
        self._news: deque[bytes] = deque()
        self._sent: dict[bytes, Sent | None] = {}
        self._awake: set[threading.Event] = set()

    def _notice_fork(self) -> None:
        if self._hub.generation is not self._generation:  # this is a child of the process that listened
            self._start_anew()
            self._is_inherited = True

    def __enter__(self) -> "Listener":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        if self._keys:
            self.forget(list(self._keys))

    def close_later(self) -> None:
        """Stop listening, and let the next one who waits clear up: for who is in a hurry, his keys being used up."""
        keys, self._keys = self._keys, set()
        self._hub.left.append((self, keys))

    def forget(self, keys: Collection[bytes]) -> None:
        """Stop listening to some keys."""
        self._keys.difference_update(keys)
        for key in keys:
            self._sent.pop(key, None)
        with suppress(StoreClosed):
            self._hub.remove(self, keys)

    def listen(
        self, keys: Sequence[bytes], is_pending: Callable[[bytes | None], bool], *, every_change: bool = False
    ) -> list[bytes]:
        """Be told when a key changes next, from now on; return the keys that are not pending.

        See `Subscription.add`, which is asked for those keys only that are pending at a first look.
        """
        self._notice_fork()
        if not keys:
            return []
        values = self._look(keys)
        ready: list[bytes] = []
        pending: list[bytes] = []
        for key, value in zip(keys, values, strict=True):
            (pending if is_pending(value) else ready).append(key)
        if pending:
            self._hub.clear_up()
            self._keys.update(pending)
            self._hub.add(self, pending)
            values_since = self._hub.subscription.add(pending, every_change=every_change)
            ready += [key for key, value in values_since.items() if not is_pending(value)]
        return ready

    def _look(self, keys: Sequence[bytes]) -> list[bytes | None]:
        started, store = time.monotonic(), self._hub.store
        if self._moment < 0:
            self._moment = self._began = store.moment() or 0
        values = store.mget(keys)
        now = time.monotonic()
        self._look_again_at = max(self._look_again_at, now + (now - started) / _SHARE_OF_LOOKING)
        return values

    def wait(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> Collection[bytes] | None:
        """Wait for news; return the keys that may have changed. None: any may have, and one should look at all.

        Ends early when ``is_over()``, which is asked again after `wake`.
        """
        self._notice_fork()
        if self._is_inherited:
            self._is_inherited = False
            return None
        if self._hub.subscription.fileno() < 0:
            seconds = min(seconds, self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        awake = threading.Event()
        self._awake.add(awake)
        try:
            self._hub.wait(awake, lambda: bool(self._news) or is_over(), time.monotonic() + seconds)
        finally:
            self._awake.discard(awake)
        changed = self._take_news()
        return changed if changed or not self._has_to_look() else None

    @property
    def has_news(self) -> bool:
        """Whether `wait` would return at once."""
        return bool(self._news)

    def _take_news(self) -> set[bytes]:
        changed, news = set(), self._news
        while news:
            try:
                changed.add(news.popleft())
            except IndexError:  # another thread was faster
                break
        return changed

    def _has_to_look(self) -> bool:
        if time.monotonic() < self._look_again_at:
            return False
        former, moment = self._moment, self._hub.store.moment()
        self._moment = moment or 0
        return moment is None or moment != former

    def tell(self, key: bytes, sent: Sent | None) -> None:
        """Take the news that a key may have changed, and what was sent along."""
        self._sent[key] = sent
        self._news.append(key)
        for awake in list(self._awake):
            if awake is not self._hub.reader:  # who reads asks after each reading, or is woken by who tells otherwise
                awake.set()

    def sent(self, key: bytes) -> bytes | None:
        """Return the value that came with the last news of a key, once, if it was committed since this listens."""
        sent = self._sent.pop(key, None)
        return sent[1] if sent is not None and sent[0] > self._began else None

    def wake(self) -> None:
        """Have whoever waits here ask again whether that is over."""
        for awake in list(self._awake):
            self._hub.wake(awake)


def _pause(awake: threading.Event, seconds: float) -> None:
    awake.wait(min(seconds, _LONGEST_WAIT))
    awake.clear()
