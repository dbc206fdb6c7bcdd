"""A store that takes the place of another while both are in use: the way from a file to a server without a stop."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lmdbresults.process.identity import Owner
from lmdbresults.store.base import KEEP, Keep, ReadTransaction, Store, Subscription, WriteTransaction
from lmdbresults.store.fallback.chords import FallbackChords
from lmdbresults.store.fallback.subscription import FallbackSubscription

__all__ = ["FallbackStore"]

Result = TypeVar("Result")


class FallbackStore(Store):
    """A ``new`` store, and an ``old`` one in which reads look for what the new one has not.

    What is written goes to the new one, deletes to both. Waiters follow both. Open chords move over as soon as one of
    their parts returns. Transactions of the caller see the new one only. ``old`` must keep chords as
    `TransactionalChords` do: a file.
    """

    def __init__(self, new: Store, old: Store) -> None:
        self.new = new
        self.old = old
        self._chords = FallbackChords(new, old)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.new!r}, {self.old!r})"

    def __reduce__(self) -> tuple[type["FallbackStore"], tuple[Store, Store]]:
        return type(self), (self.new, self.old)

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        value = self.new.get(key)
        return self.old.get(key) if value is None else value

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        wanted = list(keys)
        return list(_filled(wanted, self.new.mget(wanted), self.old.mget))

    def ttl(self, key: bytes) -> float | None:
        ttl = self.new.ttl(key)
        return self.old.ttl(key) if ttl is None else ttl

    def ttls(self, keys: Iterable[bytes]) -> list[float | None]:
        wanted = list(keys)
        return list(_filled(wanted, self.new.ttls(wanted), self.old.ttls))

    def now(self) -> float:
        return self.new.now()

    def scan(self, prefix: bytes = b"", *, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        yield from self.new.scan(prefix, head=head)
        for key, value in self.old.scan(prefix, head=head):
            if self.new.get(key) is None:
                yield key, value

    def range(
        self, prefix: bytes = b"", start: bytes = b"", limit: int | None = None, *, head: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        both = dict(self.old.range(prefix, start, limit, head=head))
        both.update(self.new.range(prefix, start, limit, head=head))
        yield from sorted(both.items())[:limit]

    # -- writing -----------------------------------------------------------------------------------------------------

    def view(self, operation: Callable[[ReadTransaction], Result]) -> Result:
        return self.new.view(operation)

    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        return self.new.update(operation)

    def set(
        self, key: bytes, value: bytes, ttl: float | None = None, *, keep_prefix: bytes = b"", interim: bool = False
    ) -> bool:
        if keep_prefix and (self.old.get(key) or b"").startswith(keep_prefix):
            return False
        return self.new.set(key, value, ttl, keep_prefix=keep_prefix, interim=interim)

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        return self.old.get(key) is None and self.new.add(key, value, ttl)

    def delete(self, key: bytes) -> bool:
        was_old = self.old.delete(key)
        return self.new.delete(key) or was_old

    def incr(self, key: bytes, by: int = 1, ttl: float | Keep | None = KEEP) -> int:
        return self.new.incr(key, by, ttl)

    def expire(self, key: bytes, ttl: float | None) -> bool:
        was_old = self.old.expire(key, ttl)
        return self.new.expire(key, ttl) or was_old

    def move(self, key: bytes, new_key: bytes, value: bytes) -> None:
        self.new.move(key, new_key, value)
        if new_key != key:
            self.old.delete(key)

    def notify(self, topic: bytes, *, one: bool = False) -> None:
        self.new.notify(topic, one=one)
        self.old.notify(topic, one=one)

    # -- the rest ----------------------------------------------------------------------------------------------------

    @property
    def chords(self) -> "FallbackChords":
        return self._chords

    def owner(self) -> Owner:
        return self.new.owner()

    def is_alive(self, owner: Owner) -> bool:
        return self.new.is_alive(owner)

    def subscribe(self) -> Subscription:
        return FallbackSubscription(self.new.subscribe(), self.old.subscribe())

    def close(self) -> None:
        self.old.close()
        self.new.close()


def _filled(
    keys: list[bytes], found: list[Result | None], read: Callable[[list[bytes]], list[Result | None]]
) -> list[Result | None]:
    """Return what was found, and for the keys for which nothing was what ``read`` returns."""
    missing = [key for key, each in zip(keys, found, strict=True) if each is None]
    more = iter(read(missing) if missing else ())
    return [next(more) if each is None else each for each in found]
