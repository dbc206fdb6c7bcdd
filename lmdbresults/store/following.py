"""The core of waiting: which waiter follows which key, what a message means, and when to look again.

Nothing in here sleeps. `Hub` is one subscription that many waiters share, `Wait` is the wait of one of them. The two
drivers say how a waiter sleeps: thread_hub.py for threads and greenlets, loop_hub.py for coroutines.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Final, Protocol, TypeVar

from lmdbresults.errors import StoreClosed
from lmdbresults.store.base import Sent, Subscription

__all__ = ["CHORES_EVERY", "Follower", "Hub", "Source", "Values", "Wait", "closed_while_waiting"]

#: Seconds after which a hub looks at all keys again, in case that a message was lost.
LOOK_EVERY: Final = 0.5
#: The same where no messages can arrive: at first, doubled each time up to `LOOK_EVERY`.
FIRST_PAUSE: Final = 0.05
#: The share of its time that a hub spends on looking again, so that many keys are looked at less often.
LOOKING_SHARE: Final = 0.005
#: Seconds after which a waiter looks after the chores of its hub.
CHORES_EVERY: Final = 1.0

#: Values by key; None for a key that does not exist.
Values = Mapping[bytes, bytes | None]
Self = TypeVar("Self", bound="Wait")


class Source(Protocol):
    """What a hub needs of a store."""

    def subscribe(self) -> Subscription:
        """See `Store.subscribe`."""

    def moment(self) -> int | None:
        """See `Store.moment`."""

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """See `Store.mget`."""


class Follower:
    """One waiter, as its hub knows it. A driver adds `wake` and a way to sleep."""

    def __init__(self, every_change: bool = False) -> None:
        self.every_change = every_change
        self.keys: set[bytes] = set()
        #: Keys that have changed, with the new value, or None if it has to be looked up.
        self.news: deque[tuple[bytes, bytes | None]] = deque()
        #: The moment before it began to follow: a value that was sent earlier may be outdated.
        self.since: int | None = None
        #: The hub's, when it began to follow: a hub loses its followers in a fork.
        self.generation: object = None

    def wake(self) -> None:
        """Wake the waiter. Any thread may call this."""
        raise NotImplementedError


class Hub:
    """One subscription to a store, and the waiters that share it.

    ``chores`` is called by the waiters about every `CHORES_EVERY` seconds, for work that needs no thread of its own.
    """

    def __init__(self, store: Source, chores: Callable[[], object]) -> None:
        self._store = store
        self._chores = chores
        self.subscription = store.subscribe()
        self._is_closed = False
        self._reset()

    def _reset(self) -> None:
        #: Replaced by a fork, after which the child's hub has no followers.
        self.generation = object()
        #: Guards the followers by key while they change. Held for a few instructions, never while the store is used.
        #: Reentrant, because a signal handler may wait.
        self._lock = threading.RLock()
        self._followers: dict[bytes, set[Follower]] = {}
        #: Hashes of the values that were told by `_look`, so that each is told once.
        self._told: dict[bytes, int] = {}
        #: When to look at all keys again, by the monotonic clock; and the store's moment before the last look.
        self._look_at = 0.0
        self._looked_at: int | None = None
        self._pause = FIRST_PAUSE

    # -- followers -------------------------------------------------------------------------------------------------

    def follow(self, follower: Follower, keys: Collection[bytes]) -> Values:
        """Give a follower the news of some keys from now on; return their values as of a moment not before that.

        A key that it follows already is simply looked at.
        """
        if not self._followers:
            self._pause = 2 * FIRST_PAUSE
            self._look_at = time.monotonic() + (LOOK_EVERY if self.subscription.fileno() >= 0 else FIRST_PAUSE)
        follower.keys.update(keys)
        with self._lock:
            for key in keys:
                self._followers.setdefault(key, set()).add(follower)
        follower.generation = self.generation
        follower.since = self._store.moment()
        return self.subscription.add(keys, every_change=follower.every_change)

    def unfollow(self, follower: Follower, keys: Collection[bytes]) -> None:
        """Give a follower no more news of some keys."""
        unneeded = []
        with self._lock:
            for key in keys:
                followers = self._followers.get(key, set())
                followers.discard(follower)
                if not followers and self._followers.pop(key, None) is not None:
                    self._told.pop(key, None)
                    unneeded.append(key)
        follower.keys.difference_update(keys)
        try:
            self.subscription.remove(unneeded)
        finally:
            if not self._followers.keys().isdisjoint(unneeded):
                self._follow_again(unneeded)

    def _follow_again(self, keys: Iterable[bytes]) -> None:
        """Subscribe to keys that another waiter has followed while they were unsubscribed."""
        self._tell(self.subscription.add([key for key in keys if key in self._followers], every_change=True))

    # -- news ------------------------------------------------------------------------------------------------------

    def _take(self, changed: Mapping[bytes, Sent | None] | None) -> None:
        """Tell followers what the subscription has received; look at all keys if that is due."""
        for key, sent in () if changed is None else changed.items():
            for follower in tuple(self._followers.get(key, ())):
                is_new = sent is not None and follower.since is not None and sent[0] > follower.since
                follower.news.append((key, sent[1] if sent is not None and is_new else None))
                follower.wake()
        if changed is None or (time.monotonic() >= self._look_at and self._may_have_missed()):
            self._look()

    def _tell(self, values: Values) -> None:
        for key, value in values.items():
            for follower in tuple(self._followers.get(key, ())):
                follower.news.append((key, value))
                follower.wake()

    def _tell_all(self) -> None:
        """Let each waiter look for itself."""
        self._tell(dict.fromkeys(list(self._followers)))

    # -- looking again ---------------------------------------------------------------------------------------------

    def _may_have_missed(self) -> bool:
        """Return whether the store has changed since the last look."""
        self._look_at = time.monotonic() + self._next_pause()
        before, self._looked_at = self._looked_at, self._store.moment()
        return before is None or before != self._looked_at

    def _next_pause(self) -> float:
        if self.subscription.fileno() >= 0:
            return LOOK_EVERY
        pause, self._pause = self._pause, min(self._pause * 2, LOOK_EVERY)
        return pause

    def _look(self) -> None:
        """Look at all keys that are followed, and tell the values that are new. Following them again does both."""
        began = time.monotonic()
        try:
            values = self.subscription.add(list(self._followers))
        except Exception:  # one record is damaged, or the store was closed: each waiter finds out about its own keys
            self._tell_all()
        else:
            fresh = {key: value for key, value in values.items() if value is not None and self._is_untold(key, value)}
            self._tell(fresh)
        now = time.monotonic()
        self._look_at = max(self._look_at, now + (now - began) / LOOKING_SHARE)

    def _is_untold(self, key: bytes, value: bytes) -> bool:
        before, self._told[key] = self._told.get(key), hash(value)
        return before != self._told[key]


class Wait(Follower):
    """The wait of one waiter: yields values by key, first those of all keys, then those that may have changed.

    Ends at ``until``, by the monotonic clock, after a last look at all keys. So a value that exists wins over a timeout
    that has run out, and without any time nothing is followed. May yield nothing new: then there was a chore.
    ``on_interval`` is called before it follows the keys, and then after each sleep of ``interval`` seconds at most,
    before the next one. Use it as a context manager.
    """

    def __init__(
        self,
        hub: Hub,
        keys: Collection[bytes],
        until: float,
        every_change: bool,
        interval: float,
        on_interval: Callable[[], object] | None,
    ) -> None:
        super().__init__(every_change)
        self._hub = hub
        #: The keys to follow; None once that is done.
        self._keys: Collection[bytes] | None = keys
        self._until = until
        self._interval = interval
        self._on_interval = on_interval
        self._has_slept = self._has_ended = False

    def _begin(self, keys: Collection[bytes]) -> Values:
        self._keys = None
        if time.monotonic() >= self._until:
            self._has_ended = True
            return {}
        if self._on_interval is not None:
            self._on_interval()
        values = self._hub.follow(self, keys)
        self._has_ended = time.monotonic() >= self._until
        return values

    def _next_look(self) -> float:
        """Return until when to sleep."""
        if self._on_interval is not None and self._has_slept:
            self._on_interval()
        self._has_slept = True
        return min(self._until, time.monotonic() + self._interval)

    def _take(self) -> Values:
        """Return the values that the news is about. What was not sent along is looked up."""
        values: dict[bytes, bytes | None] = {}
        while self.news:
            key, value = self.news.popleft()
            values[key] = value
        self._has_ended = time.monotonic() >= self._until
        if self._has_ended or not (values or self._hub.subscription.fileno() >= 0):
            values = {**dict.fromkeys(self.keys), **values}
        if None in values.values():
            values.update(self._hub.follow(self, [key for key, value in values.items() if value is None]))
        return values

    def drop(self, keys: Collection[bytes]) -> None:
        """Wait no more for some keys."""
        if keys:
            self._hub.unfollow(self, keys)

    def close(self, *error: object) -> None:
        """Wait no more. Closing twice is fine."""
        self._has_ended = True
        if self.keys:
            with suppress(StoreClosed):
                self._hub.unfollow(self, list(self.keys))

    def __enter__(self: Self) -> Self:
        return self

    __exit__ = close


def closed_while_waiting() -> StoreClosed:
    """Return the error of a wait that was ended by closing its hub."""
    return StoreClosed("The backend was closed while a result was waited for.")
