"""The transactions of an `LMDBStore`: the verbs of the port over a transaction of LMDB."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from lmdbresults.errors import StoreClosed
from lmdbresults.process.fork_gate import gate
from lmdbresults.store.lmdb.records import records
from lmdbresults.store.lmdb.records.hand import Hand, Keeper
from lmdbresults.store.lmdb.records.layout import CHUNK_BYTES
from lmdbresults.store.lmdb.records.scan import ordered, scan
from lmdbresults.store.lmdb.types import FINAL, INTERIM, ONE, SHORT_VALUE, Change, Transaction
from lmdbresults.store.transactions import KEEP, Keep, ReadTransaction, WriteTransaction
from lmdbresults.store.values import NEVER, deadline_of

__all__ = [
    "CLOSED",
    "ENDED",
    "Reading",
    "Scope",
    "Writing",
    "increment",
    "put",
    "remove",
    "run_step",
    "run_update",
    "run_view",
]

Result = TypeVar("Result")
T = TypeVar("T", bound="Reading")

#: Bytes that a record takes besides key and value: its head and its node, and what a page has left over.
_RECORD_COST: Final = 128


class Space(Protocol):
    """What a transaction reserves space from."""

    @property
    def reserve(self) -> Callable[[Transaction, int], object]:
        """Reserve bytes for an addition, inside a write transaction. Raises `StoreFull`."""

    @property
    def reserve_for_delete(self) -> Callable[[Transaction], object]:
        """Prepare for a delete, which may use space that additions may not."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the transactions of a store share."""

    prefix: bytes
    """Begins every key in the file, and no key that the caller sees."""
    clock: Callable[[], float]
    space: Space
    keeper: Keeper


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

    __slots__ = ("changes", "has_written")

    def __init__(self, scope: Scope, raw: Transaction) -> None:
        self._scope = scope
        self._raw = raw
        #: What subscribers are notified of once this is committed.
        self.changes: list[Change] = []
        #: Whether a record was certainly written.
        self.has_written = False

    def set(
        self, key: bytes, value: bytes, ttl: float | None = None, *, keep_prefix: bytes = b"", interim: bool = False
    ) -> bool:
        is_stored = put(self._raw, self._scope, self.changes, key, value, ttl, keep_prefix or None, interim)
        self.has_written |= is_stored
        return is_stored

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        is_stored = put(self._raw, self._scope, self.changes, key, value, ttl, b"", False)
        self.has_written |= is_stored
        return is_stored

    def insert(self, key: bytes, value: bytes) -> None:
        scope = self._scope
        key = scope.prefix + key
        scope.space.reserve(self._raw, len(key) + len(value) + _RECORD_COST)
        scope.keeper.owed += 1
        records.put(self._raw, key, value, NEVER, NEVER)
        self.has_written = True

    def delete(self, key: bytes) -> bool:
        existed = remove(self._raw, self._scope, self.changes, key)
        self.has_written |= existed
        return existed

    def move(self, key: bytes, new_key: bytes, value: bytes) -> None:
        scope, prefix = self._scope, self._scope.prefix
        scope.space.reserve_for_delete(self._raw)
        value = value if type(value) is bytes else bytes(memoryview(value))
        records.move(self._raw, prefix + key, prefix + new_key, value, scope.clock())
        self.has_written = True

    def incr(self, key: bytes, by: int = 1, ttl: float | Keep | None = KEEP) -> int:
        count = increment(self._raw, self._scope, self.changes, key, by, ttl)
        self.has_written = True
        return count

    def expire(self, key: bytes, ttl: float | None) -> bool:
        now = self._scope.clock()
        deadline = deadline_of(ttl, now)
        self._scope.space.reserve_for_delete(self._raw)
        self._scope.keeper.note(0, deadline)
        existed = records.expire(self._raw, self._scope.prefix + key, deadline, now)
        self.has_written |= existed
        return existed

    def finish(self) -> tuple[int, Hand]:
        """Move the hand; return the number of the transaction, and the hand as of its commit."""
        return self._scope.keeper.keep_up(self._raw, self._scope.clock, self.changes)

    def notify(self, topic: bytes, *, one: bool = False) -> None:
        self._raw.id()  # raises, once the transaction has ended
        self.changes.append((self._scope.prefix + topic, ONE if one else FINAL, None, NEVER))


# -- operations: they add what has changed to a list -------------------------------------------------------------------


def put(
    raw: Transaction,
    scope: Scope,
    changes: list[Change],
    key: bytes,
    value: bytes,
    ttl: float | None,
    keep_prefix: bytes | None,
    interim: bool,
) -> bool:
    """Store a value, unless the present one begins with ``keep_prefix``: b"" keeps any value, None keeps none."""
    key, now, keeper = scope.prefix + key, scope.clock(), scope.keeper
    if type(value) is not bytes:
        value = bytes(memoryview(value))  # bytes() would take an int for a length
    size = len(value)
    scope.space.reserve(raw, len(key) + size + _RECORD_COST)
    deadline = now + ttl if ttl and 0 < ttl < math.inf else deadline_of(ttl, now)
    if not records.put(raw, key, value, deadline, now, keep_prefix):
        return False
    keeper.owed += 1 + size // CHUNK_BYTES
    if NEVER < deadline < keeper.soonest:
        keeper.soonest = deadline
    if interim:
        changes.append((key, INTERIM, None, deadline))
    else:
        changes.append((key, FINAL, value if size <= SHORT_VALUE else None, deadline))
    return True


def remove(raw: Transaction, scope: Scope, changes: list[Change], key: bytes) -> bool:
    """Delete a record; return whether there was one that had not expired."""
    scope.space.reserve_for_delete(raw)
    key = scope.prefix + key
    changes.append((key, FINAL, None, NEVER))  # also of an expired record, which a sweep will not meet now
    return records.remove(raw, key, scope.clock())


def increment(
    raw: Transaction, scope: Scope, changes: list[Change], key: bytes, by: int, ttl: float | Keep | None
) -> int:
    """Add to a counter, and return it."""
    key, now = scope.prefix + key, scope.clock()
    deadline = None if isinstance(ttl, Keep) else deadline_of(ttl, now)
    scope.space.reserve(raw, len(key) + _RECORD_COST)
    scope.keeper.note(1, deadline or NEVER)
    changes.append((key, FINAL, None, NEVER))
    return records.increment(raw, key, by, deadline, now)


# -- steps in a transaction of their own: they return a result, what has changed, the number of the transaction and the
# hand as of its end, and whether a record was certainly written ----------------------------------------------------


def run_step(
    raw: Transaction, scope: Scope, operation: Callable[..., Result], *args: Any
) -> tuple[Result, list[Change], tuple[int, Hand], object]:
    """Run an operation of this module, for which no `Writing` is needed: results are stored by this.

    One with a true result has written.
    """
    changes: list[Change] = []
    result = operation(raw, scope, changes, *args)
    return result, changes, scope.keeper.keep_up(raw, scope.clock, changes), result


def run_update(
    raw: Transaction, scope: Scope, operation: Callable[[WriteTransaction], Result]
) -> tuple[Result, list[Change], tuple[int, Hand], object]:
    """Run an operation, which may keep the transaction, or fork."""
    txn = Writing(scope, raw)
    try:
        return operation(txn), txn.changes, txn.finish(), txn.has_written
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
