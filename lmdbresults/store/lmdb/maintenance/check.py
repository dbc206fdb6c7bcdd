"""Check and repair of records: checksums, chunks, the bound of the hand, the heads of queues.

This code reads every record of a file.
"""

from collections.abc import Iterator
from typing import NamedTuple

from lmdbresults.errors import RecordDamaged, quoted
from lmdbresults.store.lmdb.file.format import FORMAT_KEY
from lmdbresults.store.lmdb.records import chunks
from lmdbresults.store.lmdb.records.hand import HAND_KEY, hand_of
from lmdbresults.store.lmdb.records.layout import (
    CHUNK,
    DOOMED,
    HASHED,
    INDEX_1,
    IS_CHUNKED,
    RECORD,
    key_at,
    place_of,
    unpack,
)
from lmdbresults.store.lmdb.records.records import value_of
from lmdbresults.store.lmdb.types import Transaction
from lmdbresults.store.queues.counting import Tally
from lmdbresults.store.values import NEVER

__all__ = ["Problem", "check", "repair", "repairable"]


class Problem(NamedTuple):
    """Something that is wrong with a file."""

    text: str
    """A sentence."""
    orphan: bytes | None = None
    """A place that nothing refers to. The repair deletes it."""


def check(txn: Transaction) -> Iterator[Problem]:
    """Yield every problem of a snapshot."""
    chunk_groups: set[bytes] = set()
    hand = hand_of(txn)
    resting_until = NEVER if hand.position else hand.bound
    queues = Tally()
    for place, data in txn.cursor():  # in the order of keys, records come before chunks
        region = place[:1]
        if region in (RECORD, HASHED):
            yield from _check_record(txn, place, data, chunk_groups, resting_until, queues)
        elif region == CHUNK:
            if chunks.group_of(place[1:]) not in chunk_groups:
                yield Problem(f"The chunk {quoted(place)} belongs to no record.", orphan=place)
        elif region != INDEX_1 and place not in (FORMAT_KEY, HAND_KEY):
            yield Problem(f"The key {quoted(place)} is of a kind that this version does not know.")
    yield from (Problem(correction.text) for correction in queues.corrections())


def repairable(txn: Transaction) -> list[Problem]:
    """Return the problems that can be repaired without losing data."""
    return [problem for problem in check(txn) if problem.orphan is not None]


def repair(txn: Transaction, problems: list[Problem]) -> list[str]:
    """Repair problems that an earlier transaction has found, unless they are gone; return a sentence for each.

    A chunk cannot have got its record since: ids are never reused.
    """
    return [problem.text for problem in problems if problem.orphan is not None and txn.delete(problem.orphan)]


def _check_record(
    txn: Transaction, place: bytes, data: bytes, chunk_groups: set[bytes], resting_until: float, queues: Tally
) -> Iterator[Problem]:
    try:
        key = key_at(place, data)
        record = unpack(key, data)
        if record.flags & IS_CHUNKED:
            chunk_groups.add(chunks.group_of(record.body))
            if record.deadline != DOOMED:
                value_of(txn, key, record)
    except RecordDamaged as damage:
        yield Problem(str(damage))
        return
    queues.add(key, record.body)
    if NEVER < record.deadline < resting_until:
        yield Problem(f"The record under {quoted(key)} expires before the sweep will look at it.")
    if place_of(key) != place:
        yield Problem(f"The record under {quoted(key)} is stored under another key.")
