"""Reads LMDB's file page by page, without LMDB: data format 1 (LMDB 0.9) on 64-bit systems, in native byte order.

LMDB has no checksums and reads through a map: a damaged page may end the process, or return anything. So a damaged file
is checked and salvaged by these functions, which trust nothing.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from lmdbresults.store.lmdb.file.meta import META_BYTES, Meta, unpack

__all__ = [
    "BRANCH",
    "LEAF",
    "META",
    "OVERFLOW",
    "Node",
    "PageDamaged",
    "PageFile",
    "kind_of",
    "nodes_of",
    "offsets_of",
    "sound_nodes_of",
]

#: The types of pages: flags.
BRANCH, LEAF, OVERFLOW, META = 0x01, 0x02, 0x04, 0x08
#: The flags of a page that may be set in a file.
_KNOWN_FLAGS: Final = 0x4000 | 0x20 | 0x10 | BRANCH | LEAF | OVERFLOW | META
_KINDS: Final = 0x20 | BRANCH | LEAF | OVERFLOW | META
#: Flags of a node: its value has pages of its own; it is a tree, or several values.
_IS_BIG, _IS_TREE = 0x01, 0x06

#: Page number, padding, flags, then lower and upper end of the free space, or the number of pages.
_HEAD: Final = struct.Struct("=QHHHH")
_PAGES_IN_RUN: Final = struct.Struct("=12xI")
_HEAD_BYTES: Final = 16
#: Size of the value, flags, size of the key; in a branch the first two are the number of the page below.
_NODE: Final = struct.Struct("=IHH")
_PAGE_NUMBER: Final = struct.Struct("=Q")


class PageDamaged(Exception):
    """Raised when a page is damaged; the text says which one, and how."""


class Node(NamedTuple):
    """An entry of a page."""

    key: bytes
    below: int
    """In a branch: number of the page below. In a leaf: the first page of a large value, or 0."""
    size: int
    """Bytes of the value."""
    value: bytes
    """Empty in a branch, and for a large value."""


class PageFile:
    """A data file that is open for reading. The caller closes it."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.page_size = 4096

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> "PageFile":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def size(self) -> int:
        """Return the present size of the file in bytes."""
        return os.fstat(self._descriptor).st_size

    def states(self) -> list[Meta]:
        """Return the two meta pages, the newer one first, and learn the page size from them.

        An invalid meta page is left out. Raises `PageDamaged` if both are invalid.
        """
        first = self._meta(0)
        sizes = [first.page_size] if first else [1 << power for power in range(8, 17)]
        found = [first, *map(self._meta, sizes)]
        metas = [meta for meta in found if meta is not None]
        if not metas:
            raise PageDamaged("Both meta pages are invalid (not an LMDB file?).")
        self.page_size = metas[0].page_size
        return sorted(metas, key=lambda meta: -meta.txn)

    def _meta(self, page_at: int) -> Meta | None:
        return unpack(os.pread(self._descriptor, META_BYTES, page_at + _HEAD_BYTES))

    def page(self, number: int) -> bytes:
        """Return a page; it is short if the file ends before it does."""
        return os.pread(self._descriptor, self.page_size, number * self.page_size)

    def value(self, node: Node) -> bytes:
        """Return the value of an entry of a leaf, or what stands in place of its pages."""
        if not node.below:
            return node.value
        return os.pread(self._descriptor, node.size, node.below * self.page_size + _HEAD_BYTES)

    def run_length(self, node: Node) -> int:
        """Return how many pages the large value of an entry takes. Raises `PageDamaged`.

        There may be more than its size asks for: a large value that one transaction stores and makes smaller again.
        """
        number = node.below
        head = os.pread(self._descriptor, _HEAD_BYTES, number * self.page_size)
        if len(head) < _HEAD_BYTES or _HEAD.unpack(head)[0] != number or not _HEAD.unpack(head)[2] & OVERFLOW:
            raise PageDamaged(f"Page {number} must begin a large value, but does not.")
        count: int = _PAGES_IN_RUN.unpack(head)[0]
        if count * self.page_size < _HEAD_BYTES + node.size:
            raise PageDamaged(f"Page {number} begins {count} pages, too few for a value of {node.size} bytes.")
        return count


def kind_of(page: bytes, number: int) -> int:
    """Return the type of a page. Raises `PageDamaged` if it has none, or the number of another page."""
    if len(page) < _HEAD_BYTES:
        raise PageDamaged(f"Page {number} is behind the end of the file.")
    own_number, _, flags, _, _ = _HEAD.unpack_from(page)
    kind: int = flags & _KINDS
    if own_number != number or flags & ~_KNOWN_FLAGS or kind not in (BRANCH, LEAF, OVERFLOW, META):
        raise PageDamaged(f"Page {number} says that it is page {own_number} with flags {flags:#x}.")
    return kind


def nodes_of(page: bytes, number: int) -> Iterator[Node]:
    """Yield the entries of a branch or a leaf. Raises `PageDamaged` at the first invalid one."""
    read = _branch_node if kind_of(page, number) == BRANCH else _leaf_node
    for offset in offsets_of(page, number):
        yield read(page, offset, number)


def sound_nodes_of(page: bytes, number: int) -> Iterator[Node]:
    """Yield the readable entries of a leaf. Raises `PageDamaged` if the page is damaged as a whole."""
    for offset in offsets_of(page, number) if kind_of(page, number) == LEAF else ():
        with suppress(PageDamaged):
            yield _leaf_node(page, offset, number)


def offsets_of(page: bytes, number: int) -> tuple[int, ...]:
    """Return the offsets of the entries of a branch or a leaf. Raises `PageDamaged` if its header is invalid."""
    _, _, _, lower, upper = _HEAD.unpack_from(page)
    if not _HEAD_BYTES <= lower <= upper <= len(page) or lower % 2:
        raise PageDamaged(f"Page {number} has its free space from {lower} to {upper}, which is impossible.")
    return struct.unpack_from(f"={(lower - _HEAD_BYTES) // 2}H", page, _HEAD_BYTES)


def _node_head(page: bytes, offset: int, number: int) -> tuple[int, int, int]:
    _, _, _, _, upper = _HEAD.unpack_from(page)
    if not upper <= offset <= len(page) - _NODE.size:
        raise PageDamaged(f"Page {number}: the entry at offset {offset} is out of bounds.")
    head: tuple[int, int, int] = _NODE.unpack_from(page, offset)
    return head


def _branch_node(page: bytes, offset: int, number: int) -> Node:
    low, high, key_size = _node_head(page, offset, number)
    start = offset + _NODE.size
    if start + key_size > len(page):
        raise PageDamaged(f"Page {number}: the entry at offset {offset} is out of bounds.")
    return Node(page[start : start + key_size], low | high << 32, 0, b"")


def _leaf_node(page: bytes, offset: int, number: int) -> Node:
    size, flags, key_size = _node_head(page, offset, number)
    start = offset + _NODE.size
    value_at = start + key_size
    if flags & _IS_TREE or flags & ~_IS_BIG or value_at + (_PAGE_NUMBER.size if flags else size) > len(page):
        raise PageDamaged(f"Page {number}: the entry at offset {offset} is out of bounds or has an unknown type.")
    key = page[start:value_at]
    if flags:
        (below,) = _PAGE_NUMBER.unpack_from(page, value_at)
        return Node(key, below, size, b"")
    return Node(key, 0, size, page[value_at : value_at + size])
