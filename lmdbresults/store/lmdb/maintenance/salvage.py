"""What can still be read of a damaged file, taken to a new one.

The source is read page by page, without LMDB, and never changed. A record is taken if its checksum says that it is what
was once stored. Whether that is its newest version follows from where it lies: in a page of the tree; in a page that is
neither of the tree nor free, so was of the tree until that broke; or in a page that is free, whose records were deleted
or replaced, and are left alone unless asked for.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import lmdb

from lmdbresults.errors import NotLMDB, StoreError
from lmdbresults.options import Options
from lmdbresults.store.base import Progress
from lmdbresults.store.lmdb.durability import recovery
from lmdbresults.store.lmdb.file import lmdb_errors, paths
from lmdbresults.store.lmdb.file.btree import IN_USE, LEAF_IN_USE, UNKNOWN, survey
from lmdbresults.store.lmdb.file.pages import Node, PageDamaged, PageFile, State, sound_nodes_of
from lmdbresults.store.lmdb.maintenance.backup import publish, refuse_target
from lmdbresults.store.lmdb.maintenance.salvage_writer import Rescue

__all__ = ["Salvaged", "salvage"]

#: Pages that are read in one go, and whose records are written in one transaction.
_BATCH: Final = 256
#: Pages are of this size if neither meta page tells.
_USUAL_PAGE: Final = 4096
#: Address space for what is rescued: never more than the source holds, its index once more, and some room.
_MAP_FACTOR, _MAP_ROOM = 4, 1 << 30


@dataclass(slots=True)
class Salvaged:
    """What became of a damaged file."""

    records: int = 0
    """Records that were taken."""
    expired: int = 0
    """Records that were left behind because their time was over."""
    strays: int = 0
    """Of those taken, the ones that no page leads to any more."""
    freed: int = 0
    """Of those taken, the ones from pages that were free: older versions, or deleted."""
    missing: int = 0
    """Entries that the tree should have and that were not found. Not all are records."""
    problems: list[str] = field(default_factory=list)
    """What is wrong with the pages of the source."""
    damaged: list[str] = field(default_factory=list)
    """A sentence for each record that was found and cannot be read."""
    lost: list[str] = field(default_factory=list)
    """A sentence for each record of which nothing is left but an entry in the expiry index."""
    is_certain: bool = True
    """Whether it is known which pages are free, and so that no former version was taken for the last one."""

    def is_complete(self) -> bool:
        """Return whether everything that the file held last was taken."""
        return self.is_certain and not (self.missing or self.damaged or self.lost)


def salvage(
    source: str, target: str, *, freed: bool = False, now: float | None = None, progress: Progress | None = None
) -> Salvaged:
    """Take what can be read of a damaged file to a new store, with the deadlines that it has; return a report.

    ``freed`` also takes what lies in free pages, where nothing newer is found under the same key. Nobody should be
    writing to the source meanwhile. Raises `TargetExists`, an `OpenError` if one of the files cannot be read or made,
    `NotLMDB` if there is nothing to rescue, `StoreFull` if the disk has no room.
    """
    source, target = os.path.abspath(source), os.path.abspath(target)
    refuse_target(source, target, overwrite=False)
    draft = f"{target}.{os.urandom(6).hex()}"
    try:
        with PageFile(source) as file:
            report = _salvage(file, source, draft, freed, time.time() if now is None else now, progress)
        if not (report.records or report.expired):
            raise NotLMDB(f"{source} holds nothing that a store has written: there is nothing to rescue.")
        publish(draft, target)
        return report
    except StoreError:
        raise
    except lmdb.Error as error:
        raise lmdb_errors.translate_error(error, Options(path=target)) from error
    except OSError as error:
        raise paths.translate_os_error(error, source) from error
    finally:
        with suppress(OSError):
            os.unlink(draft)


def _salvage(file: PageFile, path: str, draft: str, freed: bool, now: float, progress: Progress | None) -> Salvaged:
    source = _Source(file, path)
    report = Salvaged(problems=source.problems, is_certain=source.knows_free_pages)
    with _create(draft, file.size()) as handle:
        rescue = Rescue(handle, now)
        done = 0
        for rank, pages in enumerate(source.ranks(freed)):
            for start in range(0, len(pages), _BATCH):
                rescue.take(rank, list(source.nodes(pages[start : start + _BATCH])))
                done += min(_BATCH, len(pages) - start)
                if progress is not None:
                    progress(done, max(source.count, done))
        rescue.finish(report)
        handle.sync(True)
    report.missing = max(source.expected - rescue.met, 0)
    return report


def _create(draft: str, size: int) -> lmdb.Environment:
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    size = size * _MAP_FACTOR + _MAP_ROOM
    return lmdb.open(os.fsencode(draft), map_size=size, subdir=False, sync=False, lock=False, mode=0o600)


class _Source:
    """The pages of a damaged file, by what is known of them."""

    def __init__(self, file: PageFile, path: str) -> None:
        self._file = file
        state = self._state(path)
        whole_pages = file.size() // file.page_size
        #: Pages to look at: what lies behind the last one was never committed.
        self.count = min(state.last_page + 1, whole_pages) if state else whole_pages
        self._pages = bytearray(self.count)
        self._freed: dict[int, int] = {}
        self.problems: list[str] = []
        if state is None:
            self.problems.append("Neither of the two meta pages is one.")
        else:
            self.problems += survey(file, state, self._pages, self._freed)
        #: Whether the list of free pages was found whole.
        self.knows_free_pages = state is not None and not any("free" in problem for problem in self.problems)
        #: Entries that the tree should have.
        self.expected = state.main.entries if state else 0
        self._note_large_values()

    def _state(self, path: str) -> State | None:
        try:
            newest = self._file.states()[0]
        except PageDamaged:
            self._file.page_size = _USUAL_PAGE
            return None
        checkpoint = recovery.pending_rollback(path)
        return State.of(checkpoint) if checkpoint else newest

    def _note_large_values(self) -> None:
        """Note what belongs to large values, in which anybody may have stored what looks like a page."""
        for number in self._numbers(LEAF_IN_USE, UNKNOWN):
            for node in self.nodes([number]):
                if node.below:
                    end = node.below - (-(node.size + 16) // self._file.page_size)
                    for part in range(node.below, min(end, self.count)):
                        self._pages[part] = self._pages[part] or IN_USE

    def _numbers(self, *marks: int) -> list[int]:
        return [number for number, mark in enumerate(self._pages) if mark in marks]

    def ranks(self, freed: bool) -> Iterator[list[int]]:
        """Yield the numbers of pages to take records from, those of the newest records first."""
        yield self._numbers(LEAF_IN_USE)
        yield self._numbers(UNKNOWN)
        if freed:
            for txnid in sorted(set(self._freed.values()), reverse=True):
                yield [number for number, freed_by in self._freed.items() if freed_by == txnid]

    def nodes(self, numbers: list[int]) -> Iterator[Node]:
        """Yield the entries in pages, with their values, as far as they can be read."""
        for number in numbers:
            page = self._read(number)
            with suppress(PageDamaged):
                for node in sound_nodes_of(page, number):
                    yield node._replace(value=self._file.value(node)) if node.below else node

    def _read(self, number: int) -> bytes:
        try:
            return self._file.page(number)
        except OSError as error:  # a disk that fails, in this place
            self.problems.append(f"Page {number} cannot be read: {error.strerror}.")
            return b""
