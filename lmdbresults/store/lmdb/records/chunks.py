"""Large values, cut into chunks that fit anywhere in a fragmented file.

LMDB puts a value that does not fit a page into a run of consecutive pages, and the longer the run, the harder it is to
find: in a fragmented file a put of 100 kB took 10.9 ms as one run and 38 µs in chunks. The record has a descriptor in
place of the value: the id of the chunks, the length of the value, its checksum.
"""

import os
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Final
from zlib import crc32

from lmdbresults.store.lmdb.file.mapped import mapped_memory
from lmdbresults.store.lmdb.records.layout import CHUNK, CHUNK_BYTES
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["cut", "drop", "fetch", "fetch_head", "group_of", "shorten"]

_DESCRIPTOR: Final = struct.Struct(">8sQI")
_NUMBER: Final = struct.Struct(">I")


def cut(txn: Transaction, value: bytes) -> bytes:
    """Write a value in chunks and return its descriptor."""
    group = os.urandom(8)
    for number, start in enumerate(range(0, len(value), CHUNK_BYTES)):
        txn.put(_place(group, number), value[start : start + CHUNK_BYTES])
    return _DESCRIPTOR.pack(group, len(value), crc32(value))


def fetch(txn: Transaction, descriptor: bytes) -> bytes | None:
    """Return the value, or None if its chunks do not match length and checksum."""
    group, length, checksum = _DESCRIPTOR.unpack(descriptor)
    value = b"".join(data for _, data in _chunks(txn, group))
    return value if len(value) == length and crc32(value) == checksum else None


def fetch_head(txn: Transaction, descriptor: bytes, size: int) -> bytes:
    """Return the first ``size`` bytes of the value, not verified; no chunk is read that does not hold any of them."""
    count = -(-size // CHUNK_BYTES)
    return b"".join(data for _, data in islice(_chunks(txn, group_of(descriptor)), count))[:size]


def drop(txn: Transaction, descriptor: bytes) -> None:
    """Delete every chunk."""
    for place in [place for place, _ in _chunks(txn, group_of(descriptor))]:
        txn.delete(place)


def shorten(txn: Transaction, descriptor: bytes, most: int) -> tuple[int, bytes | None]:
    """Delete up to ``most`` chunks, the last ones first.

    Return how many went, and the descriptor of the rest, which serves to go on, not to read; None: nothing is left.
    """
    group, length, checksum = _DESCRIPTOR.unpack(descriptor)
    count = -(-length // CHUNK_BYTES)
    left = max(count - most, 0)
    for number in range(left, count):
        txn.delete(_place(group, number))
    return count - left, _DESCRIPTOR.pack(group, left * CHUNK_BYTES, checksum) if left else None


def group_of(descriptor: bytes) -> bytes:
    """Return the id that the chunks of a value share. In their places it follows the first byte."""
    return descriptor[:8]


def _place(group: bytes, number: int) -> bytes:
    return CHUNK + group + _NUMBER.pack(number)


def _chunks(txn: Transaction, group: bytes) -> Iterator[tuple[bytes, bytes]]:
    first = CHUNK + group
    cursor = txn.cursor()
    if cursor.set_range(first):
        for place, data in cursor:
            if not place.startswith(first):
                break
            mapped_memory.note_read(len(data))
            yield place, data
