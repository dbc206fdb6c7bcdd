"""Reading the beginnings of very many records: as they lie in the tree, a slice at a time, half a microsecond each.

What makes it fast: the loop of the visitor runs over LMDB's own iterator, and nothing is verified or cut out for it.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice, takewhile
from typing import Any, Final, TypeAlias, TypeVar

from lmdbresults.errors import RecordDamaged
from lmdbresults.store.lmdb.file.mapped import mapped_memory
from lmdbresults.store.lmdb.records.layout import END_OF_PLACES, HASHED, RECORD, VALUE_AT, key_at
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["skim"]

#: Entries visited in one transaction: a few milliseconds, for which the pages of its snapshot cannot be reused.
_SLICE: Final = 5000
#: Bytes that an entry reads of the map, about.
_ENTRY_BYTES: Final = 512

Seen = TypeVar("Seen")
#: Called with each slice of entries (place, data), which it must read to the end.
Visit: TypeAlias = Callable[[Iterator[tuple[bytes, bytes]]], Seen]


def skim(read: Callable[..., Any], prefix: bytes, visit: Visit[Seen]) -> Iterator[Seen]:
    """Visit all records whose key, that of the store before it, begins with ``prefix``; yield what ``visit`` returns.

    ``read(operation, *args)`` runs an operation in a transaction, of which none is open when this yields. Long keys
    come last, and look like the others.
    """
    start: bytes | None = RECORD + prefix
    end = RECORD + prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else END_OF_PLACES
    slices = 0
    while start is not None:
        seen, start = read(_visit_slice, start, end, visit)
        slices += 1
        yield seen
    # Only now: neighbours in the tree lie far apart in the file, so pages given back early would be mapped many times.
    read(lambda txn: mapped_memory.note_read(slices * _SLICE * _ENTRY_BYTES))
    start = HASHED
    while start is not None:
        entries, start = read(_hashed_slice, start, prefix)
        if entries:
            yield visit(iter(entries))


def _visit_slice(txn: Transaction, start: bytes, end: bytes, visit: Visit[Seen]) -> tuple[Seen, bytes | None]:
    """Visit up to a slice of entries from ``start`` on; also return where the next slice starts, or None."""
    cursor = txn.cursor()
    entries = cursor if cursor.set_range(start) else ()
    # A tuple compares its first item first, so this ends before the place `end`, at the speed of C.
    seen = visit(islice(takewhile((end,).__gt__, entries), _SLICE))
    last = cursor.key()
    return seen, last + b"\0" if b"" < last < end else None


def _hashed_slice(txn: Transaction, start: bytes, prefix: bytes) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """Return records with long keys, as if their keys were short, and where the next slice starts."""
    cursor = txn.cursor()
    entries: list[tuple[bytes, bytes]] = []
    if not cursor.set_range(start):
        return entries, None
    for place, data in islice(cursor, _SLICE):
        if not place.startswith(HASHED):
            return entries, None
        with suppress(RecordDamaged):
            key = key_at(place, data)
            if key.startswith(prefix):
                entries.append((RECORD + key, data[:VALUE_AT]))  # whose flags say that the value lies elsewhere
    last = cursor.key()
    return entries, last + b"\0" if last else None
