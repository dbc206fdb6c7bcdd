"""Reading all records whose key begins with a prefix, a page at a time."""

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any, Final, NamedTuple

from lmdbresults.errors import RecordDamaged
from lmdbresults.store.lmdb.file.mapped import mapped_memory
from lmdbresults.store.lmdb.records.layout import CHUNK, FIRST_PLACE, HASHED, RECORD, key_at, unpack, unpack_head
from lmdbresults.store.lmdb.records.records import value_of
from lmdbresults.store.lmdb.types import Transaction
from lmdbresults.store.values import NEVER

__all__ = ["count_others", "ordered", "scan"]

#: A page ends after so many entries of the tree, or so many bytes of values.
_PAGE_ENTRIES: Final = 500
_PAGE_BYTES: Final = 4 << 20


class _Query(NamedTuple):
    """Which records are wanted, and how much of each."""

    prefix: bytes
    ranges: tuple[tuple[bytes, bytes], ...]
    """Where to begin in the tree, and what a place there must begin with."""
    head: int | None
    """Bytes of each value; None: all."""


class _Page:
    """What was read in one transaction."""

    def __init__(self) -> None:
        self.pairs: list[tuple[bytes, bytes]] = []
        #: The place at which the next page begins; None: this is the last one.
        self.next: bytes | None = None
        self.damage: list[RecordDamaged] = []


def scan(
    read: Callable[..., _Page], own: bytes, prefix: bytes, clock: Callable[[], float], head: int | None
) -> Iterator[tuple[bytes, bytes]]:
    """Yield key, without the prefix ``own`` of the store, and value: long keys first, in the order of their hashes.

    ``read(operation, *args)`` runs an operation in a transaction. Damaged records are skipped, and `RecordDamaged` is
    raised at the end.
    """
    prefix = own + prefix
    query = _Query(prefix, ((HASHED, HASHED), (RECORD + prefix, RECORD + prefix)), head)
    return _pairs(read, query, len(own), clock, None)


def ordered(
    read: Callable[..., _Page],
    own: bytes,
    prefix: bytes,
    clock: Callable[[], float],
    head: int | None,
    start: bytes,
    limit: int | None,
) -> Iterator[tuple[bytes, bytes]]:
    """Yield up to ``limit`` pairs from the key ``start`` on, in the order of their keys; long keys are left out."""
    prefix = own + prefix
    query = _Query(prefix, ((RECORD + max(prefix, own + start), RECORD + prefix),), head)
    return _pairs(read, query, len(own), clock, limit)


def _pairs(
    read: Callable[..., _Page], query: _Query, own: int, clock: Callable[[], float], limit: int | None
) -> Iterator[tuple[bytes, bytes]]:
    start: bytes | None = b""
    damage: list[RecordDamaged] = []
    while start is not None and limit != 0:
        page = read(_page, query, start, limit, clock())
        for key, value in page.pairs:
            yield key[own:], value
        if limit is not None:
            limit -= len(page.pairs)
        damage += page.damage
        start = page.next
    if len(damage) > 1:
        raise RecordDamaged(f"{damage[0]} So are {len(damage) - 1} more, which store.check() lists.")
    if damage:
        raise damage[0]


def _page(txn: Transaction, query: _Query, start: bytes, limit: int | None, now: float) -> _Page:
    """Read on from ``start``, which is b"" or where the page before ended."""
    page = _Page()
    pairs = page.pairs
    size = entries = 0
    for place, data in _entries(txn, query, start):
        if entries >= _PAGE_ENTRIES or size >= _PAGE_BYTES:
            page.next = place
            break
        entries += 1
        try:
            pair = _pair(txn, place, data, query, now)
        except RecordDamaged as damage:
            page.damage.append(damage)
            continue
        if pair is not None:
            pairs.append(pair)
            if len(pairs) == limit:
                break
            size += len(pair[1])
    mapped_memory.note_read(size)
    return page


def _pair(txn: Transaction, place: bytes, data: bytes, query: _Query, now: float) -> tuple[bytes, bytes] | None:
    key = place[1:] if place.startswith(RECORD) else key_at(place, data)
    if not key.startswith(query.prefix):
        return None
    deadline, flags, body_at = unpack_head(key, data)
    if NEVER < deadline <= now:
        return None
    if flags or query.head is not None:
        return key, value_of(txn, key, unpack(key, data), query.head)
    return key, data[body_at:]


def _entries(txn: Transaction, query: _Query, start: bytes) -> Iterator[tuple[bytes, Any]]:
    for first, beginning in query.ranges:
        cursor = txn.cursor()
        if start[:1] > first[:1] or not cursor.set_range(max(start, first)):
            continue
        for place, data in cursor:
            if not place.startswith(beginning):
                break
            yield place, data


def count_others(txn: Transaction) -> tuple[int, int]:
    """Return how many chunks of large values there are, and how many other entries of the tree that are not records."""
    cursor = txn.cursor()
    marks = sum(1 for _ in takewhile(FIRST_PLACE.__gt__, cursor.iternext(values=False)))
    chunks = sum(1 for _ in cursor.iternext(values=False)) if cursor.set_range(CHUNK) else 0
    return chunks, marks
