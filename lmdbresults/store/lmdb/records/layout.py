"""The layout of the tree: what its keys and values are made of. How they are used is records.py's and others' business.

Everything lies in one tree, because each tree that a commit touches costs pages. The first byte of a place (a key of
LMDB's) says what is there:

    k <key>                      a record
    h <BLAKE2b of the key>       a record whose key is too long for LMDB; the value begins with the key
    p <id> <number>              a chunk of a large value (chunks.py)
    x <deadline> <k... or h...>  an entry of the expiry index (expiry_index.py); no value

The value of a record is a checksum of all that follows, seeded with that of the key; the deadline; the deadline of the
entry in the index; flags; the body.
"""

import struct
from hashlib import blake2b
from typing import Final, NamedTuple
from zlib import crc32

from lmdbresults.errors import RecordDamaged, quoted
from lmdbresults.store.values import NEVER

__all__ = [
    "BODY",
    "CHUNK",
    "CHUNK_BYTES",
    "DEADLINE",
    "DOOMED",
    "HASHED",
    "INDEX",
    "IS_CHUNKED",
    "IS_HASHED",
    "LARGEST_WHOLE",
    "LONGEST_KEY",
    "RECORD",
    "Record",
    "damaged",
    "fits_beside",
    "key_at",
    "pack",
    "place_of",
    "unpack",
    "unpack_head",
]

RECORD, HASHED, CHUNK, INDEX = b"k", b"h", b"p", b"x"

#: LMDB allows 511 bytes; an entry of the index holds the place of a record behind 9 bytes of its own.
LONGEST_KEY: Final = 511 - 9 - 1
#: Four pages of 4 KiB less LMDB's page header.
CHUNK_BYTES: Final = 4 * 4096 - 16

#: Sentinel deadline of a large value that a sweep is deleting in steps: before any present time.
DOOMED: Final = 5e-324

#: Flags: the body begins with the key; the body is the descriptor of chunks.
IS_HASHED, IS_CHUNKED = 1, 2

_HEAD: Final = struct.Struct(">IddB")
_CHECKED_HEAD: Final = struct.Struct(">ddB")
#: Where the body begins.
BODY: Final = _HEAD.size
#: In the key of an entry of the index.
DEADLINE: Final = struct.Struct(">d")
_KEY_LENGTH: Final = struct.Struct(">I")
#: Longer values are cut into chunks,
LARGEST_WHOLE: Final = CHUNK_BYTES - BODY
#: but not those that are this short, beside a very long key.
_SMALLEST_CHUNKED: Final = 1024


class Record(NamedTuple):
    """A record; in place of a large value it has the descriptor of its chunks."""

    deadline: float
    indexed: float
    """The deadline of its entry in the expiry index; 0: none."""
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
    try:
        (length,) = _KEY_LENGTH.unpack_from(data, BODY)
    except struct.error:
        raise damaged(place, "it is too short") from None
    start = BODY + _KEY_LENGTH.size
    return data[start : start + length]


def fits_beside(key: bytes, value: bytes) -> bool:
    """Return whether a value is stored whole beside a key that is too long for a place."""
    return len(value) <= max(LARGEST_WHOLE - len(key) - _KEY_LENGTH.size, _SMALLEST_CHUNKED)


def pack(key: bytes, deadline: float, indexed: float, flags: int, body: bytes) -> bytes:
    """Return what the tree holds for a record. The arguments behind the key are the fields of `Record`."""
    if flags & IS_HASHED:
        body = _KEY_LENGTH.pack(len(key)) + key + body
    checked = _CHECKED_HEAD.pack(deadline, indexed, flags) + body
    return crc32(checked, crc32(key)).to_bytes(4, "big") + checked


def unpack_head(key: bytes, data: bytes) -> tuple[float, float, int]:
    """Return deadline, deadline of the entry in the index, and flags. Raises `RecordDamaged`."""
    try:
        checksum, deadline, indexed, flags = _HEAD.unpack_from(data)
    except struct.error:
        raise damaged(key, "it is too short") from None
    if crc32(data[4:], crc32(key)) != checksum:
        raise damaged(key, "its checksum does not match")
    return deadline, indexed, flags


def unpack(key: bytes, data: bytes) -> Record:
    """Return the record that the tree holds under a key. Raises `RecordDamaged`."""
    deadline, indexed, flags = unpack_head(key, data)
    start = BODY + _KEY_LENGTH.size + len(key) if flags & IS_HASHED else BODY
    return Record(deadline, indexed, flags, data[start:])


def damaged(key: bytes, why: str) -> RecordDamaged:
    """Return the error for a damaged record."""
    error = RecordDamaged(f"The record under {quoted(key)} is damaged: {why}. Delete the key, or restore a backup.")
    error.key = key
    return error
