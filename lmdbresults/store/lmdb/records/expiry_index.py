"""The expiry index: an entry for each record with a deadline, in the order of the deadlines.

A record that can expire has exactly one entry, at or before its deadline. A later deadline leaves the entry where it
is; the sweep that meets it there moves it (expiry.py). So the usual STARTED, then SUCCESS touches the index once. A
sweep that was interrupted leaves entries that are due and belong to no record.
"""

import math
from itertools import islice, takewhile
from typing import Final

from lmdbresults.store.lmdb.records.layout import DEADLINE, INDEX, Record
from lmdbresults.store.lmdb.types import Transaction
from lmdbresults.store.values import NEVER

__all__ = ["due_at", "first_due", "index", "index_key", "next_deadline", "place_in"]

#: Where the place of the record begins in the key of an entry.
_PLACE: Final = len(INDEX) + DEADLINE.size
#: Entries read in one step of C, during which no other thread runs: about 10 ms.
_AT_ONCE: Final = 12_800


def index_key(deadline: float, place: bytes) -> bytes:
    """Return the key of the entry for a record."""
    return INDEX + DEADLINE.pack(deadline) + place


def place_in(key: bytes) -> bytes:
    """Return the place of the record that an entry is for; b"" if the entry is damaged."""
    return key[_PLACE:]


def due_at(key: bytes) -> float:
    """Return the deadline of an entry."""
    (deadline,) = DEADLINE.unpack_from(key, len(INDEX))
    return float(deadline)


def index(txn: Transaction, place: bytes, former: Record | None, deadline: float) -> float:
    """Let a record have an entry no later than its deadline; return the deadline of the entry, or 0 for none."""
    indexed = NEVER if former is None else former.indexed
    if indexed and deadline >= indexed:
        return indexed
    if indexed:
        txn.delete(index_key(indexed, place))
    if deadline:
        txn.put(index_key(deadline, place), b"")
    return deadline


def next_deadline(txn: Transaction) -> float:
    """Return when the first entry is due; infinity if there is none."""
    cursor = txn.cursor()
    if not cursor.set_range(INDEX):
        return math.inf
    return due_at(cursor.key())


def first_due(txn: Transaction, now: float, limit: int) -> list[bytes]:
    """Return the keys of up to ``limit`` entries that are due, in their order."""
    cursor = txn.cursor()
    if not cursor.set_range(INDEX):
        return []
    # Deadlines sort as their bytes do, as none is negative.
    behind = index_key(now if now > 0 else NEVER, b"\xff")
    due = takewhile(behind.__gt__, cursor.iternext(values=False))
    found: list[bytes] = []
    while part := list(islice(due, min(limit - len(found), _AT_ONCE))):
        found += part
    return found
