"""The transactions of an `LMDBStore`: the verbs of the port over a transaction of LMDB."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from lmdbresults.errors import StoreClosed
from lmdbresults.process.fork_gate import gate
from lmdbresults.store.lmdb.records import records
from lmdbresults.store.lmdb.records.expiry import SweepAlong
from lmdbresults.store.lmdb.records.layout import CHUNK_BYTES
from lmdbresults.store.lmdb.records.scan import ordered, scan
from lmdbresults.store.lmdb.types import FINAL, INTERIM, ONE, SHORT_VALUE, Change, Transaction
from lmdbresults.store.transactions import KEEP, Keep, ReadTransaction, WriteTransaction
from lmdbresults.store.values import NEVER, deadline_of

__all__ = ["CLOSED", "ENDED", "Reading", "Scope", "Writing", "run_put", "run_update", "run_view"]

Result = TypeVar("Result")
T = TypeVar("T", bound="Reading")

#: Bytes that a record takes besides key and value: its head, its entry in the expiry index, the nodes of both.
_RECORD_COST: Final = 128


class Space(Protocol):
    """What a transaction reserves space from."""

    @property
    def reserve(self) -> Callable[[Transaction, int], object]:
        """Reserve bytes for an addition, inside a write transaction. Raises `StoreFull`."""

    @property
    def reserve_for_delete(self) -> Callable[[Transaction], object]:
        """Prepare for a delete, which may use space that additions may not."""


class Scope(NamedTuple):
    """What the transactions of a store share."""

    prefix: bytes
    """Begins every key in the file, and no key that the caller sees."""
    clock: Callable[[], float]
    space: Space
    sweeping: SweepAlong


class Reading(ReadTransaction):
    """A read transaction."""

    __slots__ = ("_raw", "_scope")

    def __init__(self, scope: Scope, raw: Transaction) -> None:
        self._scope = scope
        self._raw = raw

    def begin(self: T, raw: Transaction) -> T:
        self._raw = raw
        return self

    def end(self) -> None:
        """Refuse further use."""
        self._raw = ENDED

    def get(self, key: bytes) -> bytes | None:
        return records.lookup(self._raw, self._scope.prefix + key, self._scope.clock())

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def ttl(self, key: bytes) -> float | None:
        now = self._scope.clock()
        found = records.record_of(self._raw, self._scope.prefix + key, now)
        if found is None:
            return None
        return found.deadline - now if found.deadline else math.inf

    def now(self) -> float:
        self._raw.id()  # raises, once the transaction has ended
        return self._scope.clock()

    def scan(self, prefix: bytes = b"", *, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        return scan(self._here, self._scope.prefix, prefix, self._scope.clock, head)

    def range(
        self, prefix: bytes = b"", start: bytes = b"", limit: int | None = None, *, head: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return ordered(self._here, self._scope.prefix, prefix, self._scope.clock, head, start, limit)

    def _here(self, operation: Callable[..., Any], *args: Any) -> Any:
        return operation(self._raw, *args)


class Writing(Reading, WriteTransaction):
    """A write transaction."""

    __slots__ = ("added", "changes")

    def __init__(self, scope: Scope, raw: Transaction) -> None:
        self._scope = scope
        self._raw = raw
        #: Records and chunks that were added: the sweep along the way must keep up with them.
        self.added = 0
        #: What subscribers are notified of once this is committed.
        self.changes: list[Change] = []

    def set(
        self, key: bytes, value: bytes, ttl: float | None = None, *, keep_prefix: bytes = b"", interim: bool = False
    ) -> bool:
        return self._put(key, value, ttl, keep_prefix or None, interim)

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        return self._put(key, value, ttl, b"", False)

    def _put(self, key: bytes, value: bytes, ttl: float | None, keep_prefix: bytes | None, interim: bool) -> bool:
        added = _put(self._raw, self._scope, self._scope.clock(), self.changes, key, value, ttl, keep_prefix, interim)
        self.added += added
        return added > 0

    def delete(self, key: bytes) -> bool:
        self._scope.space.reserve_for_delete(self._raw)
        key = self._scope.prefix + key
        self.changes.append((key, FINAL, None, NEVER))  # also of an expired record, which a sweep will not meet now
        return records.remove(self._raw, key, self._scope.clock())

    def move(self, key: bytes, new_key: bytes, value: bytes) -> None:
        scope, raw = self._scope, self._raw
        scope.space.reserve_for_delete(raw)
        now = scope.clock()
        if key != new_key:
            records.remove(raw, scope.prefix + key, now)
        records.put(raw, scope.prefix + new_key, bytes(memoryview(value)), NEVER, now)

    def incr(self, key: bytes, by: int = 1, ttl: float | Keep | None = KEEP) -> int:
        key, now = self._scope.prefix + key, self._scope.clock()
        deadline = None if isinstance(ttl, Keep) else deadline_of(ttl, now)
        self._scope.space.reserve(self._raw, len(key) + _RECORD_COST)
        self.added += 1
        self.changes.append((key, FINAL, None, NEVER))
        return records.increment(self._raw, key, by, deadline, now)

    def expire(self, key: bytes, ttl: float | None) -> bool:
        now = self._scope.clock()
        self._scope.space.reserve_for_delete(self._raw)
        return records.expire(self._raw, self._scope.prefix + key, deadline_of(ttl, now), now)

    def finish(self) -> int:
        """Sweep along what has expired, if it is time for that; return the number of the transaction."""
        sweeping, now = self._scope.sweeping, self._scope.clock()
        if not sweeping.looked_at <= now < sweeping.look_again_at:
            sweeping.run(self._raw, now, self.added, self.changes)
        return self._raw.id()

    def notify(self, topic: bytes, *, one: bool = False) -> None:
        self._raw.id()  # raises, once the transaction has ended
        self.changes.append((self._scope.prefix + topic, ONE if one else FINAL, None, NEVER))


def _put(
    raw: Transaction,
    scope: Scope,
    now: float,
    changes: list[Change],
    key: bytes,
    value: bytes,
    ttl: float | None,
    keep_prefix: bytes | None,
    interim: bool,
) -> int:
    """Store a value, unless the present one begins with ``keep_prefix``: b"" keeps any value, None keeps none.

    Return how many records and chunks were added.
    """
    key = scope.prefix + key
    if type(value) is not bytes:
        value = bytes(memoryview(value))  # bytes() would take an int for a length
    size = len(value)
    scope.space.reserve(raw, len(key) + size + _RECORD_COST)
    deadline = now + ttl if ttl and 0 < ttl < math.inf else deadline_of(ttl, now)
    if not records.put(raw, key, value, deadline, now, keep_prefix):
        return 0
    if interim:
        changes.append((key, INTERIM, None, deadline))
    else:
        changes.append((key, FINAL, value if size <= SHORT_VALUE else None, deadline))
    return 1 + size // CHUNK_BYTES


# -- steps in a transaction of their own: they return a result, what has changed, the number of the transaction --------


def run_put(
    raw: Transaction,
    scope: Scope,
    key: bytes,
    value: bytes,
    ttl: float | None,
    keep_prefix: bytes | None,
    interim: bool,
) -> tuple[bool, list[Change], int]:
    """Do `Writing.set`, for which no object is needed: results are stored by this."""
    now, sweeping = scope.clock(), scope.sweeping
    changes: list[Change] = []
    added = _put(raw, scope, now, changes, key, value, ttl, keep_prefix, interim)
    if not sweeping.looked_at <= now < sweeping.look_again_at:
        sweeping.run(raw, now, added, changes)
    return added > 0, changes, raw.id()


def run_update(
    raw: Transaction, scope: Scope, operation: Callable[[WriteTransaction], Result]
) -> tuple[Result, list[Change], int]:
    """Run an operation, which may keep the transaction, or fork."""
    txn = Writing(scope, raw)
    try:
        return operation(txn), txn.changes, txn.finish()
    finally:
        txn.end()
        gate.detect_fork()


def run_view(raw: Transaction, scope: Scope, operation: Callable[[ReadTransaction], Result]) -> Result:
    """Run an operation over a snapshot, which it may keep, and may fork."""
    txn = Reading(scope, raw)
    try:
        return operation(txn)
    finally:
        txn.end()
        gate.detect_fork()


class _Gone:
    """Stands in for an object that is closed, and raises when it is used."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        raise StoreClosed(self._message)


CLOSED: Any = _Gone("The store is closed. Open it again with open_store().")
ENDED: Any = _Gone("The transaction has ended: use it inside its with block or callback only.")
