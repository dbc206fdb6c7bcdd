"""Check and repair of records: checksums, expiry index, chunks. The only code that reads every record of a file."""

from collections.abc import Iterator
from typing import NamedTuple

from lmdbresults.errors import RecordDamaged, quoted
from lmdbresults.store.lmdb.file.format import FORMAT_KEY
from lmdbresults.store.lmdb.records import chunks
from lmdbresults.store.lmdb.records.expiry_index import due_at, index_key, place_in
from lmdbresults.store.lmdb.records.layout import (
    CHUNK,
    DOOMED,
    HASHED,
    INDEX,
    IS_CHUNKED,
    RECORD,
    key_at,
    place_of,
    unpack,
)
from lmdbresults.store.lmdb.records.records import record_at, value_of
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["Problem", "check", "repair", "repairable"]


class Problem(NamedTuple):
    """Something that is wrong with a file. At most one of the two places is set; either can be repaired."""

    text: str
    """A sentence."""
    orphan: bytes | None = None
    """A place that nothing refers to. The repair deletes it."""
    unindexed: bytes | None = None
    """The place of a record that lacks its entry in the expiry index. The repair adds the entry."""


def check(txn: Transaction, now: float = 0.0) -> Iterator[Problem]:
    """Yield every problem of a snapshot.

    ``now``: an index entry that is due by then may lack its record, because a sweep deletes records first.
    """
    chunk_groups: set[bytes] = set()
    for place, data in txn.cursor():  # in the order of keys, records come before chunks and index
        region = place[:1]
        if region in (RECORD, HASHED):
            yield from _check_record(txn, place, data, chunk_groups)
        elif region == CHUNK:
            if chunks.group_of(place[1:]) not in chunk_groups:
                yield Problem(f"The chunk {quoted(place)} belongs to no record.", orphan=place)
        elif region == INDEX:
            if not _has_record(txn, place) and not _is_left_by_a_sweep(txn, place, now):
                yield Problem(f"The index entry {quoted(place)} has no record.", orphan=place)
        elif place != FORMAT_KEY:
            yield Problem(f"The key {quoted(place)} is of a kind that this version does not know.")


def repairable(txn: Transaction) -> list[Problem]:
    """Return the problems that can be repaired without losing data."""
    return [problem for problem in check(txn) if problem.orphan is not None or problem.unindexed is not None]


def repair(txn: Transaction, problems: list[Problem]) -> list[str]:
    """Repair problems that an earlier transaction has found, unless they are gone; return a sentence for each."""
    return [problem.text for problem in problems if _repair(txn, problem)]


def _repair(txn: Transaction, problem: Problem) -> bool:
    if problem.unindexed is not None:
        _, record = record_at(txn, problem.unindexed)
        return bool(record and record.indexed and txn.put(index_key(record.indexed, problem.unindexed), b""))
    place = problem.orphan
    assert place is not None, "other problems cannot be repaired"
    # An entry may have got its record since. A chunk cannot: ids are never reused.
    if place.startswith(INDEX) and _has_record(txn, place):
        return False
    return txn.delete(place)


def _check_record(txn: Transaction, place: bytes, data: bytes, chunk_groups: set[bytes]) -> Iterator[Problem]:
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
    if bool(record.indexed) != bool(record.deadline) or record.indexed > record.deadline:
        yield Problem(
            f"The record under {quoted(key)} expires at {record.deadline}, but its index entry is for {record.indexed}."
        )
    if record.indexed and txn.get(index_key(record.indexed, place)) is None:
        yield Problem(f"The record under {quoted(key)} has no entry in the expiry index.", unindexed=place)
    if place_of(key) != place:
        yield Problem(f"The record under {quoted(key)} is stored under another key.")


def _has_record(txn: Transaction, index_key: bytes) -> bool:
    place = place_in(index_key)
    if not place:
        return False
    _, record = record_at(txn, place)
    return record is not None and record.indexed == due_at(index_key)


def _is_left_by_a_sweep(txn: Transaction, index_key: bytes, now: float) -> bool:
    place = place_in(index_key)
    return place != b"" and due_at(index_key) <= now and txn.get(place) is None
