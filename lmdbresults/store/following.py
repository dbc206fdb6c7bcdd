"""The core of waiting: which waiter follows which key, what a message means, and when to look again.

Nothing in here sleeps. `Hub` is one subscription that many waiters share, `Wait` is the wait of one of them. The two
drivers say how a waiter sleeps: thread_hub.py for threads and greenlets, loop_hub.py for coroutines.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Protocol, TypeVar

from lmdbresults.errors import StoreClosed
from lmdbresults.store.base import Sent, Subscription

__all__ = ["CHORES_EVERY", "Follower", "Hub", "Source", "Values", "Wait"]

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

    def take(self) -> dict[bytes, bytes | None]:
        """Return the news, which is then no news any more. Several threads may call this."""
        taken = {}
        with suppress(IndexError):  # of an empty deque
            while True:
                key, value = self.news.popleft()
                taken[key] = value
        return taken

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
        #: Guards the followers by key. Held for a few instructions, never while the store is used. Reentrant, because a
        #: signal handler may wait.
        self._lock = threading.RLock()
        self._followers: dict[bytes, set[Follower]] = {}
        #: Hashes of the values that were told by `_look`, so that each is told once.
        self._told: dict[bytes, int] = {}
        #: When to look at all keys again, by the monotonic clock; and the store's moment before the last look.
        self._look_at = 0.0
        self._looked_at: int | None = None
        self._pause = FIRST_PAUSE

    @property
    def has_messages(self) -> bool:
        """Whether messages can arrive. If not, a hub looks again and again."""
        return self.subscription.fileno() >= 0

    # -- followers -------------------------------------------------------------------------------------------------

    def follow(self, follower: Follower, keys: Collection[bytes]) -> Values:
        """Give a follower the news of some keys from now on; return their values as of a moment not before that.

        A key that it follows already is simply looked at.
        """
        if not self._followers:
            self._pause = FIRST_PAUSE
            self._look_at = time.monotonic() + self._next_pause()
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
        finally:  # a waiter that has followed one of them since then has just lost its subscription
            wanted = [key for key in unneeded if key in self._followers]
            if wanted:
                self._tell(self.subscription.add(wanted, every_change=True))

    # -- news ------------------------------------------------------------------------------------------------------

    def _take(self, changed: Mapping[bytes, Sent | None] | None) -> None:
        """Tell followers what the subscription has received; look at all keys if that is due."""
        if changed:
            with self._lock:
                told = [(follower, key) for key in changed for follower in self._followers.get(key, ())]
            for follower, key in told:
                sent = changed[key]
                is_new = sent is not None and follower.since is not None and sent[0] > follower.since
                follower.news.append((key, sent[1] if sent is not None and is_new else None))
                follower.wake()
        if changed is None or (time.monotonic() >= self._look_at and self._may_have_missed()):
            self._look()

    def _tell(self, values: Values) -> None:
        with self._lock:
            told = [(follower, key) for key in values for follower in self._followers.get(key, ())]
        for follower, key in told:
            follower.news.append((key, values[key]))
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
        if self.has_messages:
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

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise StoreClosed("The backend was closed while a result was waited for.")


class Wait:
    """The wait of one waiter: yields values by key, first those of all keys, then those that may have changed.

    Ends at ``until``, by the monotonic clock, after a last look at all keys. So a value that exists wins over a timeout
    that has run out, and without any time nothing is followed. May yield nothing new: then there was a chore.
    ``on_interval`` is called every ``interval`` seconds, before it sleeps. Use it as a context manager.
    """

    def __init__(
        self,
        hub: Hub,
        follower: Follower,
        keys: Collection[bytes],
        until: float,
        interval: float,
        on_interval: Callable[[], object] | None,
    ) -> None:
        self._hub = hub
        self._follower = follower
        self._keys: Collection[bytes] | None = keys
        self._until = until
        self._interval = interval
        self._on_interval = on_interval
        self._has_ended = False

    def _begin(self) -> Values | None:
        """Follow the keys, and return their values; None if they are followed already."""
        if self._keys is None:
            return None
        keys, self._keys = self._keys, None
        self._has_ended = time.monotonic() >= self._until
        return {} if self._has_ended else self._hub.follow(self._follower, keys)

    def _next_look(self) -> float:
        """Return until when to sleep."""
        if self._on_interval is not None:
            self._on_interval()
        return min(self._until, time.monotonic() + self._interval)

    def _values(self, news: Values) -> Values:
        """Return the values that news is about: what was not sent along is looked up."""
        values = {key: value for key, value in news.items() if value is not None}
        self._has_ended = time.monotonic() >= self._until
        if self._has_ended or not (news or self._hub.has_messages):
            unknown: Sequence[bytes] = [key for key in self._follower.keys if key not in values]
        else:
            unknown = [key for key in news if key not in values]
        return {**values, **self._hub.follow(self._follower, unknown)} if unknown else values

    def drop(self, keys: Collection[bytes]) -> None:
        """Wait no more for some keys."""
        self._hub.unfollow(self._follower, keys)

    def close(self) -> None:
        """Wait no more. Closing twice is fine."""
        self._has_ended = True
        if self._follower.keys:
            with suppress(StoreClosed):
                self._hub.unfollow(self._follower, list(self._follower.keys))

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
