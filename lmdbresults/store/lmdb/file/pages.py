"""LMDB's file, page by page, read without LMDB: data format 1 (LMDB 0.9) on 64-bit systems, in native byte order.

LMDB has no checksums and reads through a map: a page that is not what it should be may end the process, or lead
anywhere. Checks and salvage of damaged files use these functions instead, which trust nothing in the file.
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
    "Root",
    "State",
    "kind_of",
    "nodes_of",
    "offsets_of",
    "sound_nodes_of",
]

#: What a page is, by its flags.
BRANCH, LEAF, OVERFLOW, META = 0x01, 0x02, 0x04, 0x08
#: Of the flags of a page, those that may be set in a file.
_KNOWN_FLAGS: Final = 0x4000 | 0x20 | 0x10 | BRANCH | LEAF | OVERFLOW | META
_KINDS: Final = 0x20 | BRANCH | LEAF | OVERFLOW | META
#: Flags of a node: its value lies in pages of its own; it is a tree, or several values.
_IS_BIG, _IS_TREE = 0x01, 0x06

#: Page number, padding, flags, then lower and upper end of the free space, or the number of pages.
_HEAD: Final = struct.Struct("=QHHHH")
_PAGES_IN_RUN: Final = struct.Struct("=12xI")
_HEAD_BYTES: Final = 16
#: Size of the value, flags, size of the key; in a branch the first two are the number of the page below.
_NODE: Final = struct.Struct("=IHH")
_PAGE_NUMBER: Final = struct.Struct("=Q")
#: In a meta: page size (in the first tree only), flags, depth, pages of three kinds, entries, root.
_TREE: Final = struct.Struct("=IHHQQQQQ")
_FREE_AT, _MAIN_AT = 24, 72
#: The root of an empty tree.
_NOTHING: Final = (1 << 64) - 1


class PageDamaged(Exception):
    """Raised when a page is not what it should be; the text says which and why."""


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


class State(NamedTuple):
    """What a meta page says of the file: its state as of one commit."""

    txn: int
    """Number of the commit."""
    last_page: int
    page_size: int
    free: Root
    main: Root

    @classmethod
    def of(cls, meta: Meta) -> "State":
        """Return what a meta page says."""
        roots = [_root(_TREE.unpack_from(meta.data, start)) for start in (_FREE_AT, _MAIN_AT)]
        return cls(meta.txn, meta.last_page, meta.page_size, *roots)


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
    """A data file that is open for reading. Whoever opens it closes it."""

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

    def states(self) -> list[State]:
        """Return what the two meta pages say, the newer one first, and learn the size of pages from them.

        A meta page that makes no sense is left out. Raises `PageDamaged` if neither makes any.
        """
        first = self._meta(0)
        sizes = [first.page_size] if first else [1 << power for power in range(8, 17)]
        found = [first, *map(self._meta, sizes)]
        metas = [meta for meta in found if meta is not None]
        if not metas:
            raise PageDamaged("Neither of the two meta pages is one.")
        self.page_size = metas[0].page_size
        return sorted(map(State.of, metas), key=lambda state: -state.txn)

    def _meta(self, page_at: int) -> Meta | None:
        return unpack(os.pread(self._descriptor, META_BYTES, page_at + _HEAD_BYTES))

    def page(self, number: int) -> bytes:
        """Return a page; what lies behind the end of the file is missing from it."""
        return os.pread(self._descriptor, self.page_size, number * self.page_size)

    def value(self, node: Node) -> bytes:
        """Return the value of an entry of a leaf, or what lies where its pages should be."""
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
            raise PageDamaged(f"Page {number} should begin a large value, and does not.")
        count: int = _PAGES_IN_RUN.unpack(head)[0]
        if count * self.page_size < _HEAD_BYTES + node.size:
            raise PageDamaged(f"Page {number} begins {count} pages, too few for a value of {node.size} bytes.")
        return count


def _root(fields: tuple[int, ...]) -> Root:
    _, flags, depth, branches, leaves, others, entries, page = fields
    return Root(None if page == _NOTHING else page, depth, branches + leaves + others, entries, flags)


def kind_of(page: bytes, number: int) -> int:
    """Return the kind of a page. Raises `PageDamaged` if it is none, or another page than it should be."""
    if len(page) < _HEAD_BYTES:
        raise PageDamaged(f"Page {number} lies behind the end of the file.")
    own_number, _, flags, _, _ = _HEAD.unpack_from(page)
    kind: int = flags & _KINDS
    if own_number != number or flags & ~_KNOWN_FLAGS or kind not in (BRANCH, LEAF, OVERFLOW, META):
        raise PageDamaged(f"Page {number} says that it is page {own_number} with flags {flags:#x}.")
    return kind


def nodes_of(page: bytes, number: int) -> Iterator[Node]:
    """Yield the entries of a branch or a leaf. Raises `PageDamaged` at the first that is none."""
    read = _branch_node if kind_of(page, number) == BRANCH else _leaf_node
    for offset in offsets_of(page, number):
        yield read(page, offset, number)


def sound_nodes_of(page: bytes, number: int) -> Iterator[Node]:
    """Yield those entries of a leaf that can be read. Raises `PageDamaged` if it is none."""
    for offset in offsets_of(page, number) if kind_of(page, number) == LEAF else ():
        with suppress(PageDamaged):
            yield _leaf_node(page, offset, number)


def offsets_of(page: bytes, number: int) -> tuple[int, ...]:
    """Return where the entries of a branch or a leaf begin. Raises `PageDamaged` if its head cannot be right."""
    _, _, _, lower, upper = _HEAD.unpack_from(page)
    if not _HEAD_BYTES <= lower <= upper <= len(page) or lower % 2:
        raise PageDamaged(f"Page {number} has its free space from {lower} to {upper}, which cannot be.")
    return struct.unpack_from(f"={(lower - _HEAD_BYTES) // 2}H", page, _HEAD_BYTES)


def _node_head(page: bytes, offset: int, number: int) -> tuple[int, int, int]:
    _, _, _, _, upper = _HEAD.unpack_from(page)
    if not upper <= offset <= len(page) - _NODE.size:
        raise PageDamaged(f"Page {number} has an entry at {offset}, outside of its entries.")
    head: tuple[int, int, int] = _NODE.unpack_from(page, offset)
    return head


def _branch_node(page: bytes, offset: int, number: int) -> Node:
    low, high, key_size = _node_head(page, offset, number)
    start = offset + _NODE.size
    if start + key_size > len(page):
        raise PageDamaged(f"Page {number} has an entry at {offset} that does not fit it.")
    return Node(page[start : start + key_size], low | high << 32, 0, b"")


def _leaf_node(page: bytes, offset: int, number: int) -> Node:
    size, flags, key_size = _node_head(page, offset, number)
    start = offset + _NODE.size
    value_at = start + key_size
    if flags & _IS_TREE or flags & ~_IS_BIG or value_at + (_PAGE_NUMBER.size if flags else size) > len(page):
        raise PageDamaged(f"Page {number} has an entry at {offset} that does not fit it, or is of a foreign kind.")
    key = page[start:value_at]
    if flags:
        (below,) = _PAGE_NUMBER.unpack_from(page, value_at)
        return Node(key, below, size, b"")
    return Node(key, 0, size, page[value_at : value_at + size])
