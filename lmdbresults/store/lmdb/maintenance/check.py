"""Whether everything in a file is as it should be, and what can be put right. Apart from the records because it is the
only one to read them all, and never runs while results are stored or fetched.
"""

from collections.abc import Iterator
from typing import NamedTuple

from lmdbresults.errors import RecordDamaged, quoted
from lmdbresults.store.lmdb.file.format import FORMAT_KEY
from lmdbresults.store.lmdb.records import chunks, waiters
from lmdbresults.store.lmdb.records.expiry_index import due_at, index_key, place_in
from lmdbresults.store.lmdb.records.layout import (
    CHUNK,
    DOOMED,
    HASHED,
    INDEX,
    IS_AWAITED,
    IS_CHUNKED,
    RECORD,
    VACANT,
    key_at,
    place_of,
    unpack,
)
from lmdbresults.store.lmdb.records.records import record_at, value_of
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["Problem", "apply", "check", "cures_in"]


class Problem(NamedTuple):
    """Something that is not as it should be."""

    text: str
    """A sentence."""
    leftover: bytes | None = None
    """What to delete from the tree, because nothing refers to it."""
    unindexed: bytes | None = None
    """The place of a record that has no entry in the index."""


def check(txn: Transaction, now: float = 0.0) -> Iterator[Problem]:
    """Yield each thing that is not as it should be: checksums, index, pieces, foreign keys.

    What is due by ``now`` may be half swept.
    """
    groups: set[bytes] = set()
    for place, data in txn.cursor():  # records come before pieces and index in the order of the keys
        region = place[:1]
        if region in (RECORD, HASHED):
            yield from _check_record(txn, place, data, groups)
        elif region == CHUNK:
            if chunks.group_of(place[1:]) not in groups:
                yield Problem(f"The piece {quoted(place)} belongs to no record.", leftover=place)
        elif region == INDEX:
            if not _points_at_a_record(txn, place) and not _is_left_by_a_sweep(txn, place, now):
                yield Problem(f"The index entry {quoted(place)} points at no record.", leftover=place)
        elif region == waiters.REGION:
            yield from _check_registration(txn, place, data)
        elif place != FORMAT_KEY:
            yield Problem(f"The key {quoted(place)} is of no kind that this version knows.")


def cures_in(txn: Transaction) -> list[Problem]:
    """Return the problems that can be put right without losing anything."""
    return [problem for problem in check(txn) if problem.leftover is not None or problem.unindexed is not None]


def apply(txn: Transaction, cures: list[Problem]) -> list[str]:
    """Put problems right that an earlier transaction has found, as far as they still are; return what was done."""
    return [problem.text for problem in cures if _cure(txn, problem)]


def _cure(txn: Transaction, problem: Problem) -> bool:
    if problem.unindexed is not None:
        _, record = record_at(txn, problem.unindexed)
        return bool(record and record.indexed and txn.put(index_key(record.indexed, problem.unindexed), b""))
    place = problem.leftover
    assert place is not None, "no other problem has a cure"
    if place.startswith(INDEX) and _points_at_a_record(txn, place):
        return False  # it has come to be meanwhile; a piece cannot, as its id is never used again
    if place.startswith(waiters.REGION) and not any(_check_registration(txn, place, txn.get(place, b""))):
        return False
    return txn.delete(place)


def _is_left_by_a_sweep(txn: Transaction, index_key: bytes, now: float) -> bool:
    """Return whether the record of an entry is gone that was due: a sweep deletes the records first (expiry.py)."""
    place = place_in(index_key)
    return place != b"" and due_at(index_key) <= now and txn.get(place) is None


def _check_record(txn: Transaction, place: bytes, data: bytes, groups: set[bytes]) -> Iterator[Problem]:
    try:
        key = key_at(place, data)
        record = unpack(key, data)
        if record.flags & IS_CHUNKED:
            groups.add(chunks.group_of(record.body))
            if record.deadline != DOOMED:
                value_of(txn, key, record)
    except RecordDamaged as damage:
        yield Problem(str(damage))
        return
    if bool(record.indexed) != bool(record.deadline) or record.indexed > record.deadline != VACANT:
        yield Problem(
            f"The record under {quoted(key)} expires at {record.deadline}, and is indexed at {record.indexed}."
        )
    if record.indexed and txn.get(index_key(record.indexed, place)) is None:
        yield Problem(f"The record under {quoted(key)} has no entry in the expiry index.", unindexed=place)
    if place_of(key) != place:
        yield Problem(f"The record under {quoted(key)} lies in the wrong place.")


def _points_at_a_record(txn: Transaction, index_key: bytes) -> bool:
    place = place_in(index_key)
    if not place:
        return False
    _, record = record_at(txn, place)
    return record is not None and record.indexed == due_at(index_key)


def _check_registration(txn: Transaction, entry_key: bytes, entry: bytes) -> Iterator[Problem]:
    if not waiters.is_sound(entry_key, entry):
        yield Problem(f"The registration {quoted(entry_key)} is damaged.", leftover=entry_key)
        return
    _, record = record_at(txn, entry[1:])
    if record is None or not record.flags & IS_AWAITED:
        yield Problem(
            f"The registration {quoted(entry_key)} is for a record that does not know of it.", leftover=entry_key
        )
