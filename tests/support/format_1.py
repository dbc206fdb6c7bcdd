"""Files of format 1, as lmdbresults wrote them: with an entry of an expiry index for each record that can expire."""

import os
import struct
from pathlib import Path
from zlib import crc32

import lmdb

from lmdbresults.store.lmdb.records.chunks import cut
from lmdbresults.store.lmdb.records.layout import IS_CHUNKED, IS_HASHED, place_of

__all__ = ["INDEX", "put", "write_file"]

INDEX = b"x"


def put(txn: lmdb.Transaction, key: bytes, value: bytes, deadline: float) -> None:
    """Put a record, its index entry, and the chunks of a large value."""
    body, flags, place = value, 0, place_of(key)
    if len(value) > 16_000:
        body, flags = cut(txn, value), IS_CHUNKED
    if place.startswith(b"h"):
        body, flags = struct.pack(">I", len(key)) + key + body, flags | IS_HASHED
    checked = struct.pack(">ddB", deadline, deadline, flags) + body
    txn.put(place, crc32(checked, crc32(key)).to_bytes(4, "big") + checked)
    if deadline:
        txn.put(INDEX + struct.pack(">d", deadline) + place, b"")


def write_file(path: str | os.PathLike[str], records: dict[bytes, tuple[bytes, float]]) -> Path:
    """Write a data file with some records: key, value and deadline (0: never)."""
    with lmdb.open(os.fspath(path), subdir=False, mode=0o600, map_size=1 << 30) as file, file.begin(write=True) as txn:
        txn.put(b"\x00lmdbresults", b"\x81\xa6format\x01")
        for key, (value, deadline) in records.items():
            put(txn, key, value, deadline)
    Path(f"{path}-lock").unlink()
    return Path(path)
