"""Large values, cut into pieces that fit anywhere in a fragmented file.

LMDB puts what does not fit a page into a run of consecutive pages, and the longer the run, the harder it is to find: in
a fragmented file a put of 100 kB took 10.9 ms as one run and 38 µs in pieces. What stands in the record in place of the
value is a descriptor: the id of its pieces, its length, its checksum.
"""

import os
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Final
from zlib import crc32

from lmdbresults.store.lmdb.types import Transaction

__all__ = ["PIECE_BYTES", "REGION", "cut", "drop", "fetch", "fetch_head", "group_of", "shorten"]

#: The first byte of the keys of pieces.
REGION: Final = b"p"
#: Four pages of 4 KiB less LMDB's page header.
PIECE_BYTES: Final = 4 * 4096 - 16

_DESCRIPTOR: Final = struct.Struct(">8sQI")
_NUMBER: Final = struct.Struct(">I")


def cut(txn: Transaction, value: bytes) -> bytes:
    """Write a value in pieces and return its descriptor."""
    group = os.urandom(8)
    for number, start in enumerate(range(0, len(value), PIECE_BYTES)):
        txn.put(_place(group, number), value[start : start + PIECE_BYTES])
    return _DESCRIPTOR.pack(group, len(value), crc32(value))


def fetch(txn: Transaction, descriptor: bytes) -> bytes | None:
    """Return the value, or None if its pieces do not match length and checksum."""
    group, length, checksum = _DESCRIPTOR.unpack(descriptor)
    value = b"".join(data for _, data in _pieces(txn, group))
    return value if len(value) == length and crc32(value) == checksum else None


def fetch_head(txn: Transaction, descriptor: bytes, size: int) -> bytes:
    """Return the first ``size`` bytes of the value, unverified; no more pieces are read than that takes."""
    count = -(-size // PIECE_BYTES)
    return b"".join(data for _, data in islice(_pieces(txn, group_of(descriptor)), count))[:size]


def drop(txn: Transaction, descriptor: bytes) -> None:
    """Delete every piece."""
    for place in [place for place, _ in _pieces(txn, group_of(descriptor))]:
        txn.delete(place)


def shorten(txn: Transaction, descriptor: bytes, most: int) -> tuple[int, bytes | None]:
    """Delete up to ``most`` pieces, the last ones first.

    Return how many went, and the descriptor of the rest: good for going on, not for reading. None: nothing is left.
    """
    group, length, checksum = _DESCRIPTOR.unpack(descriptor)
    count = -(-length // PIECE_BYTES)
    left = max(count - most, 0)
    for number in range(left, count):
        txn.delete(_place(group, number))
    return count - left, _DESCRIPTOR.pack(group, left * PIECE_BYTES, checksum) if left else None


def group_of(descriptor: bytes) -> bytes:
    """Return the id that the pieces of a value have in common. In their keys it follows the region."""
    return descriptor[:8]


def _place(group: bytes, number: int) -> bytes:
    return REGION + group + _NUMBER.pack(number)


def _pieces(txn: Transaction, group: bytes) -> Iterator[tuple[bytes, bytes]]:
    first = REGION + group
    cursor = txn.cursor()
    if cursor.set_range(first):
        for place, data in cursor:
            if not place.startswith(first):
                break
            yield place, data
