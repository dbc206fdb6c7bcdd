"""The deletion of expired records.

A sweep in the order of deadlines meets records with random ids all over the tree, each on a page of its own, whose copy
is most of what deleting it costs. So a long sweep reads many entries of the index first, deletes their records in the
order of the tree (`reap`), then the entries in theirs (`drop`). In between there are entries that belong to no record,
which do not disturb a record that is stored under the same key. Records that need more work are left for `sweep`.
"""

import math
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from lmdbresults.errors import RecordDamaged
from lmdbresults.store.lmdb.records import chunks
from lmdbresults.store.lmdb.records.expiry_index import due_at, first_due, index, next_deadline, place_in
from lmdbresults.store.lmdb.records.layout import DOOMED, IS_CHUNKED, RECORD, Record, unpack_head
from lmdbresults.store.lmdb.records.records import record_at, write
from lmdbresults.store.lmdb.types import FINAL, Change, Transaction
from lmdbresults.store.values import NEVER

__all__ = ["SweepAlong", "drop", "in_order_of_the_tree", "reap", "sweep"]

#: What a writer sweeps beside twice what it adds: then the store shrinks to what has not expired, and sweeping takes
#: about as long as the write itself (each deleted record dirties a page: about 5 µs).
_SWEEP_PER_WRITE: Final = 8
#: Seconds after which a writer looks at the index again: another process may have stored something short-lived.
_LOOK_AGAIN: Final = 1.0
#: Entries sorted in one step of C, during which no other thread runs: about 10 ms.
_AT_ONCE: Final = 12_800
#: One of so many entries is sampled to see how their places are distributed.
_SAMPLED: Final = 64


def in_order_of_the_tree(index_keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield entries of the index in the order of the places of their records, in parts of bounded size."""
    sample = sorted(map(place_in, islice(index_keys, 0, None, _SAMPLED)))
    bounds = sample[_AT_ONCE // _SAMPLED :: _AT_ONCE // _SAMPLED]
    parts: list[list[bytes]] = [[] for _ in range(len(bounds) + 1)]
    for index_key in index_keys:
        parts[bisect(bounds, place_in(index_key))].append(index_key)
    for part in parts:
        yield sorted(part, key=place_in)


def reap(txn: Transaction, index_keys: Iterable[bytes], now: float) -> list[bytes]:
    """Delete the expired records of some entries, and return those entries, which are left for `drop`.

    A record that takes more than deleting one key is left for `sweep`.
    """
    cursor = txn.cursor()
    reaped = []
    for index_key in index_keys:
        place = place_in(index_key)
        if cursor.set_key(place) and _is_plain(place, cursor.value(), now):
            cursor.delete()
            reaped.append(index_key)
    return reaped


def _is_plain(place: bytes, data: bytes, now: float) -> bool:
    """Return whether a record is sound and expired, and nothing but its entry belongs to it."""
    if not place.startswith(RECORD):
        return False
    try:
        deadline, _, flags = unpack_head(place[1:], data)
    except RecordDamaged:
        return False
    return not flags and NEVER < deadline <= now


def drop(txn: Transaction, index_keys: Sequence[bytes]) -> Sequence[bytes]:
    """Delete some entries of the index, and return them."""
    cursor = txn.cursor()
    cursor.first()
    for index_key in index_keys:
        if cursor.key() == index_key or cursor.set_key(index_key):
            cursor.delete()  # which moves the cursor to the next one
    return index_keys


def sweep(txn: Transaction, now: float, limit: int, budget: int, changes: list[Change]) -> tuple[int, bool]:
    """Delete up to ``limit`` expired records; return how many, and whether there may be more. Add to the changes.

    ``budget`` bounds the work: each entry of the index and each chunk of a large value costs one.
    """
    removed = 0
    due = first_due(txn, now, budget)
    for index_key in due:
        if budget <= 0 or removed >= limit:
            break
        gone, cost = _sweep_one(txn, index_key, now, budget, changes)
        removed += gone
        budget -= cost
    return removed, bool(due)


def _sweep_one(txn: Transaction, index_key: bytes, now: float, budget: int, changes: list[Change]) -> tuple[int, int]:
    """Delete an entry of the index and its record, if that has expired; return how many records went, and the cost."""
    place = place_in(index_key)
    key, record = record_at(txn, place)
    txn.delete(index_key)
    if record is None or record.indexed != due_at(index_key):
        return 0, 1  # the record is gone or damaged, or the entry is not its own
    if not record.is_expired(now):  # it was given a later deadline since
        write(txn, key, place, record._replace(indexed=index(txn, place, None, record.deadline)))
        return 0, 1
    changes.append((key, FINAL, None, NEVER))
    if not record.flags & IS_CHUNKED:
        txn.delete(place)
        return 1, 1
    chunks_gone, rest = chunks.shorten(txn, record.body, budget)
    if rest is None:
        txn.delete(place)
    else:  # half a value must stay expired even if the clock is set back
        indexed = index(txn, place, None, DOOMED)
        write(txn, key, place, Record(DOOMED, indexed, record.flags, rest))
    return int(rest is None), chunks_gone + 1


class SweepAlong:
    """What a writer sweeps in its own transactions, so that the store stays small without other help."""

    def __init__(self) -> None:
        #: When this writer last looked for expired records, and when it must look again. A clock before that was set
        #: back.
        self.looked_at = self.look_again_at = -math.inf

    def run(self, txn: Transaction, now: float, added: int, changes: list[Change]) -> None:
        """Sweep more than the transaction has added."""
        budget = _SWEEP_PER_WRITE + 2 * added
        _, more = sweep(txn, now, budget, budget, changes)
        self.looked_at = now
        self.look_again_at = now if more else min(next_deadline(txn), now + _LOOK_AGAIN)
