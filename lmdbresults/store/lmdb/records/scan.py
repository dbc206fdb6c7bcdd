"""All records whose key begins alike, some at a time."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from lmdbresults.errors import RecordDamaged
from lmdbresults.store.lmdb.records.records import _HASHED, _RECORD, _decode, _key_at, _value
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["scan"]

#: A page ends when it holds so many records, or so many bytes.
_PAGE_RECORDS: Final = 500
_PAGE_BYTES: Final = 4 << 20


class _Page:
    """What was read in one transaction."""

    def __init__(self) -> None:
        self.pairs: list[tuple[bytes, bytes]] = []
        #: Where to go on; None: nowhere.
        self.next: bytes | None = None
        self.damage: list[RecordDamaged] = []


def scan(
    read: Callable[..., _Page], own: bytes, prefix: bytes, clock: Callable[[], float]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs of key, without the prefix ``own`` of the store, and value.

    ``read(operation, *args)`` runs an operation in a transaction. One damaged record is no reason to keep the others
    back, nor to pass over it: `RecordDamaged` is raised at the end.
    """
    start: bytes | None = b""
    damage: list[RecordDamaged] = []
    while start is not None:
        page = read(_page, own + prefix, start, clock())
        for key, value in page.pairs:
            yield key[len(own) :], value
        damage += page.damage
        start = page.next
    if len(damage) > 1:
        raise RecordDamaged(f"{damage[0]} So are {len(damage) - 1} more, which store.check() lists.")
    if damage:
        raise damage[0]


def _page(txn: Transaction, prefix: bytes, start: bytes, now: float) -> _Page:
    """Read on from ``start``, which is b"" or where the page before ended.

    Long keys come first, in the order of their hashes; then the others in order.
    """
    page = _Page()
    size = 0
    for place, data in _places(txn, prefix, start):
        if len(page.pairs) >= _PAGE_RECORDS or size >= _PAGE_BYTES:
            page.next = place
            break
        try:
            pair = _pair(txn, place, data, prefix, now)
        except RecordDamaged as damage:
            page.damage.append(damage)
            continue
        if pair is not None:
            page.pairs.append(pair)
            size += len(pair[1])
    return page


def _pair(txn: Transaction, place: bytes, data: bytes, prefix: bytes, now: float) -> tuple[bytes, bytes] | None:
    key = _key_at(place, data)
    if not key.startswith(prefix):
        return None
    found = _decode(key, data)
    return None if found.is_expired(now) else (key, _value(txn, key, found))


def _places(txn: Transaction, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, Any]]:
    for region, first in ((_HASHED, _HASHED), (_RECORD, _RECORD + prefix)):
        cursor = txn.cursor()
        if start[:1] > region or not cursor.set_range(max(start, first)):
            continue
        for place, data in cursor:
            if not place.startswith(first):
                break
            yield place, data
