"""The format of the log: what each commit has changed, so that it can be done again after a power failure.

The log has two halves. Each begins with a header, and its records follow without gaps, one for each commit. The
checksum of a record covers that of the record before, and the first one covers the header. So what an earlier use of
the half has left never counts, and neither does what follows a record that was overwritten.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from zlib import crc32

from lmdbresults.store.lmdb.file.meta import IDENTITY_BYTES
from lmdbresults.store.lmdb.types import Transaction

__all__ = [
    "DELETED",
    "HALF_BYTES",
    "OPERATION",
    "RECORDS_AT",
    "Half",
    "Record",
    "pack",
    "read_half",
    "read_header",
    "records_after",
    "redo",
]

#: The size of a half of a new log. It holds a second's records of 5,000 stores of 300 bytes.
HALF_BYTES: Final = 4 << 20
#: Where the records of a half begin: in the second sector, as the first one has the header.
RECORDS_AT: Final = 512

_MAGIC: Final = b"lmdbrlg1"
#: Magic, and the fields of `Half` in their order; then a checksum.
_HEADER: Final = struct.Struct(f">8sQQQI{IDENTITY_BYTES}s8s")
_CHECKSUM: Final = struct.Struct(">I")
_HEADER_BYTES: Final = _HEADER.size + _CHECKSUM.size
#: Checksum of all that follows; bytes of the operations, number of the commit. Then the operations.
_RECORD: Final = struct.Struct(">IIQ")
#: Bytes of the key, and of the value; then both.
OPERATION: Final = struct.Struct(">HI")
#: In place of the bytes of a value: the key was deleted.
DELETED: Final = 0xFFFFFFFF


class Half(NamedTuple):
    """The header of a half."""

    serial: int
    """Grows with each use of either half."""
    life: int
    """Of the log: its records follow checkpoints of the same life only."""
    base: int
    """The commit before the first record."""
    before: int
    """The checksum of that commit's record, which ends the other half; 0 if there is none."""
    identity: bytes
    """Of the data file."""
    salt: bytes
    """Random bytes."""

    def pack(self) -> bytes:
        """Return the bytes that the half begins with."""
        body = _HEADER.pack(_MAGIC, *self)
        return body + _CHECKSUM.pack(crc32(body))

    @property
    def checksum(self) -> int:
        """What stands for the checksum of a record before the first one."""
        return crc32(self.salt, crc32(self.pack()))


class Record(NamedTuple):
    """What one commit has changed."""

    number: int
    """Of the commit."""
    operations: bytes
    checksum: int


def pack(number: int, operations: bytes, before: int) -> tuple[bytes, int]:
    """Return the bytes of a record, and its checksum; ``before`` is that of the record before."""
    fields = _RECORD.pack(0, len(operations), number)[_CHECKSUM.size :]
    checksum = crc32(operations, crc32(fields, before))
    return _CHECKSUM.pack(checksum) + fields + operations, checksum


def read_half(descriptor: int, number: int) -> tuple[Half, Iterator[Record]] | None:
    """Return the header of half 0 or 1, and its records in their order; None if it was never used."""
    half, size = read_header(descriptor, number), os.fstat(descriptor).st_size // 2
    return None if half is None else (half, _records(os.pread(descriptor, size, number * size), half))


def read_header(descriptor: int, number: int) -> Half | None:
    """Return the header of half 0 or 1; None if it was never used."""
    data = os.pread(descriptor, _HEADER_BYTES, os.fstat(descriptor).st_size // 2 * number)
    body = data[: _HEADER.size]
    if not body.startswith(_MAGIC) or data[_HEADER.size :] != _CHECKSUM.pack(crc32(body)):
        return None
    return Half(*_HEADER.unpack(body)[1:])


def _records(data: bytes, half: Half) -> Iterator[Record]:
    place, number, checksum = RECORDS_AT, half.base, half.checksum
    while place + _RECORD.size <= len(data):
        found, size, its_number = _RECORD.unpack_from(data, place)
        body = place + _RECORD.size
        checksum = crc32(data[place + _CHECKSUM.size : body + size], checksum)
        number += 1
        if its_number != number or body + size > len(data) or found != checksum:
            return
        yield Record(number, data[body : body + size], checksum)
        place = body + size


def records_after(descriptor: int, txn: int, life: int, identity: bytes) -> Iterator[Record]:
    """Yield the records of the commits that follow a checkpoint of commit ``txn``, without a gap."""
    halves = [half for half in (read_half(descriptor, 0), read_half(descriptor, 1)) if half is not None]
    halves = sorted(
        (half for half in halves if (half[0].life, half[0].identity) == (life, identity)), key=lambda half: half[0]
    )
    last, checksum = txn, 0
    for place, (half, records) in enumerate(halves):
        if half.base > txn and (half.base != last or half.before != checksum):
            return  # a commit is missing between the halves
        # What a killed process left at the end of the older half was not committed if the newer one begins before it.
        limit = halves[place + 1][0].base if place + 1 < len(halves) else None
        for record in records:
            if limit is not None and record.number > limit:
                break
            checksum = record.checksum
            if record.number > last:
                last = record.number
                yield record


def redo(txn: Transaction, records: Iterable[Record]) -> int:
    """Do again what records say; return how many there were."""
    count = 0
    for record in records:
        _redo(txn, record.operations)
        count += 1
    return count


def _redo(txn: Transaction, operations: bytes) -> None:
    place = 0
    while place < len(operations):
        key_bytes, value_bytes = OPERATION.unpack_from(operations, place)
        key_at = place + OPERATION.size
        place = key_at + key_bytes
        key = operations[key_at:place]
        if value_bytes == DELETED:
            txn.delete(key)
        else:
            txn.put(key, operations[place : place + value_bytes])
            place += value_bytes
