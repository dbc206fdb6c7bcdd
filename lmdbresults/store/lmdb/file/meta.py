"""LMDB's meta pages: those of the 0.9 format, 64 bit, native byte order.

There are two, at the offsets 0 and ``page_size``. Commit N writes the one at ``N & 1``, and the larger N counts.
"""

import mmap
import os
import struct
from typing import Final, NamedTuple

__all__ = ["IDENTITY_BYTES", "IDENTITY_PLACE", "MAGIC", "META_BYTES", "Head", "Meta", "Root", "read_head", "unpack"]

MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1

#: Where the meta begins in its page: behind the page's header.
_HEADER_BYTES: Final = 16
META_BYTES: Final = 136
#: Where a data file holds its identity: in its first page, behind what LMDB writes there.
IDENTITY_PLACE: Final = 1024
IDENTITY_BYTES: Final = 16
#: Magic and version, page size, and at the end last page and transaction.
_FIELDS: Final = struct.Struct("=II16xI92xQQ")
_PAGE_HEADER: Final = struct.Struct("=QHHHH")
_IS_META: Final = 0x08
_TXN: Final = struct.Struct("=Q")
#: Of each tree: page size (in the first one only), flags, depth, pages of three kinds, entries, root.
_TREE: Final = struct.Struct("=IHHQQQQQ")
_FREE_AT, _MAIN_AT = 24, 72
#: The root of an empty tree.
_NOTHING: Final = (1 << 64) - 1


class Root(NamedTuple):
    """A tree, as a meta page describes it."""

    page: int | None
    """Number of its topmost page; None: it is empty."""
    depth: int
    pages: int
    """Pages in use, of all kinds."""
    entries: int
    flags: int
    """How its keys are ordered, and whether they have several values."""


class Meta(NamedTuple):
    """A meta page: the state of the file as of one commit."""

    txn: int
    """Number of the commit."""
    last_page: int
    """The highest page in use."""
    page_size: int
    """In bytes."""
    data: bytes
    """The whole meta, as it stands in the file."""

    @property
    def end(self) -> int:
        """The least size of the file, in bytes."""
        return (self.last_page + 1) * self.page_size

    @property
    def free(self) -> Root:
        """The tree of free pages."""
        return self._root(_FREE_AT)

    @property
    def main(self) -> Root:
        """The tree of all keys."""
        return self._root(_MAIN_AT)

    def _root(self, start: int) -> Root:
        _, flags, depth, branches, leaves, others, entries, page = _TREE.unpack_from(self.data, start)
        return Root(None if page == _NOTHING else page, depth, branches + leaves + others, entries, flags)

    def page(self, number: int) -> bytes:
        """Return the beginning of meta page ``number`` (0 or 1): its header, and this meta."""
        return _PAGE_HEADER.pack(number, 0, _IS_META, 0, 0) + self.data

    def numbered(self, txn: int) -> "Meta":
        """Return the same state under another commit number."""
        return self._replace(txn=txn, data=self.data[: -_TXN.size] + _TXN.pack(txn))


class Head(NamedTuple):
    """The beginning of a data file: its identity and its two meta pages, read in one go."""

    size: int
    """Bytes of the whole file."""
    data: bytes
    """The first two pages of LMDB's default size."""
    first: Meta | None
    """None if it is missing, damaged or of another format."""
    second: Meta | None
    newest: Meta | None
    """The one that counts; None if neither is valid."""
    identity: bytes
    """Tells the data file from others; zeros if it has no identity yet."""

    def is_blank(self) -> bool:
        """Return whether nothing was ever committed to the file, although a part of its beginning may be lost.

        LMDB begins a file with two metas numbered 0, and the first commit makes it longer. If power fails before that
        is synced, zeros may be left in place of either.
        """
        if self.size > 2 * mmap.PAGESIZE:
            return False
        first, second = self.data[: mmap.PAGESIZE], self.data[mmap.PAGESIZE :]
        return not any(_without_ours(first)) and not any(_without_ours(second))


def unpack(data: bytes) -> Meta | None:
    """Return the meta that the bytes hold, or None if they hold none of this format."""
    if len(data) != META_BYTES:
        return None
    magic, version, page_size, last_page, txn = _FIELDS.unpack(data)
    if magic != MAGIC or version != _DATA_VERSION or page_size.bit_count() != 1 or page_size < 256:
        return None
    return Meta(txn, last_page, page_size, data)


def read_head(descriptor: int) -> Head:
    """Return the beginning of a data file."""
    data = os.pread(descriptor, 2 * mmap.PAGESIZE, 0)
    first, second = unpack(data[_HEADER_BYTES : _HEADER_BYTES + META_BYTES]), None
    if first is not None:
        start = first.page_size + _HEADER_BYTES
        at_second = data[start : start + META_BYTES]
        if first.page_size > mmap.PAGESIZE:
            at_second = os.pread(descriptor, META_BYTES, start)
        second = unpack(at_second)
    # The size last: the file of a meta page may have grown, so it is never shorter than the meta page says.
    size, identity = os.fstat(descriptor).st_size, data[IDENTITY_PLACE : IDENTITY_PLACE + IDENTITY_BYTES]
    newest = first if second is None or (first is not None and first > second) else second
    return Head(size, data, first, second, newest, identity.ljust(IDENTITY_BYTES, b"\0"))


def _without_ours(page: bytes) -> bytes:
    """Return a page with zeros in place of what LMDB and this package write to a new file."""
    rest = bytearray(page.ljust(IDENTITY_PLACE + IDENTITY_BYTES, b"\0"))
    rest[IDENTITY_PLACE : IDENTITY_PLACE + IDENTITY_BYTES] = bytes(IDENTITY_BYTES)
    found = unpack(page[_HEADER_BYTES : _HEADER_BYTES + META_BYTES])
    if found is not None and not found.txn:
        rest[: _HEADER_BYTES + META_BYTES] = bytes(_HEADER_BYTES + META_BYTES)
    return bytes(rest)
