"""The layout of the tree: what its keys and values are made of. How they are used is records.py's and others' business.

Everything lies in one tree, because each tree that a commit touches costs pages. The first byte of a place (a key of
LMDB's) says what is there:

    k <key>                      a record
    h <BLAKE2b of the key>       a record whose key is too long for LMDB; the value begins with the key
    p <id> <number>              a chunk of a large value (chunks.py)

The value of a record is a checksum of all that follows, seeded with that of the key; the deadline; flags; the body.

Format 1 had the deadline of an index entry behind the deadline, and another seed, so that a record tells its own
format. Such records are read until they are replaced or expire (upgrade.py).
"""

import struct
from hashlib import blake2b
from typing import Final, NamedTuple
from zlib import crc32

from lmdbresults.errors import RecordDamaged, quoted
from lmdbresults.store.values import NEVER

__all__ = [
    "CHUNK",
    "CHUNK_BYTES",
    "DOOMED",
    "END_OF_PLACES",
    "FIRST_PLACE",
    "HASHED",
    "INDEX_1",
    "IS_CHUNKED",
    "IS_HASHED",
    "LARGEST_WHOLE",
    "LONGEST_KEY",
    "RECORD",
    "VALUE_AT",
    "Record",
    "damaged",
    "fits_beside",
    "key_at",
    "pack",
    "place_of",
    "unpack",
    "unpack_head",
]

RECORD, HASHED, CHUNK = b"k", b"h", b"p"
#: Places of the expiry index in format 1 begin with it.
INDEX_1: Final = b"x"
#: All records lie between these places, and nothing else does.
FIRST_PLACE, END_OF_PLACES = HASHED, b"l"

#: LMDB allows 511 bytes. Format 1 needed ten of them.
LONGEST_KEY: Final = 511 - 10
#: Four pages of 4 KiB less LMDB's page header.
CHUNK_BYTES: Final = 4 * 4096 - 16

#: Sentinel deadline of a large value that a sweep is deleting in steps: before any present time.
DOOMED: Final = 5e-324

#: Flags: the body begins with the key; the body is the descriptor of chunks.
IS_HASHED, IS_CHUNKED = 1, 2

_HEAD: Final = struct.Struct(">IdB")
_CHECKED_HEAD: Final = struct.Struct(">dB")
#: Where the body begins.
_BODY: Final = _HEAD.size
#: Where the value begins in a record whose flags are 0. Before it come the deadline, 8 bytes, and the flags, 1 byte.
VALUE_AT: Final = _BODY
#: Seeds the checksum of the key. With another seed, any other checksum results for the same record.
_SEED: Final = 2
_HEAD_1: Final = struct.Struct(">IddB")
_KEY_LENGTH: Final = struct.Struct(">I")
#: Longer values are cut into chunks,
LARGEST_WHOLE: Final = CHUNK_BYTES - _BODY
#: but not those that are this short, beside a very long key.
_SMALLEST_CHUNKED: Final = 1024


class Record(NamedTuple):
    """A record; in place of a large value it has the descriptor of its chunks."""

    deadline: float
    flags: int
    body: bytes

    def is_expired(self, now: float) -> bool:
        """Return whether the deadline has passed."""
        return NEVER < self.deadline <= now


def place_of(key: bytes) -> bytes:
    """Return the place of a record."""
    if len(key) <= LONGEST_KEY:
        return RECORD + key
    return HASHED + blake2b(key, digest_size=32).digest()


def key_at(place: bytes, data: bytes) -> bytes:
    """Return the key of the record at a place. Raises `RecordDamaged`."""
    if place.startswith(RECORD):
        return place[1:]
    key = _key_in(place, data, _BODY)
    if place_of(key) != place and len(data) > _HEAD_1.size + _KEY_LENGTH.size:
        former = _key_in(place, data, _HEAD_1.size)
        return former if place_of(former) == place else key
    return key


def _key_in(place: bytes, data: bytes, start: int) -> bytes:
    try:
        (length,) = _KEY_LENGTH.unpack_from(data, start)
    except struct.error:
        raise damaged(place, "it is too short") from None
    start += _KEY_LENGTH.size
    return data[start : start + length]


def fits_beside(key: bytes, value: bytes) -> bool:
    """Return whether a value is stored whole beside a key that is too long for a place."""
    return len(value) <= max(LARGEST_WHOLE - len(key) - _KEY_LENGTH.size, _SMALLEST_CHUNKED)


def pack(key: bytes, deadline: float, flags: int, body: bytes) -> bytes:
    """Return what the tree holds for a record. The arguments behind the key are the fields of `Record`."""
    if flags & IS_HASHED:
        body = _KEY_LENGTH.pack(len(key)) + key + body
    checked = _CHECKED_HEAD.pack(deadline, flags) + body
    return crc32(checked, crc32(key, _SEED)).to_bytes(4, "big") + checked


def unpack_head(key: bytes, data: bytes) -> tuple[float, int, int]:
    """Return deadline, flags, and where the body begins. Raises `RecordDamaged`."""
    if len(data) < _BODY:
        raise damaged(key, "it is too short")
    checksum, deadline, flags = _HEAD.unpack_from(data)
    if crc32(data[4:], crc32(key, _SEED)) == checksum:
        return deadline, flags, _BODY
    if crc32(data[4:], crc32(key)) == checksum and len(data) >= _HEAD_1.size:
        _, deadline, _, flags = _HEAD_1.unpack_from(data)
        return deadline, flags, _HEAD_1.size
    raise damaged(key, "its checksum does not match")


def unpack(key: bytes, data: bytes) -> Record:
    """Return the record that the tree holds under a key. Raises `RecordDamaged`."""
    deadline, flags, start = unpack_head(key, data)
    if flags & IS_HASHED:
        start += _KEY_LENGTH.size + len(key)
    return Record(deadline, flags, data[start:])


def damaged(key: bytes, why: str) -> RecordDamaged:
    """Return the error for a damaged record."""
    error = RecordDamaged(f"The record under {quoted(key)} is damaged: {why}. Delete the key, or restore a backup.")
    error.key = key
    return error
