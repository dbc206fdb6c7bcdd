"""The core of waiting: which waiter follows which key, what a message means, and when to look again.

Nothing in here sleeps. `Hub` is one subscription that many waiters share, `Wait` is the wait of one of them. The two
drivers say how a waiter sleeps: thread_hub.py for threads and greenlets, loop_hub.py for coroutines.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, Protocol, TypeVar

from lmdbresults.errors import StoreClosed
from lmdbresults.store.base import Subscription

__all__ = ["CHORES_EVERY", "Follower", "Hub", "Source", "Values", "Wait", "closed_while_waiting"]

#: Seconds after which a hub looks at all keys again, in case a message was lost.
LOOK_EVERY: Final = 0.5
#: The first interval where no messages can arrive. It doubles each time, up to `LOOK_EVERY`.
FIRST_PAUSE: Final = 0.05
#: The largest share of its time that a hub spends on looking again: the more keys, the longer the interval.
LOOKING_SHARE: Final = 0.005
#: Keys that stay subscribed at most after their followers have left.
_MOST_UNNEEDED: Final = 32
#: Seconds between two calls of the chores of a hub.
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
        #: Keys that have changed, with the new value; None if the value must be read from the store.
        self.news: deque[tuple[bytes, bytes | None]] = deque()
        #: `Hub.generation` when it followed its keys. It differs after a fork, in which a hub loses its followers.
        self.generation: object = None

    def wake(self) -> None:
        """Wake the waiter. Any thread may call this."""
        raise NotImplementedError


class Hub:
    """One subscription to a store, and the waiters that share it.

    The waiters call ``chores`` about every `CHORES_EVERY` seconds: periodic work that needs no thread of its own.
    """

    def __init__(self, store: Source, chores: Callable[[], object]) -> None:
        self._store = store
        self._chores = chores
        self.subscription = store.subscribe()
        self._is_closed = False
        self._reset()

    def _reset(self) -> None:
        #: Replaced in a forked child, whose hub has no followers.
        self.generation = object()
        #: Guards the followers by key while they change, and the end of subscriptions. Never held while the store is
        #: read. Reentrant, because a signal handler may wait.
        self._lock = threading.RLock()
        self._followers: dict[bytes, set[Follower]] = {}
        #: Keys without a follower whose subscription is still to be removed.
        self._unneeded: dict[bytes, None] = {}
        #: Hashes of the values that `_look` has delivered, so that it delivers each value once.
        self._delivered: dict[bytes, int] = {}
        #: When to look at all keys again, by the monotonic clock; and the last commit before the last look.
        self._look_at = 0.0
        self._looked_at: int | None = None
        self._pause = FIRST_PAUSE

    # -- followers -------------------------------------------------------------------------------------------------

    def follow(self, follower: Follower, keys: Collection[bytes]) -> Values:
        """Deliver changes of some keys to a follower from now on, and return the values that the keys have now.

        No change falls between the two. A key that is already followed is only read.
        """
        if not self._followers:
            self._pause = 2 * FIRST_PAUSE
            self._look_at = time.monotonic() + (self._next_pause() if self.subscription.fileno() >= 0 else FIRST_PAUSE)
        follower.keys.update(keys)
        with self._lock:
            for key in keys:
                self._followers.setdefault(key, set()).add(follower)
        follower.generation = self.generation
        values = self.subscription.add(keys, every_change=follower.every_change)
        if self._unneeded:
            self._unsubscribe()
        return values

    def unfollow(self, follower: Follower, keys: Collection[bytes]) -> None:
        """Stop delivering changes of some keys to a follower.

        A few keys stay subscribed until the next waiter is about to sleep: its time costs nothing, while a waiter that
        leaves has a result to return.
        """
        with self._lock:
            for key in keys:
                followers = self._followers.get(key, set())
                followers.discard(follower)
                if not followers and self._followers.pop(key, None) is not None:
                    self._delivered.pop(key, None)
                    self._unneeded[key] = None
        follower.keys.difference_update(keys)
        if len(self._unneeded) > _MOST_UNNEEDED:
            self._unsubscribe()

    def _unsubscribe(self) -> None:
        """Remove the subscription of keys that no waiter follows any more."""
        with self._lock:
            unneeded, self._unneeded = self._unneeded, {}
            self.subscription.remove([key for key in unneeded if key not in self._followers])

    # -- news ------------------------------------------------------------------------------------------------------

    def _take(self, changed: Values | None) -> None:
        """Deliver what the subscription has received; look at all keys if that is due."""
        if changed:
            self._deliver(changed)
        if changed is None or (time.monotonic() >= self._look_at and self._may_have_missed()):
            self._look()

    def _deliver(self, values: Values) -> None:
        for key, value in values.items():
            for follower in tuple(self._followers.get(key, ())):
                follower.news.append((key, value))
                follower.wake()

    def _make_all_look(self) -> None:
        """Wake every waiter, to read its own keys from the store."""
        self._deliver(dict.fromkeys(list(self._followers)))

    # -- looking again ---------------------------------------------------------------------------------------------

    def _may_have_missed(self) -> bool:
        """Return whether the store has changed since the last look."""
        self._look_at = time.monotonic() + self._next_pause()
        before, self._looked_at = self._looked_at, self._store.moment()
        return before is None or before != self._looked_at

    def _next_pause(self) -> float:
        if self.subscription.fileno() >= 0:
            return max(LOOK_EVERY, self.subscription.look_every)
        pause, self._pause = self._pause, min(self._pause * 2, LOOK_EVERY)
        return pause

    def _look(self) -> None:
        """Read all keys that are followed, and deliver the new values."""
        began = time.monotonic()
        try:
            values = self.subscription.add(list(self._followers))  # which also marks them again if marks were lost
        except Exception:  # a record is damaged, or the store is closed: each waiter finds out about its own keys
            self._make_all_look()
        else:
            fresh = {key: value for key, value in values.items() if value is not None and self._is_new(key, value)}
            self._deliver(fresh)
        now = time.monotonic()
        self._look_at = max(self._look_at, now + (now - began) / LOOKING_SHARE)

    def _is_new(self, key: bytes, value: bytes) -> bool:
        before, self._delivered[key] = self._delivered.get(key), hash(value)
        return before != self._delivered[key]


class Wait(Follower):
    """The wait of one waiter: yields values by key, first those of all keys, then those that may have changed.

    It ends at ``until``, by the monotonic clock. It reads all keys a last time then, so an existing value wins over an
    expired timeout. If ``until`` has passed before the first step, it reads and follows nothing. It may yield an empty
    mapping, after a chore. It calls ``on_interval`` before it follows the keys, and between two sleeps, each of which
    lasts at most ``interval`` seconds. Use it as a context manager.
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
        """Return the time until which to sleep."""
        if self._on_interval is not None and self._has_slept:
            self._on_interval()
        self._has_slept = True
        return min(self._until, time.monotonic() + self._interval)

    def _take(self) -> Values:
        """Return the values of the keys that have changed. Read those that no message carried."""
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
        """Stop waiting for some keys."""
        if keys:
            self._hub.unfollow(self, keys)

    def close(self, *error: object) -> None:
        """Stop waiting. Closing twice is harmless."""
        self._has_ended = True
        if self.keys:
            self._hub.unfollow(self, list(self.keys))

    def __enter__(self: Self) -> Self:
        return self

    __exit__ = close


def closed_while_waiting() -> StoreClosed:
    """Return the error to raise in a waiter whose hub was closed."""
    return StoreClosed("The backend was closed while waiting for a result.")
