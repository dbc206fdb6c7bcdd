"""The format of a file: a record that marks it as one of this package, and holds the version of its layout."""

from typing import TYPE_CHECKING, Final

import msgpack

from lmdbresults.errors import ForeignFile, NewerFormat

if TYPE_CHECKING:
    import lmdb

__all__ = ["FORMAT_KEY", "FORMAT_VERSION", "check_format", "is_marked", "mark", "version_of"]

#: The key of the record.
FORMAT_KEY: Final = b"\x00lmdbresults"
FORMAT_VERSION: Final = 2


def check_format(handle: "lmdb.Environment", path: str) -> None:
    """Raise `ForeignFile` unless the file is empty or one of this package, and `NewerFormat` if it is newer."""
    with handle.begin() as txn:
        found, entries = txn.get(FORMAT_KEY), txn.stat()["entries"]
    version = version_of(found)
    if entries and version is None:
        raise ForeignFile(f"{path} is an LMDB file of another program, and was left as it is. Choose another path.")
    if version is not None and version > FORMAT_VERSION:
        raise NewerFormat(
            f"{path} has format {version}; this lmdbresults reads up to {FORMAT_VERSION}: upgrade it in every process."
        )


def is_marked(txn: "lmdb.Transaction[bytes]") -> bool:
    """Return whether the file is marked as one of this package."""
    return txn.get(FORMAT_KEY) is not None


def mark(txn: "lmdb.Transaction[bytes]") -> None:
    """Mark the file as one of this package."""
    txn.put(FORMAT_KEY, msgpack.packb({"format": FORMAT_VERSION}))


def version_of(mark: bytes | None) -> int | None:
    """Return the version in the record, or None."""
    try:
        return int(msgpack.unpackb(mark)["format"]) if mark else None
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return None
