"""Expiry: what is due by the index, and its deletion.

A sweep in the order of deadlines meets records with random ids all over the tree, each on a page of its own, whose copy
is most of what deleting it costs. So a long sweep reads many entries first, deletes their records in the order of the
tree (`reap`), and the entries in theirs (`drop`). In between there are entries that belong to no record, which one that
is stored anew under its key does not mind. What is left is for `sweep`.
"""

import math
import struct
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Final
from zlib import crc32

from lmdbresults.store.lmdb.records import chunks as pieces
from lmdbresults.store.lmdb.records import waiters
from lmdbresults.store.lmdb.records.records import (
    _DEADLINE,
    _DOOMED,
    _HEAD,
    _INDEX,
    _IS_AWAITED,
    _IS_CUT,
    _VACANT,
    NEVER,
    Entry,
    _at,
    _due,
    _index,
    _write,
)
from lmdbresults.store.lmdb.records.waiters import News
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["drop", "first_due", "in_order_of_the_tree", "next_deadline", "reap", "sweep"]

#: Where the place of the record begins in the key of an entry.
_PLACE: Final = len(_INDEX) + _DEADLINE.size
#: So many entries are read, or sorted, in one step of C, in which no other thread has its turn: about 10 ms.
_AT_ONCE: Final = 12_800
#: One of so many entries is looked at to see how their places are spread.
_SAMPLED: Final = 64


def next_deadline(txn: Transaction) -> float:
    """Return when the first entry of the index is due; infinity if there is none."""
    cursor = txn.cursor()
    if not cursor.set_range(_INDEX):
        return math.inf
    return _due(cursor.key())


def first_due(txn: Transaction, now: float, limit: int) -> list[bytes]:
    """Return up to ``limit`` keys of entries that are due, in their order."""
    cursor = txn.cursor()
    if not cursor.set_range(_INDEX):
        return []
    # Deadlines sort as their bytes do, as none is negative.
    behind = _INDEX + _DEADLINE.pack(now if now > 0 else NEVER) + b"\xff"
    due = takewhile(behind.__gt__, cursor.iternext(values=False))
    found: list[bytes] = []
    while part := list(islice(due, min(limit - len(found), _AT_ONCE))):
        found += part
    return found


def in_order_of_the_tree(index_keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield entries in the order of the places that they point at, part by part."""
    sample = sorted(map(_place_in, islice(index_keys, 0, None, _SAMPLED)))
    bounds = sample[_AT_ONCE // _SAMPLED :: _AT_ONCE // _SAMPLED]
    parts: list[list[bytes]] = [[] for _ in range(len(bounds) + 1)]
    for index_key in index_keys:
        parts[bisect(bounds, index_key[_PLACE:])].append(index_key)
    for part in parts:
        yield sorted(part, key=_place_in)


def _place_in(index_key: bytes) -> bytes:
    return index_key[_PLACE:]


def reap(txn: Transaction, index_keys: Iterable[bytes], now: float) -> list[bytes]:
    """Delete those of the records behind some entries that have expired, and return their entries.

    These are left, for `drop`, and so is what takes more than deleting one key, for `sweep`.
    """
    cursor = txn.cursor()
    reaped = []
    for index_key in index_keys:
        place = index_key[_PLACE:]
        if cursor.set_key(place) and _is_mere(place, cursor.value(), now):
            cursor.delete()
            reaped.append(index_key)
    return reaped


def _is_mere(place: bytes, data: bytes, now: float) -> bool:
    """Return whether a record is sound, has expired, and nothing but its entry belongs to it."""
    try:
        checksum, deadline, _, flags = _HEAD.unpack_from(data)
    except struct.error:  # it is too short
        return False
    return not flags and _VACANT < deadline <= now and crc32(data[4:], crc32(place[1:])) == checksum


def drop(txn: Transaction, index_keys: Sequence[bytes]) -> Sequence[bytes]:
    """Delete some entries, and return them."""
    cursor = txn.cursor()
    cursor.first()
    for index_key in index_keys:
        if cursor.key() == index_key or cursor.set_key(index_key):
            cursor.delete()  # and be at the next one
    return index_keys


def sweep(txn: Transaction, now: float, limit: int, budget: int, news: list[News]) -> tuple[int, bool]:
    """Delete up to ``limit`` records that have expired; return how many, and whether there may be more.

    ``budget`` bounds the work: each entry of the index and each piece of a large value costs one.
    """
    removed = 0
    due = first_due(txn, now, budget)
    for index_key in due:
        if budget <= 0 or removed >= limit:
            break
        gone, cost = _sweep_one(txn, index_key, now, budget, news)
        removed += gone
        budget -= cost
    return removed, bool(due)


def _sweep_one(txn: Transaction, index_key: bytes, now: float, budget: int, news: list[News]) -> tuple[int, int]:
    """Follow one entry of the index; return how many records went, and what that cost."""
    place = index_key[_PLACE:]
    key, record = _at(txn, place)
    txn.delete(index_key)
    if record is None or record.indexed != _due(index_key):
        return 0, 1  # the record is gone or damaged, or was replaced by something that the entry is not about
    if not record.is_expired(now):  # it was given a later deadline since
        _write(txn, key, place, record._replace(indexed=_index(txn, place, None, record.deadline)))
        return 0, 1
    if record.flags & _IS_AWAITED:  # who still waits registers again
        news += waiters.take(txn, place, interim=False)
    if not record.flags & _IS_CUT:
        txn.delete(place)
        return int(record.deadline != _VACANT), 1
    pieces_gone, rest = pieces.shorten(txn, record.body, budget)
    if rest is None:
        txn.delete(place)
    else:  # half a value has to stay expired even if the clock is set back
        indexed = _index(txn, place, None, _DOOMED)
        _write(txn, key, place, Entry(_DOOMED, indexed, record.flags & ~_IS_AWAITED, rest))
    return int(rest is None), pieces_gone + 1
