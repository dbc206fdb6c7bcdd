"""Reading and writing records: a key leads to a value with a deadline.

Functions take a transaction of LMDB and know nothing of environments; the clock comes in as ``now``.
"""

from lmdbresults.errors import RecordDamaged
from lmdbresults.store.lmdb.file.format import FORMAT_KEY
from lmdbresults.store.lmdb.records import chunks
from lmdbresults.store.lmdb.records.layout import (
    IS_CHUNKED,
    IS_HASHED,
    LARGEST_WHOLE,
    LONGEST_KEY,
    RECORD,
    Record,
    damaged,
    fits_beside,
    pack,
    place_of,
    unpack,
    unpack_head,
)
from lmdbresults.store.lmdb.types import Transaction
from lmdbresults.store.values import NEVER, add_to_counter

__all__ = [
    "expire",
    "increment",
    "lookup",
    "move",
    "put",
    "record_of",
    "remove",
    "sound_record",
    "touch",
    "value_of",
    "write",
]


# -- reading -----------------------------------------------------------------------------------------------------------


def lookup(txn: Transaction, key: bytes, now: float) -> bytes | None:
    """Return the value, or None if there is none or it has expired. Raises `RecordDamaged`."""
    data = txn.get(RECORD + key if len(key) <= LONGEST_KEY else place_of(key))
    if data is None:
        return None
    deadline, flags, body_at = unpack_head(key, data)
    if NEVER < deadline <= now:
        return None
    if flags & (IS_HASHED | IS_CHUNKED):
        return value_of(txn, key, unpack(key, data))
    return data[body_at:]  # without a Record, which takes 1 µs of the 8 that reading a result does


def record_of(txn: Transaction, key: bytes, now: float) -> Record | None:
    """Return the record, or None if there is none or it has expired. Raises `RecordDamaged`."""
    data = txn.get(place_of(key))
    if data is None:
        return None
    found = unpack(key, data)
    return None if found.is_expired(now) else found


def value_of(txn: Transaction, key: bytes, record: Record, head: int | None = None) -> bytes:
    """Return the value of a record, or its first ``head`` bytes. Raises `RecordDamaged`.

    The head of a large value is not verified.
    """
    if not record.flags & IS_CHUNKED:
        return record.body[:head]
    if head is not None:
        return chunks.fetch_head(txn, record.body, head)
    value = chunks.fetch(txn, record.body)
    if value is None:
        raise damaged(key, "its chunks do not match its checksum")
    return value


def sound_record(txn: Transaction, key: bytes, place: bytes) -> Record | None:
    """Return the record of a key, expired or not; None if it is missing or damaged."""
    data = txn.get(place)
    try:
        return None if data is None else unpack(key, data)
    except RecordDamaged:
        return None


# -- writing -----------------------------------------------------------------------------------------------------------


def put(
    txn: Transaction,
    key: bytes,
    value: bytes,
    deadline: float,
    now: float,
    keep_prefix: bytes | None = None,
) -> bool:
    """Store a value that expires at ``deadline`` (0: never) and return True.

    A present value that begins with ``keep_prefix`` is kept: then return False. Every value begins with b"".
    """
    if len(key) <= LONGEST_KEY:
        flags, place, fits = 0, RECORD + key, len(value) <= LARGEST_WHOLE
    else:
        flags, place, fits = IS_HASHED, place_of(key), fits_beside(key, value)
    if fits and txn.put(place, pack(key, deadline, flags, value), overwrite=False):  # usually there is no record yet
        return True
    former = sound_record(txn, key, place)
    if keep_prefix is not None and former is not None and _begins_with(txn, former, keep_prefix, now):
        return False
    body, flags = (value, flags) if fits else (chunks.cut(txn, value), flags | IS_CHUNKED)
    if former is not None and former.flags & IS_CHUNKED:
        chunks.drop(txn, former.body)
    txn.put(place, pack(key, deadline, flags, body))
    return True


def _begins_with(txn: Transaction, present: Record, prefix: bytes, now: float) -> bool:
    """Return whether a value has not expired and begins with a prefix."""
    if present.is_expired(now):
        return False
    body = chunks.fetch_head(txn, present.body, len(prefix)) if present.flags & IS_CHUNKED else present.body
    return body.startswith(prefix)


def remove(txn: Transaction, key: bytes, now: float) -> bool:
    """Delete a record with all that belongs to it; return whether there was one that had not expired."""
    data = txn.pop(place_of(key))
    return data is not None and _drop_chunks(txn, key, data, now)


def _drop_chunks(txn: Transaction, key: bytes, data: bytes, now: float) -> bool:
    """Delete what belongs to a record that is gone; return whether it had not expired. A damaged record had not."""
    try:
        deadline, flags, _ = unpack_head(key, data)
    except RecordDamaged:
        return True
    if flags & IS_CHUNKED:
        chunks.drop(txn, unpack(key, data).body)
    return not NEVER < deadline <= now


def move(txn: Transaction, key: bytes, new_key: bytes, value: bytes, now: float) -> None:
    """Delete a record, and store a value that never expires under a key that may be the same."""
    if key != new_key:
        remove(txn, key, now)
    if len(new_key) > LONGEST_KEY or len(value) > LARGEST_WHOLE:
        put(txn, new_key, value, NEVER, now)
        return
    data = txn.replace(RECORD + new_key, pack(new_key, NEVER, 0, value))
    if data is not None:
        _drop_chunks(txn, new_key, data, now)


def expire(txn: Transaction, key: bytes, deadline: float, now: float) -> bool:
    """Give a record another deadline (0: never); return whether there is such a record."""
    found = record_of(txn, key, now)
    if found is None:
        return False
    write(txn, key, place_of(key), found._replace(deadline=deadline))
    return True


def increment(txn: Transaction, key: bytes, by: int, deadline: float | None, now: float) -> int:
    """Add to a counter, which starts at 0, and return it. A deadline of None keeps the present one.

    Raises `NotACounter`.
    """
    found = record_of(txn, key, now)
    if found is None:
        value, kept = b"0", NEVER
    else:
        value, kept = b"" if found.flags & IS_CHUNKED else found.body, found.deadline  # b"" is not a counter either
    count = add_to_counter(key, value, by)
    put(txn, key, b"%d" % count, kept if deadline is None else deadline, now)
    return count


def write(txn: Transaction, key: bytes, place: bytes, record: Record) -> None:
    """Write a record as it is: its chunks are the caller's."""
    txn.put(place, pack(key, *record))


def touch(txn: Transaction) -> None:
    """Change nothing, but make the commit count: LMDB reuses pages two commits after the one that freed them."""
    txn.put(FORMAT_KEY, txn.get(FORMAT_KEY, b""))
