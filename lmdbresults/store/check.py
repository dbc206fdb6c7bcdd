"""Whether everything in a file is as it should be. Apart from the records because it is the only one to read them all,
and never runs while results are stored or fetched.
"""

from collections.abc import Iterator

from lmdbresults.errors import RecordDamaged
from lmdbresults.store import pieces, waiters
from lmdbresults.store.environment import FORMAT_KEY, Transaction
from lmdbresults.store.records import (
    _DEADLINE,
    _DOOMED,
    _HASHED,
    _INDEX,
    _IS_AWAITED,
    _IS_CUT,
    _RECORD,
    _VACANT,
    _at,
    _decode,
    _due,
    _index_key,
    _key_at,
    _value,
    place_of,
)

__all__ = ["check"]


def check(txn: Transaction) -> Iterator[str]:
    """Yield a sentence for each thing that is not as it should be: checksums, index, pieces, foreign keys."""
    groups: set[bytes] = set()
    for place, data in txn.cursor():  # records come before pieces and index in the order of the keys
        region = place[:1]
        if region in (_RECORD, _HASHED):
            yield from _check_record(txn, place, data, groups)
        elif region == pieces.REGION:
            if pieces.group_of(place[1:]) not in groups:
                yield f"The piece {place!r} belongs to no record."
        elif region == _INDEX:
            if not _points_at_a_record(txn, place):
                yield f"The index entry {place!r} points at no record."
        elif region == waiters.REGION:
            yield from _check_registration(txn, place, data)
        elif place != FORMAT_KEY:
            yield f"The key {place!r} is of no kind that this version knows."


def _check_record(txn: Transaction, place: bytes, data: bytes, groups: set[bytes]) -> Iterator[str]:
    try:
        key = _key_at(place, data)
        record = _decode(key, data)
        if record.flags & _IS_CUT:
            groups.add(pieces.group_of(record.body))
            if record.deadline != _DOOMED:
                _value(txn, key, record)
    except RecordDamaged as damage:
        yield str(damage)
        return
    if bool(record.indexed) != bool(record.deadline) or record.indexed > record.deadline != _VACANT:
        yield f"The record under {key!r} expires at {record.deadline}, and is indexed at {record.indexed}."
    if record.indexed and txn.get(_index_key(record.indexed, place)) is None:
        yield f"The record under {key!r} has no entry in the expiry index."
    if place_of(key) != place:
        yield f"The record under {key!r} lies in the wrong place."


def _points_at_a_record(txn: Transaction, index_key: bytes) -> bool:
    place = index_key[1 + _DEADLINE.size :]
    if not place:
        return False
    _, record = _at(txn, place)
    return record is not None and record.indexed == _due(index_key)


def _check_registration(txn: Transaction, entry_key: bytes, entry: bytes) -> Iterator[str]:
    if not waiters.is_sound(entry_key, entry):
        yield f"The registration {entry_key!r} is damaged."
        return
    _, record = _at(txn, entry[1:])
    if record is None or not record.flags & _IS_AWAITED:
        yield f"The registration {entry_key!r} is for a record that does not know of it."
