"""The verbs of a transaction of an `LMDBStore`, over a raw one."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lmdbresults.errors import StoreClosed
from lmdbresults.store.base import KEEP, ReadTransaction, WriteTransaction, _Keep
from lmdbresults.store.lmdb.records import records
from lmdbresults.store.lmdb.records.chunks import PIECE_BYTES
from lmdbresults.store.lmdb.records.scan import scan
from lmdbresults.store.lmdb.records.waiters import News
from lmdbresults.store.lmdb.types import Transaction

if TYPE_CHECKING:
    from lmdbresults.store.lmdb.store import LMDBStore

T = TypeVar("T", bound="Reading")

__all__ = ["CLOSED", "ENDED", "Reading", "Writing"]

#: What a record takes besides key and value: its head, its entry in the index, the nodes of both.
_RECORD_COST: Final = 128


class Reading(ReadTransaction):
    """The verbs of reading over a raw transaction."""

    __slots__ = ("_raw", "_store")

    def __init__(self, store: "LMDBStore", raw: Transaction) -> None:
        self._store = store
        self._raw = raw

    def begin(self: T, raw: Transaction) -> T:
        self._raw = raw
        return self

    def end(self) -> None:
        self._raw = ENDED

    def get(self, key: bytes) -> bytes | None:
        return records.lookup(self._raw, self._store._prefix + key, self._store._clock())

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def ttl(self, key: bytes) -> float | None:
        now = self._store._clock()
        found = records.entry(self._raw, self._store._prefix + key, now)
        if found is None:
            return None
        return found.deadline - now if found.deadline else math.inf

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return scan(self._here, self._store._prefix, prefix, self._store._clock)

    def _here(self, operation: Callable[..., Any], *args: Any) -> Any:
        return operation(self._raw, *args)


class Writing(Reading, WriteTransaction):
    """The verbs of writing over a raw transaction."""

    __slots__ = ("changes", "news")

    def __init__(self, store: "LMDBStore", raw: Transaction) -> None:
        self._store = store
        self._raw = raw
        #: Records and pieces that were added: what sweeping has to keep up with.
        self.changes = 0
        #: What to tell whom once this is committed.
        self.news: list[News] = []

    def set(
        self,
        key: bytes,
        value: bytes,
        ttl: float | None = None,
        *,
        unless_prefix: bytes = b"",
        interim: bool = False,
    ) -> bool:
        return self.put(key, value, ttl, unless_prefix or None, interim)

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        return self.put(key, value, ttl, b"")  # every value begins with nothing

    def put(
        self, key: bytes, value: bytes, ttl: float | None, unless_prefix: bytes | None, interim: bool = False
    ) -> bool:
        store = self._store
        key, now = store._prefix + key, store._clock()
        if type(value) is not bytes:
            value = bytes(memoryview(value))  # bytes() alone would take a number for a length
        size = len(value)
        store._environment.reserve(self._raw, len(key) + size + _RECORD_COST)
        self.changes += 1 + size // PIECE_BYTES
        deadline = now + ttl if ttl and 0 < ttl < math.inf else _deadline(ttl, now)
        return records.put(self._raw, key, value, deadline, now, self.news, unless_prefix, interim)

    def delete(self, key: bytes) -> bool:
        self._store._environment.reserve_for_delete(self._raw)
        return records.remove(self._raw, self._store._prefix + key, self._store._clock(), self.news)

    def incr(self, key: bytes, by: int = 1, ttl: float | _Keep | None = KEEP) -> int:
        key, now = self._store._prefix + key, self._store._clock()
        deadline = None if isinstance(ttl, _Keep) else _deadline(ttl, now)
        self._store._environment.reserve(self._raw, len(key) + _RECORD_COST)
        self.changes += 1
        return records.increment(self._raw, key, by, deadline, now, self.news)

    def expire(self, key: bytes, ttl: float | None) -> bool:
        now = self._store._clock()
        self._store._environment.reserve_for_delete(self._raw)
        return records.expire(self._raw, self._store._prefix + key, _deadline(ttl, now), now)


def _deadline(ttl: float | None, now: float) -> float:
    if not ttl:
        return records.NEVER
    if not ttl > 0:
        raise ValueError(f"ttl {ttl!r} will not do: it has to be a number of seconds, or None or 0 for no expiry.")
    return records.NEVER if ttl == math.inf else now + ttl


class _Gone:
    """Stands where something was that is no longer there, and says so to whoever wants to use it."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        raise StoreClosed(self._message)


CLOSED: Any = _Gone("The store is closed. Open it again with open_store().")
ENDED: Any = _Gone("The transaction has ended: use it inside its with block only.")
