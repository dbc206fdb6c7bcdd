"""Callbacks of results, by ``then()``: a thread that waits for any result looks after them too.

It is apart from consumer.py because these results have a life of their own: they may be collected as garbage at any
moment, and most of them belong to groups that have no callback at all.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol

from celery import states
from celery.result import ResultSet
from vine import barrier, promise

from lmdbresults.metas import id_text
from lmdbresults.record import TaskRecord
from lmdbresults.store.following import Follower
from lmdbresults.store.thread_hub import ThreadHub

__all__ = ["Callbacks", "may_end"]

#: Results that are noted without asking whether they have a callback; after that, twice what was left.
_FEW: Final = 1000
#: Seconds after which results without a callback are asked again: their group may have got one.
_ASK_AGAIN: Final = 1.0


class Consumer(Protocol):
    """What callbacks need of the consumer of results."""

    backend: Any

    @property
    def hub(self) -> ThreadHub:
        """Where threads wait."""

    def fulfil(self, result: Any, meta: dict[str, Any]) -> None:
        """Give a result its final meta, which calls its callbacks."""


class CallbackFollower(Follower):
    """Follows all results that have callbacks. The thread that reads leaves for them."""

    def __init__(self, hub: ThreadHub) -> None:
        super().__init__()
        self.hub = hub

    def wake(self) -> None:
        self.hub.interrupt()


class Callbacks:
    """Results that may have a callback, and that no thread waits for.

    `add` and `discard` only take notes: a result may be sent by the thousand, and collected inside a transaction.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        #: Guards what is followed. `discard` does not take it, and no callback runs while it is held.
        self._lock = threading.RLock()
        #: All results, by `id`. Those are held here that must live on for their callback.
        self._results: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._held: dict[int, Any] = {}
        #: Those that were not asked yet, and those that had no callback when they were asked.
        self._new: dict[int, None] = {}
        self._idle: dict[int, None] = {}
        self._few = _FEW
        self._ask_at = 0.0
        #: Those that have one, by key; keys that are still to be followed; and those that were discarded.
        self._asked: dict[bytes, set[int]] = {}
        self._unfollowed: dict[bytes, None] = {}
        self._gone: deque[tuple[bytes, int]] = deque()
        self._follower: CallbackFollower | None = None
        #: Results whose callbacks are to be called, with their metas.
        self._ready: deque[tuple[Any, dict[str, Any]]] = deque()

    def __len__(self) -> int:
        return len(self._results)

    def add(self, result: Any, weak: bool) -> None:
        """Note a result, and hold it unless told to note it ``weak``."""
        number = id(result)
        self._results[number] = result
        if not weak:
            self._held[number] = result
        self._new[number] = None
        if len(self._new) + len(self._idle) >= self._few:
            with self._lock:
                self._ask([*self._new, *self._idle])
            self._few = max(_FEW, 2 * len(self._idle))
        if self._follower is not None:
            self._follower.wake()

    def discard(self, result: Any) -> None:
        """Forget a result. Called from anywhere, a garbage collection included, so it takes no lock."""
        number = id(result)
        for notes in (self._results, self._held, self._new, self._idle):
            notes.pop(number, None)
        if self._asked:
            self._gone.append((self._consumer.backend.get_key_for_task(result.id), number))

    def stop(self) -> None:
        """Follow nothing, until `run`."""
        with self._lock:
            self._follower = None
            self._unfollowed.update(dict.fromkeys(self._asked))

    def run(self) -> None:
        """Call the callbacks of results that have ended; what one of them raises leaves the others to the next call."""
        if self._new or self._idle or self._gone:
            with self._lock:
                self._update()
        while self._follower is not None and self._follower.news:
            try:
                key, data = self._follower.news.popleft()
            except IndexError:  # another thread was faster
                break
            self._deal(key, data)
        while self._ready:
            try:
                result, meta = self._ready.popleft()
            except IndexError:
                break
            self._consumer.fulfil(result, meta)

    # -- what is followed, under the lock ----------------------------------------------------------------------------

    def _update(self) -> None:
        unneeded = []
        while self._gone:
            key, number = self._gone.popleft()
            numbers = self._asked.get(key, set())
            numbers.discard(number)
            if not numbers and self._asked.pop(key, None) is not None:
                unneeded.append(key)
        if unneeded and self._follower is not None:
            self._follower.hub.unfollow(self._follower, unneeded)
        if self._new:
            self._ask(list(self._new))
        if self._idle and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + _ASK_AGAIN
            self._ask(list(self._idle))
        if self._unfollowed:
            self._follow()

    def _ask(self, numbers: Iterable[int]) -> None:
        """Ask results whether they have a callback."""
        for number in numbers:
            result = self._results.get(number)
            self._new.pop(number, None)
            self._idle.pop(number, None)
            if result is None or not may_end(result):
                self._held.pop(number, None)
            elif _may_call_back(result.on_ready):
                key = self._consumer.backend.get_key_for_task(result.id)
                self._asked.setdefault(key, set()).add(number)
                self._unfollowed[key] = None
            else:  # a group has it, so it need not be held here
                self._held.pop(number, None)
                self._idle[number] = None

    def _follow(self) -> None:
        keys, self._unfollowed = list(self._unfollowed), {}
        if self._follower is None:
            self._follower = CallbackFollower(self._consumer.hub)
        self._follower.news.extend(
            (key, value) for key, value in self._follower.hub.follow(self._follower, keys).items() if value is not None
        )

    # -- news --------------------------------------------------------------------------------------------------------

    def _deal(self, key: bytes, data: bytes | None) -> None:
        backend = self._consumer.backend
        data = data or backend.store.get(key)
        record = None if data is None else TaskRecord.unpack(data)
        if record is None or record.state not in states.READY_STATES:
            return
        results = [self._results.get(number) for number in list(self._asked.get(key, ()))]
        for result in results:
            if result is not None:
                self._ready.append((result, backend.records.meta(id_text(result.id), record)))


def _may_call_back(promised: Any) -> bool:
    """Return whether a result has a callback, perhaps through the barrier of a group; or will get the first one now."""
    listeners = _listeners(promised)
    return not listeners or any(_is_callback(listener) for listener in listeners)


def _is_callback(listener: Any) -> bool:
    if isinstance(listener, barrier):
        return any(_is_callback(each) for each in _listeners(listener.p))
    if not isinstance(listener, promise) or not listener.weak:
        return True
    method = listener.fun()
    group = getattr(method, "__self__", None)
    if isinstance(group, ResultSet):
        return any(_is_callback(each) for each in _listeners(group.on_ready))
    return method is not None


def _listeners(promised: Any) -> list[Any]:
    return [listener for listener in list(promised.listeners) if listener is not None]


def may_end(result: Any) -> bool:
    """Return whether a result is one task's that may still end, as far as it knows without looking."""
    return not isinstance(result, ResultSet) and not result._cache and not result.ignored
