"""Whether the pages of a file make up what LMDB's meta page says: two trees, and every page in one place at most."""

import struct
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from lmdbresults.store.pages import BRANCH, LEAF, Meta, Node, PageDamaged, PageFile, Root, kind_of, nodes_of

__all__ = ["FREE", "IN_USE", "LEAF_IN_USE", "UNKNOWN", "problems_of", "survey"]

#: What is known of a page: nothing; it belongs to a tree, at its bottom or elsewhere; it is listed as free.
UNKNOWN, IN_USE, LEAF_IN_USE, FREE = range(4)
_NUMBER: Final = struct.Struct("=Q")
#: The deepest tree that LMDB walks.
_DEEPEST: Final = 32


def problems_of(file: PageFile, meta: Meta) -> Iterator[str]:
    """Yield a sentence for each thing that is not as it should be. Takes a byte of memory for each page.

    What only wastes space is none: pages that are neither in use nor free, and runs that are longer than their value.
    LMDB leaves both behind where one transaction stores a large value and makes it smaller again.
    """
    needed = (meta.last_page + 1) * meta.page_size
    if file.size() < needed:
        yield f"The file has {file.size()} bytes and should have at least {needed}: it was cut short."
        return
    yield from survey(file, meta, bytearray(meta.last_page + 1), {})


def survey(file: PageFile, meta: Meta, pages: bytearray, freed: dict[int, int]) -> Iterator[str]:
    """Yield the problems of pages, and note in ``pages``, which begins with zeros, what is known of each.

    ``freed`` gets the pages that are listed as free, with the number of the transaction that freed them.
    """
    pages[:2] = bytes((IN_USE, IN_USE))
    free = _FreeWalk(file, pages, meta.free)
    yield from free.problems()
    yield from _Walk(file, pages, meta.main).problems()
    for txnid, number in free.found:
        if not 2 <= number < len(pages):
            yield f"Page {number} is listed as free, and there is none of that number."
        elif pages[number]:
            yield f"Page {number} is listed as free, and is {'so twice' if pages[number] == FREE else 'in use'}."
        else:
            pages[number], freed[number] = FREE, txnid


class _Walk:
    """The main tree, in the order of its keys."""

    name = "main tree"
    fewest_in_branch = 2

    def __init__(self, file: PageFile, pages: bytearray, root: Root) -> None:
        self._file = file
        self._pages = pages
        self._root = root
        self._entries = 0

    def problems(self) -> Iterator[str]:
        """Walk the tree and yield its problems."""
        root, name = self._root, self.name
        if root.page is not None and not 0 < root.depth <= _DEEPEST:
            yield f"The {name} should have {root.depth} levels, which cannot be."
            return
        if root.page is not None:
            yield from self._below(root.page, root.depth, b"", None)
        if self._entries != root.entries:
            yield f"The {name} has {self._entries} entries that can be reached, and should have {root.entries}."

    def _below(self, number: int, levels: int, least: bytes, beyond: bytes | None) -> Iterator[str]:
        """Yield the problems of a page and all below it, whose keys lie from ``least`` to before ``beyond``."""
        try:
            nodes = self._nodes(number, levels > 1)
            keys = [self.order(node.key) for node in nodes]
            if levels > 1:
                keys[0] = least  # the first key of a branch is left out
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
        self._use(number, 1, IN_USE if is_branch else LEAF_IN_USE)
        page = self._file.page(number)
        if kind_of(page, number) != (BRANCH if is_branch else LEAF):
            raise PageDamaged(f"Page {number} of the {self.name} is of the wrong kind for its level.")
        nodes = list(nodes_of(page, number))
        if len(nodes) < (self.fewest_in_branch if is_branch else 1):
            raise PageDamaged(f"Page {number} of the {self.name} has too few entries: {len(nodes)}.")
        return nodes

    def order(self, key: bytes) -> bytes:
        """Return a key in the form by which the keys of this tree are ordered."""
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
        """Look at an entry. Raises `PageDamaged`."""

    def _use(self, number: int, count: int, mark: int) -> None:
        """Note that pages are in use."""
        if not 2 <= number <= len(self._pages) - count:
            raise PageDamaged(f"The {self.name} leads to page {number}, of which there is none.")
        if any(self._pages[number : number + count]):
            raise PageDamaged(f"The {self.name} leads to page {number}, which is in use elsewhere.")
        self._pages[number : number + count] = bytes((mark,)) * count


class _FreeWalk(_Walk):
    """The tree of free pages: by the number of the transaction that freed them, a list of their numbers."""

    name = "tree of free pages"
    fewest_in_branch = 1  # LMDB does not insist here either

    def __init__(self, file: PageFile, pages: bytearray, root: Root) -> None:
        super().__init__(file, pages, root)
        #: Transactions, and the pages that they freed.
        self.found: list[tuple[int, int]] = []

    def order(self, key: bytes) -> bytes:
        return key[::-1] if sys.byteorder == "little" else key

    def see(self, node: Node) -> None:
        value = self._file.value(node)
        most = len(value) // _NUMBER.size - 1
        count = _NUMBER.unpack_from(value)[0] if most >= 0 else 0
        if len(node.key) != _NUMBER.size or count > most:
            raise PageDamaged("An entry of the tree of free pages is shorter than it says.")
        (txnid,) = _NUMBER.unpack(node.key)
        self.found += ((txnid, number) for number in struct.unpack_from(f"={count}Q", value, _NUMBER.size))
