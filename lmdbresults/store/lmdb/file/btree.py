"""The check of LMDB's trees: whether the pages form the two trees of the meta page, each page in one place at most."""

import struct
import sys
from collections.abc import Generator, Iterator
from itertools import pairwise, takewhile
from typing import Final

from lmdbresults.store.lmdb.file.meta import Meta, Root
from lmdbresults.store.lmdb.file.pages import (
    BRANCH,
    LEAF,
    Node,
    PageDamaged,
    PageFile,
    kind_of,
    nodes_of,
    offsets_of,
)

__all__ = ["FREE", "IN_USE", "LEAF_IN_USE", "UNKNOWN", "damage_at_the_top", "freed_before", "problems_of", "survey"]

#: The state of a page: unknown; part of a tree; leaf of the main tree; listed as free.
UNKNOWN, IN_USE, LEAF_IN_USE, FREE = range(4)
_NUMBER: Final = struct.Struct("=Q")
#: The deepest tree that LMDB walks.
_DEEPEST: Final = 32
#: Flags that say how a tree is ordered. The flags of the free tree include some of the file's.
_FLAGS_OF_TREES, _INTEGER_KEY = 0x7E, 0x08
#: How often a file is read while other processes write to it.
_TRIES: Final = 16


def problems_of(file: PageFile, state: Meta) -> Iterator[str]:
    """Yield a sentence per problem. Takes a byte of memory per page.

    Wasted space is not a problem: pages that are neither in use nor free, and runs that are longer than their value.
    LMDB leaves both behind when one transaction stores a large value and makes it smaller again.
    """
    needed = (state.last_page + 1) * state.page_size
    if file.size() < needed:
        yield f"The file has {file.size()} bytes and must have at least {needed}: it was truncated."
        return
    yield from survey(file, state, bytearray(state.last_page + 1))


def survey(file: PageFile, state: Meta, pages: bytearray) -> Generator[str, None, bool]:
    """Yield the problems of pages, and write the state of each to ``pages``, which holds zeros at first.

    Returns whether the list of free pages is intact.
    """
    pages[:2] = bytes((IN_USE, IN_USE))
    if not _has_usual_order(state):
        yield f"Its trees have flags {state.free.flags:#x} and {state.main.flags:#x}, unlike those of a store."
        return False
    free = _FreeWalk(file, pages, state.free)
    problems = list(free.problems())
    yield from problems
    is_intact = not problems
    yield from _Walk(file, pages, state.main).problems()
    for number in free.found:
        if 2 <= number < len(pages) and not pages[number]:
            pages[number] = FREE
            continue
        is_intact = False
        if not 2 <= number < len(pages):
            yield f"Page {number} is listed as free, but does not exist."
        else:
            yield f"Page {number} is listed as free {'twice' if pages[number] == FREE else 'and in use'}."
    return is_intact


def freed_before(file: PageFile, state: Meta, number: int) -> int:
    """Return how many free pages were freed before commit ``number``. Raises `PageDamaged`.

    LMDB uses the oldest first, so these are few, however many were freed since.
    """
    counts = (count for commit, count in takewhile(lambda freed: freed[0] < number, _freed(file, state)))
    return sum(counts)


def _freed(file: PageFile, state: Meta) -> Iterator[tuple[int, int]]:
    """Yield the commits whose freed pages are listed as free, the oldest first, each with their number."""
    below = [] if state.free.page is None else [(state.free.page, state.free.depth)]
    while below:
        number, levels = below.pop()
        nodes = list(nodes_of(file.page(number), number))
        for node in nodes:
            if node.below > state.last_page:
                raise PageDamaged(f"Page {number} refers to page {node.below}, behind the end of the file.")
        if levels > 1:
            below += [(node.below, levels - 1) for node in reversed(nodes)]
            continue
        for node in nodes:
            count = file.value(node._replace(size=_NUMBER.size))[: _NUMBER.size]
            if len(node.key) != _NUMBER.size or len(count) != _NUMBER.size:
                raise PageDamaged(f"Page {number} is not a page of the list of free pages.")
            yield _NUMBER.unpack(node.key)[0], _NUMBER.unpack(count)[0]


def damage_at_the_top(file: PageFile) -> str | None:
    """Return what is wrong with the pages that opening a file reads, or None. Other processes may write to it."""
    former = txn = None
    for _ in range(_TRIES):
        try:
            former, txn = txn, None
            state = file.states()[0]
            txn = state.txn
            _require_top(file, state)
        except PageDamaged as damage:
            if former == txn:  # else its pages may have been reused while they were read
                return str(damage)
        else:
            return None
    return None


def _require_top(file: PageFile, state: Meta) -> None:
    if not _has_usual_order(state):
        raise PageDamaged(f"Its trees have flags {state.free.flags:#x} and {state.main.flags:#x}.")
    for root in (state.free, state.main):
        if root.pages > state.last_page + 1:
            raise PageDamaged(f"A tree has {root.pages} pages, more than the file.")
        _require_first_leaf(file, root, state.last_page)


def _has_usual_order(state: Meta) -> bool:
    """Return whether the trees are ordered like those of a store: by bytes, and the free pages by number."""
    return state.main.flags == 0 and state.free.flags & _FLAGS_OF_TREES == _INTEGER_KEY


def _require_first_leaf(file: PageFile, root: Root, last_page: int) -> None:
    """Go down to the first leaf of a tree. Raises `PageDamaged`."""
    if root.page is not None and not 0 < root.depth <= _DEEPEST:
        raise PageDamaged(f"A tree has {root.depth} levels, which is impossible.")
    number = root.page or 0
    for level in range(root.depth if root.page is not None else 0, 0, -1):
        if not 2 <= number <= last_page:
            raise PageDamaged(f"A tree leads to page {number}, which does not exist.")
        page = file.page(number)
        if kind_of(page, number) != (BRANCH if level > 1 else LEAF):
            raise PageDamaged(f"Page {number} has the wrong type for its level.")
        if not offsets_of(page, number):
            raise PageDamaged(f"Page {number} has no entries.")
        if level > 1:  # the first entry only: all of them would take longer than opening the file
            number = next(nodes_of(page, number)).below


class _Walk:
    """The main tree, in the order of its keys."""

    name = "main tree"
    fewest_in_branch = 2
    leaf_mark = LEAF_IN_USE

    def __init__(self, file: PageFile, pages: bytearray, root: Root) -> None:
        self._file = file
        self._pages = pages
        self._root = root
        self._entries = 0

    def problems(self) -> Iterator[str]:
        """Walk the tree and yield its problems."""
        root, name = self._root, self.name
        if root.page is not None and not 0 < root.depth <= _DEEPEST:
            yield f"The {name} has {root.depth} levels, which is impossible."
            return
        if root.pages > len(self._pages):  # the free space is computed from it, so a few more or less do no harm
            yield f"The {name} has {root.pages} pages, more than the file."
        if root.page is not None:
            yield from self._below(root.page, root.depth, b"", None)
        if self._entries != root.entries:
            yield f"The {name} has {self._entries} reachable entries, but its root says {root.entries}."

    def _below(self, number: int, levels: int, least: bytes, beyond: bytes | None) -> Iterator[str]:
        """Yield the problems of a page and all below it, with keys from ``least`` up to, but without, ``beyond``."""
        try:
            nodes = self._nodes(number, levels > 1)
            keys = [self.order(node.key) for node in nodes]
            if levels > 1:
                keys[0] = least  # the first key of a branch is empty
            self._require_order(keys, number, least, beyond)
        except PageDamaged as damage:
            yield str(damage)
            return
        if levels > 1:
            for node, first, end in zip(nodes, keys, [*keys[1:], beyond], strict=True):
                yield from self._below(node.below, levels - 1, first, end)
        else:
            yield from self._leaf(nodes)

    def _nodes(self, number: int, is_branch: bool) -> list[Node]:
        self._use(number, 1, IN_USE if is_branch else self.leaf_mark)
        page = self._file.page(number)
        if kind_of(page, number) != (BRANCH if is_branch else LEAF):
            raise PageDamaged(f"Page {number} of the {self.name} has the wrong type for its level.")
        nodes = list(nodes_of(page, number))
        if len(nodes) < (self.fewest_in_branch if is_branch else 1):
            raise PageDamaged(f"Page {number} of the {self.name} has too few entries: {len(nodes)}.")
        return nodes

    def order(self, key: bytes) -> bytes:
        """Return a key in the form that orders the keys of this tree."""
        return key

    def _require_order(self, keys: list[bytes], number: int, least: bytes, beyond: bytes | None) -> None:
        in_order = all(one < next_one for one, next_one in pairwise(keys))
        if not in_order or keys[0] < least or (beyond is not None and keys[-1] >= beyond):
            raise PageDamaged(f"Page {number} of the {self.name} has keys that are out of order.")

    def _leaf(self, nodes: list[Node]) -> Iterator[str]:
        self._entries += len(nodes)
        for node in nodes:
            try:
                if node.below:
                    self._use(node.below, self._file.run_length(node), IN_USE)
                self.see(node)
            except PageDamaged as damage:
                yield str(damage)

    def see(self, node: Node) -> None:
        """Process an entry. Raises `PageDamaged`."""

    def _use(self, number: int, count: int, mark: int) -> None:
        """Note that pages are in use."""
        if not 2 <= number <= len(self._pages) - count:
            raise PageDamaged(f"The {self.name} leads to page {number}, which does not exist.")
        if any(self._pages[number : number + count]):
            raise PageDamaged(f"The {self.name} leads to page {number}, which is also in use elsewhere.")
        self._pages[number : number + count] = bytes((mark,)) * count


class _FreeWalk(_Walk):
    """The tree of free pages: lists of page numbers by the transaction that freed them."""

    name = "tree of free pages"
    fewest_in_branch = 1  # LMDB allows that, too
    leaf_mark = IN_USE  # no records lie here

    def __init__(self, file: PageFile, pages: bytearray, root: Root) -> None:
        super().__init__(file, pages, root)
        #: The numbers of the free pages.
        self.found: list[int] = []

    def order(self, key: bytes) -> bytes:
        return key[::-1] if sys.byteorder == "little" else key

    def see(self, node: Node) -> None:
        value = self._file.value(node)
        most = len(value) // _NUMBER.size - 1
        count = _NUMBER.unpack_from(value)[0] if most >= 0 else 0
        if len(node.key) != _NUMBER.size or count > most:
            raise PageDamaged("An entry of the tree of free pages is shorter than it says.")
        self.found += struct.unpack_from(f"={count}Q", value, _NUMBER.size)
