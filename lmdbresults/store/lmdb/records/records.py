"""Records: a key leads to a value with a deadline. With the expiry index and counters.

All of it lies in one tree, because each tree that a commit touches costs pages. The first byte of a key says what
stands there:

    k <key>                  a record
    h <BLAKE2b of the key>   a record whose key is too long for LMDB; the value begins with the key
    p <id> <number>          a piece of a large value (chunks.py)
    w <topic> <box>          a registration of somebody who waits (waiters.py)
    x <deadline> <k... h...> an entry of the expiry index, ordered by deadline; no value

A record that can expire has exactly one entry in the index, at or before its deadline. Overwriting it with a later
deadline leaves the entry where it is; the sweep that meets it there moves it on (expiry.py). So the usual STARTED, then
SUCCESS touches the index once. A sweep that was broken off leaves entries that are due and belong to no record.

Functions take a raw transaction and know nothing of environments; the clock comes in as ``now``.
"""

import struct
from hashlib import blake2b
from typing import Final, NamedTuple
from zlib import crc32

from lmdbresults.errors import RecordDamaged, quoted
from lmdbresults.store.lmdb.file.format import FORMAT_KEY
from lmdbresults.store.lmdb.records import chunks as pieces
from lmdbresults.store.lmdb.records import waiters
from lmdbresults.store.lmdb.records.waiters import News
from lmdbresults.store.lmdb.types import Transaction
from lmdbresults.store.values import NEVER, add_to_counter

__all__ = [
    "NEVER",
    "entry",
    "expire",
    "increment",
    "lookup",
    "place_of",
    "put",
    "remove",
    "touch",
]

#: The deadline of a large value that a sweep is taking down in steps: before any present time.
_DOOMED: Final = 5e-324
#: The deadline of a record that is not there, but waited for. Its entry in the index says how long it stays.
_VACANT: Final = 1e-323

_RECORD, _HASHED, _INDEX = b"k", b"h", b"x"

#: LMDB allows 511 bytes; an index entry holds a record's key behind 9 bytes of its own.
_LONGEST_KEY: Final = 511 - 9 - 1

#: Checksum of all that follows (seeded with the key's), deadline, deadline of the index entry, flags.
_HEAD: Final = struct.Struct(">IddB")
_BODY: Final = _HEAD.size
_AFTER_CHECKSUM: Final = struct.Struct(">ddB")
_IS_HASHED: Final = 1
_IS_CUT: Final = 2
_IS_AWAITED: Final = 4

_DEADLINE: Final = struct.Struct(">d")
_KEY_LENGTH: Final = struct.Struct(">I")
#: What is longer is cut into pieces.
_LARGEST_WHOLE: Final = pieces.PIECE_BYTES - _BODY
#: What is not longer stays whole even beside a very long key.
_SMALLEST_CUT: Final = 1024


class Entry(NamedTuple):
    """A record without its value, if that is cut up."""

    deadline: float
    indexed: float
    flags: int
    body: bytes

    def is_expired(self, now: float) -> bool:
        return NEVER < self.deadline <= now


# -- reading -----------------------------------------------------------------------------------------------------


def lookup(txn: Transaction, key: bytes, now: float) -> bytes | None:
    """Return the value, or None if there is none or it has expired. Raises `RecordDamaged`."""
    data = txn.get(_RECORD + key if len(key) <= _LONGEST_KEY else place_of(key))
    if data is None:
        return None
    deadline, _, flags = _checked(key, data)
    if NEVER < deadline <= now:
        return None
    if flags & (_IS_HASHED | _IS_CUT):
        return _value(txn, key, _decode(key, data))
    return data[_BODY:]  # without an Entry, which takes 1 µs of the 8 that reading a result does


def entry(txn: Transaction, key: bytes, now: float) -> Entry | None:
    """Return the record without fetching a large value, or None. Raises `RecordDamaged`."""
    data = txn.get(place_of(key))
    if data is None:
        return None
    found = _decode(key, data)
    return None if NEVER < found.deadline <= now else found


def _key_at(place: bytes, data: bytes) -> bytes:
    if place.startswith(_RECORD):
        return place[1:]
    try:
        (length,) = _KEY_LENGTH.unpack_from(data, _BODY)
    except struct.error:
        raise _damaged(place, "it is too short") from None
    start = _BODY + _KEY_LENGTH.size
    return data[start : start + length]


def place_of(key: bytes) -> bytes:
    """Return the key under which LMDB has the record."""
    if len(key) <= _LONGEST_KEY:
        return _RECORD + key
    return _HASHED + blake2b(key, digest_size=32).digest()


def _checked(key: bytes, data: bytes) -> tuple[float, float, int]:
    """Return deadline, deadline of the index entry and flags of a record that is as it was written."""
    try:
        checksum, deadline, indexed, flags = _HEAD.unpack_from(data)
    except struct.error:
        raise _damaged(key, "it is too short") from None
    if crc32(data[4:], crc32(key)) != checksum:
        raise _damaged(key, "its checksum does not match")
    return deadline, indexed, flags


def _decode(key: bytes, data: bytes) -> Entry:
    deadline, indexed, flags = _checked(key, data)
    start = _BODY + _KEY_LENGTH.size + len(key) if flags & _IS_HASHED else _BODY
    return Entry(deadline, indexed, flags, data[start:])


def _damaged(key: bytes, why: str) -> RecordDamaged:
    error = RecordDamaged(f"The record under {quoted(key)} is damaged: {why}. Delete the key, or restore a backup.")
    error.key = key
    return error


def _value(txn: Transaction, key: bytes, found: Entry, head: int | None = None) -> bytes:
    """Return the value of a record, or its first ``head`` bytes, which do not tell whether a large value is damaged."""
    if not found.flags & _IS_CUT:
        return found.body[:head]
    if head is not None:
        return pieces.fetch_head(txn, found.body, head)
    value = pieces.fetch(txn, found.body)
    if value is None:
        raise _damaged(key, "its pieces do not match its checksum")
    return value


# -- writing -----------------------------------------------------------------------------------------------------


def put(
    txn: Transaction,
    key: bytes,
    value: bytes,
    deadline: float,
    now: float,
    news: list[News],
    keep_prefix: bytes | None = None,
    interim: bool = False,
) -> bool:
    """Store a value that expires at ``deadline`` (0: never) and return True; what to tell whom is added to ``news``.

    If there is a value already that begins with ``keep_prefix``, leave it and return False; b"" is in every value.
    """
    if len(key) <= _LONGEST_KEY:
        flags, place, fits = 0, _RECORD + key, len(value) <= _LARGEST_WHOLE
    else:
        flags, place = _IS_HASHED, place_of(key)
        fits = len(value) <= max(_LARGEST_WHOLE - len(key) - _KEY_LENGTH.size, _SMALLEST_CUT)
    # Nothing is there in the usual case, for which no look is needed; nor are Entry and _index(), 1 µs of the 30 that
    # it takes to store a result.
    if fits and txn.put(place, _packed(key, deadline, deadline, flags, value), overwrite=False):
        if deadline:
            txn.put(_index_key(deadline, place), b"")
        return True
    former = _former(txn, key, place)
    if keep_prefix is not None and former is not None and _protects(txn, former, keep_prefix, now):
        return False
    body, flags = (value, flags) if fits else (pieces.cut(txn, value), flags | _IS_CUT)
    if former is not None and former.flags & _IS_CUT:
        pieces.drop(txn, former.body)
    if former is None or former.flags & _IS_AWAITED:  # what is damaged may have been awaited
        news += waiters.take(txn, place, interim, value, deadline)
        flags |= _IS_AWAITED if interim else 0
    txn.put(place, _packed(key, deadline, _index(txn, place, former, deadline), flags, body))
    return True


def _protects(txn: Transaction, present: Entry, prefix: bytes, now: float) -> bool:
    if present.is_expired(now):
        return False
    beginning = pieces.fetch_head(txn, present.body, len(prefix)) if present.flags & _IS_CUT else present.body
    return beginning.startswith(prefix)


def remove(txn: Transaction, key: bytes, now: float, news: list[News]) -> bool:
    """Delete a record with all that belongs to it; return whether there was one that had not expired."""
    place = place_of(key)
    former = _former(txn, key, place)
    existed = txn.delete(place)
    if existed and (former is None or former.flags & _IS_AWAITED):  # what is damaged may have been awaited
        news += waiters.take(txn, place, interim=False)
    if former is not None:
        _take_down(txn, place, former)
    return existed if former is None else not former.is_expired(now)


def expire(txn: Transaction, key: bytes, deadline: float, now: float) -> bool:
    """Give a record another deadline (0: never); return whether there is such a record."""
    found = entry(txn, key, now)
    if found is None:
        return False
    place = place_of(key)
    _write(txn, key, place, found._replace(deadline=deadline, indexed=_index(txn, place, found, deadline)))
    return True


def increment(txn: Transaction, key: bytes, by: int, deadline: float | None, now: float, news: list[News]) -> int:
    """Add to a counter, which begins at 0, and return it. A deadline of None leaves the present one as it is.

    A counter is a decimal number in ASCII, as in Redis. Raises `NotACounter`.
    """
    found = entry(txn, key, now)
    count = add_to_counter(key, b"0" if found is None else _short_value(found), by)
    if deadline is None:
        deadline = NEVER if found is None else found.deadline
    put(txn, key, b"%d" % count, deadline, now, news)
    return count


def _short_value(found: Entry) -> bytes:
    """Return the value of a record; b"" stands for a large one, which is not a counter either."""
    return b"" if found.flags & _IS_CUT else found.body


def _former(txn: Transaction, key: bytes, place: bytes) -> Entry | None:
    """Return what is about to be replaced. Nothing that a damaged record says about its belongings is believed."""
    data = txn.get(place)
    try:
        return None if data is None else _decode(key, data)
    except RecordDamaged:
        return None


def _write(txn: Transaction, key: bytes, place: bytes, record: Entry) -> None:
    txn.put(place, _packed(key, *record))


def _packed(key: bytes, deadline: float, indexed: float, flags: int, body: bytes) -> bytes:
    """Return what LMDB has in the place of a record. The arguments behind the key are the fields of `Entry`."""
    if flags & _IS_HASHED:
        body = _KEY_LENGTH.pack(len(key)) + key + body
    checked = _AFTER_CHECKSUM.pack(deadline, indexed, flags) + body
    return crc32(checked, crc32(key)).to_bytes(4, "big") + checked


def _take_down(txn: Transaction, place: bytes, record: Entry) -> None:
    """Delete what belongs to a record that is going."""
    if record.flags & _IS_CUT:
        pieces.drop(txn, record.body)
    if record.indexed:
        txn.delete(_index_key(record.indexed, place))


def touch(txn: Transaction) -> None:
    """Change nothing, but have the commit count: pages may be reused two commits after the one that freed them."""
    txn.put(FORMAT_KEY, txn.get(FORMAT_KEY, b""))


# -- the expiry index --------------------------------------------------------------------------------------------


def _index_key(deadline: float, place: bytes) -> bytes:
    return _INDEX + _DEADLINE.pack(deadline) + place


def _index(txn: Transaction, place: bytes, former: Entry | None, deadline: float) -> float:
    """Have the index point at a record no later than at its deadline; return the deadline of the entry, or 0."""
    indexed = NEVER if former is None else former.indexed
    if indexed and deadline >= indexed:
        return indexed
    if indexed:
        txn.delete(_index_key(indexed, place))
    if deadline:
        txn.put(_index_key(deadline, place), b"")
    return deadline


def _due(index_key: bytes) -> float:
    (deadline,) = _DEADLINE.unpack_from(index_key, 1)
    return float(deadline)


def _at(txn: Transaction, place: bytes) -> tuple[bytes, Entry | None]:
    """Return the key and the record at a place of the tree; None if it is not there or damaged."""
    data = txn.get(place)
    try:
        return (b"", None) if data is None else (key := _key_at(place, data), _decode(key, data))
    except RecordDamaged:
        return b"", None
