"""LMDB's meta pages, as far as they are read and written here: those of the 0.9 format, 64 bit, native byte order.

There are two, at the offsets 0 and ``page_size``. Commit N writes the one at ``N & 1``, and the larger N is believed.
"""

import mmap
import os
import struct
from typing import Final, NamedTuple

__all__ = [
    "IDENTITY_BYTES",
    "IDENTITY_PLACE",
    "MAGIC",
    "META_BYTES",
    "Meta",
    "is_blank",
    "read_both",
    "unpacked",
]

MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1

#: Where the meta begins in its page: behind the page's header.
_HEADER_BYTES: Final = 16
META_BYTES: Final = 136
#: Where a data file says which one it is: in its first page, behind what LMDB has there and ever touches.
IDENTITY_PLACE: Final = 1024
IDENTITY_BYTES: Final = 16
#: Magic and version, page size, and at the end last page and transaction.
_FIELDS: Final = struct.Struct("=II16xI92xQQ")
_PAGE_HEADER: Final = struct.Struct("=QHHHH")
_IS_META: Final = 0x08
_TXN: Final = struct.Struct("=Q")


class Meta(NamedTuple):
    """A meta page: the state of the file as of one commit."""

    txn: int
    """Number of the commit."""
    last_page: int
    """The highest page in use."""
    page_size: int
    """In bytes."""
    data: bytes
    """All of it, as it stands in the file."""

    @property
    def end(self) -> int:
        """The least size of the file, in bytes."""
        return (self.last_page + 1) * self.page_size

    def page(self, number: int) -> bytes:
        """Return the beginning of one of the two pages: its header, and the meta."""
        return _PAGE_HEADER.pack(number, 0, _IS_META, 0, 0) + self.data

    def numbered(self, txn: int) -> "Meta":
        """Return the same state under another number."""
        return self._replace(txn=txn, data=self.data[: -_TXN.size] + _TXN.pack(txn))


def unpacked(data: bytes) -> Meta | None:
    """Return the meta that the bytes are, or None if they are none of this format."""
    if len(data) != META_BYTES:
        return None
    magic, version, page_size, last_page, txn = _FIELDS.unpack(data)
    if magic != MAGIC or version != _DATA_VERSION or page_size.bit_count() != 1 or page_size < 256:
        return None
    return Meta(txn, last_page, page_size, data)


def read_both(descriptor: int) -> tuple[Meta | None, Meta | None]:
    """Return the metas of a file; None for one that is not there or of another format."""
    first = unpacked(os.pread(descriptor, META_BYTES, _HEADER_BYTES))
    if first is None:
        return None, None
    return first, unpacked(os.pread(descriptor, META_BYTES, first.page_size + _HEADER_BYTES))


def is_blank(descriptor: int) -> bool:
    """Return whether nothing was ever committed to a file, though a part of its beginning may have got lost.

    LMDB begins a file with its two metas, numbered 0, and the first commit makes it longer. A loss of power before that
    is synced may leave zeros in place of either.
    """
    page_size = mmap.PAGESIZE  # which LMDB takes for a new file
    if os.fstat(descriptor).st_size > 2 * page_size:
        return False
    return not any(any(_foreign(os.pread(descriptor, page_size, place))) for place in (0, page_size))


def _foreign(page: bytes) -> bytes:
    """Return a page with zeros in place of what we, and LMDB, write to a new file."""
    rest = bytearray(page.ljust(IDENTITY_PLACE + IDENTITY_BYTES, b"\0"))
    rest[IDENTITY_PLACE : IDENTITY_PLACE + IDENTITY_BYTES] = bytes(IDENTITY_BYTES)
    found = unpacked(page[_HEADER_BYTES : _HEADER_BYTES + META_BYTES])
    if found is not None and not found.txn:
        rest[: _HEADER_BYTES + META_BYTES] = bytes(_HEADER_BYTES + META_BYTES)
    return bytes(rest)
