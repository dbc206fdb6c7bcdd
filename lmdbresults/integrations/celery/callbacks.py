"""Callbacks of results, by ``then()``: a thread that waits for any result looks after them too.

It is apart from consumer.py because these results have a life of their own: they may be collected as garbage at any
moment, and most of them belong to groups that have no callback at all.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from celery import states
from celery.result import ResultSet
from vine import barrier, promise

from lmdbresults.backends.pending import known_meta
from lmdbresults.metas import id_text
from lmdbresults.protocols import Meta
from lmdbresults.store.following import Follower
from lmdbresults.store.thread_hub import ThreadHub

__all__ = ["Callbacks", "may_end"]

#: Results that are noted without asking whether they have a callback; after that, twice what was left.
_FEW: Final = 1000
#: Seconds after which results without a callback are asked again: their group may have got one.
_ASK_AGAIN: Final = 1.0


class CallbackFollower(Follower):
    """Follows one result that has a callback. The thread that reads leaves for it."""

    def __init__(self, hub: ThreadHub, get: Callable[[], Any], ready: "deque[CallbackFollower]") -> None:
        super().__init__()
        self.hub = hub
        self.get = get
        self._ready = ready

    def wake(self) -> None:
        self._ready.append(self)
        self.hub.interrupt()


class Callbacks:
    """Results that may have a callback, and that no thread waits for.

    `add` and `discard` only take notes: a result may be sent by the thousand, and collected inside a transaction.
    ``hub()`` is where threads wait, and ``fulfil(result, meta)`` calls the callbacks of a result.
    """

    def __init__(self, backend: Any, hub: Callable[[], ThreadHub], fulfil: Callable[[Any, Meta], object]) -> None:
        self._backend = backend
        self._hub = hub
        self._fulfil = fulfil
        #: Held while results are asked. `discard` does not take it, and no callback runs while it is held.
        self._lock = threading.RLock()
        #: Results by `id`: those that were not asked yet, some of them by a weak reference; and weak references to
        #: those that had no callback.
        self._new: dict[int, Any] = {}
        self._idle: dict[int, Any] = {}
        #: Weak references to groups that were noted in place of their members, and not asked yet.
        self._groups: dict[int, weakref.ref[Any]] = {}
        #: Those that have a callback, and those of them that have changed or were discarded.
        self._followed: dict[int, CallbackFollower] = {}
        self._ready: deque[CallbackFollower] = deque()
        self._few = _FEW
        self._ask_at = 0.0

    def __len__(self) -> int:
        return len(self._new) + len(self._idle) + len(self._groups) + len(self._followed)

    def add(self, result: Any, weak: bool) -> None:
        """Note a result, and hold it unless ``weak``."""
        self._new[id(result)] = weakref.ref(result) if weak else result
        if len(self._new) >= self._few:
            self._ask(follow=False)
            self._few = max(_FEW, 2 * len(self._new))
        if self._followed:
            for follower in list(self._followed.values())[:1]:
                follower.hub.interrupt()

    def add_group(self, group: Any) -> None:
        """Note a group in place of its members, which are noted once it has a callback."""
        number = id(group)

        def forget(_: object) -> None:
            self._groups.pop(number, None)
            self._idle.pop(number, None)

        self._groups[number] = weakref.ref(group, forget)
        if len(self._groups) >= _FEW:
            self._ask(follow=False)

    def discard(self, result: Any) -> None:
        """Forget a result. Called from anywhere, a garbage collection included, so it takes no lock."""
        if not (self._new or self._idle or self._followed):
            return
        number = id(result)
        self._new.pop(number, None)
        self._idle.pop(number, None)
        follower = self._followed.pop(number, None)
        if follower is not None:
            follower.get = _nothing
            self._ready.append(follower)

    def stop(self) -> None:
        """Follow nothing, until `run`."""
        with self._lock:
            for number in list(self._followed):
                if (result := self._followed.pop(number).get()) is not None:
                    self._new[number] = result

    def run(self) -> None:
        """Call the callbacks of results that have ended; what one of them raises leaves the others to the next call."""
        if self._new or self._groups or (self._idle and time.monotonic() >= self._ask_at):
            self._ask(follow=True)
        while self._ready:
            try:
                follower = self._ready.popleft()
            except IndexError:  # another thread was faster
                break
            self._deal(follower)

    def _ask(self, follow: bool) -> None:
        """Ask results whether they have a callback, and follow those that do."""
        with self._lock:
            if self._idle and time.monotonic() >= self._ask_at:
                self._ask_at = time.monotonic() + _ASK_AGAIN
                self._ask_each(self._idle, follow)
            for number in list(self._groups):
                held = self._groups.pop(number, _nothing)
                if (group := held()) is not None and not self._has_noted_members(group):
                    self._idle[number] = held
            self._ask_each(self._new, follow)

    def _has_noted_members(self, group: Any) -> bool:
        """Note the members of a group if it has a callback; return whether it has."""
        has_one = any(map(_is_callback, _listeners(group.on_ready)))
        if has_one:
            self._new.update((id(member), member) for member in group.results if not isinstance(member, ResultSet))
        return has_one

    def _ask_each(self, noted: dict[int, Any], follow: bool) -> None:
        groups: dict[Any, bool] = {}
        for number in list(noted):
            held = noted.get(number)
            result = held() if type(held) is weakref.ref else held
            if isinstance(result, ResultSet):
                if self._has_noted_members(result):
                    noted.pop(number, None)
            elif result is None or not may_end(result):
                noted.pop(number, None)
            elif not _may_call_back(result.on_ready, groups):  # a group has it, so it need not be held here
                self._idle[number] = held if held is not result else weakref.ref(result)
                if noted is self._new:
                    noted.pop(number, None)
            elif follow:
                noted.pop(number, None)
                self._follow(number, held, result)

    def _follow(self, number: int, held: Any, result: Any) -> None:
        hub, key = self._hub(), self._backend.get_key_for_task(result.id)
        get = (lambda: result) if held is result else held
        follower = self._followed[number] = CallbackFollower(hub, get, self._ready)
        value = hub.follow(follower, [key])[key]
        if value is not None:
            follower.news.append((key, value))
            self._ready.append(follower)

    def _deal(self, follower: CallbackFollower) -> None:
        """Give a result that has changed its meta, if it has ended; unfollow one that was discarded."""
        result = follower.get()
        if result is None:
            follower.hub.unfollow(follower, list(follower.keys))
        elif follower.news:
            key, data = follower.news.popleft()
            data = data or self._backend.store.get(key)
            meta = None if data is None else known_meta(self._backend, id_text(result.id), data, states.READY_STATES)
            if meta is not None:
                self._fulfil(result, meta)


def _nothing() -> None:
    """Return None, for a result that was discarded."""


def _may_call_back(promised: Any, groups: dict[Any, bool]) -> bool:
    """Return whether a result has a callback, perhaps through the barrier of a group; or will get the first one now.

    ``groups`` remembers the answers for barriers: a group may have thousands of members.
    """
    listeners = _listeners(promised)
    if len(listeners) != 1 or type(listener := listeners[0]) is not barrier:
        return not listeners or any(map(_is_callback, listeners))
    known = groups.get(listener)
    if known is None:
        known = groups[listener] = _is_callback(listener)
    return known


def _is_callback(listener: Any) -> bool:
    if isinstance(listener, barrier):
        return any(map(_is_callback, _listeners(listener.p)))
    if not isinstance(listener, promise) or not listener.weak:
        return True
    method = listener.fun()
    group = getattr(method, "__self__", None)
    if isinstance(group, ResultSet):
        return any(map(_is_callback, _listeners(group.on_ready)))
    return method is not None


def _listeners(promised: Any) -> list[Any]:
    return [listener for listener in list(promised.listeners) if listener is not None]


def may_end(result: Any) -> bool:
    """Return whether a result is one task's that may still end, as far as it knows without looking."""
    return not isinstance(result, ResultSet) and not result._cache and not result.ignored
