"""Salvage: what can still be read of a damaged file, written to a new one.

The damaged file is read page by page, without LMDB, and never changed. A record is taken if its checksum matches. In a
page of the tree it is the newest version, unless the log has a newer one, after a power failure. Pages that are neither
part of the tree nor free belonged to the tree until a page above them broke: their records are taken where the tree has
none. Free pages hold deleted and replaced records and are not read.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

import lmdb

from lmdbresults.errors import NotLMDB, StoreError
from lmdbresults.options import Options
from lmdbresults.store.base import Progress
from lmdbresults.store.lmdb.durability import recovery
from lmdbresults.store.lmdb.durability.log_file import Record
from lmdbresults.store.lmdb.file import lmdb_errors, paths
from lmdbresults.store.lmdb.file.btree import IN_USE, LEAF_IN_USE, UNKNOWN, survey
from lmdbresults.store.lmdb.file.meta import Meta
from lmdbresults.store.lmdb.file.pages import Node, PageDamaged, PageFile, sound_nodes_of
from lmdbresults.store.lmdb.maintenance.backup import publish, refuse_target
from lmdbresults.store.lmdb.maintenance.salvage_writer import Salvaged, SalvageWriter

__all__ = ["Salvaged", "salvage"]

#: Pages whose records are written in one transaction.
_BATCH: Final = 256
#: The size of a page if neither meta page says it.
_USUAL_PAGE: Final = 4096
#: Address space for the new file: it needs little more than the damaged one.
_MAP_FACTOR, _MAP_EXTRA = 4, 1 << 30


def salvage(source: str, target: str, *, now: float | None = None, progress: Progress | None = None) -> Salvaged:
    """Write what can be read of a damaged file to a new store, with the same deadlines; return a report.

    ``now`` is the time in seconds since the epoch by which records are expired. No process should write to the source
    meanwhile. Raises `TargetExists`, an `OpenError` if one of the files cannot be read or created, `NotLMDB` if the
    source holds no records, `StoreFull` if the disk is full.
    """
    source, target = os.path.abspath(source), os.path.abspath(target)
    refuse_target(source, target, overwrite=None)
    draft = f"{target}.{os.urandom(6).hex()}"
    try:
        with PageFile(source) as file:
            report = _salvage(file, source, draft, time.time() if now is None else now, progress)
        if not (report.records or report.expired):
            raise NotLMDB(f"{source} holds no records of a store: there is nothing to salvage.")
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


def _salvage(file: PageFile, path: str, draft: str, now: float, progress: Progress | None) -> Salvaged:
    source = _Source(file, path)
    with _create(draft, file.size()) as handle:
        writer = SalvageWriter(handle, now)
        done = 0
        for mark in (LEAF_IN_USE, UNKNOWN):
            numbers = source.numbers(mark)
            for start in range(0, len(numbers), _BATCH):
                batch = numbers[start : start + _BATCH]
                writer.add(list(source.nodes(batch)), stray=mark == UNKNOWN)
                done += len(batch)
                if progress is not None:
                    progress(done, max(source.count, done))
        writer.redo(source.logged)
        report = writer.finish()
        handle.sync(True)
    return replace(
        report,
        problems=source.problems,
        missing=max(source.expected - writer.entries, 0),
        is_certain=source.knows_free_pages,
    )


def _create(draft: str, size: int) -> lmdb.Environment:
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    size = size * _MAP_FACTOR + _MAP_EXTRA
    return lmdb.open(os.fsencode(draft), map_size=size, subdir=False, sync=False, lock=False, mode=0o600)


class _Source:
    """The pages of a damaged file, by what is known of them."""

    def __init__(self, file: PageFile, path: str) -> None:
        self._file = file
        #: What opening the file would do again, by the log.
        self.logged: list[Record] = []
        state = self._state(path)
        whole_pages = file.size() // file.page_size
        #: Pages to read. Pages behind the last one of the newest commit were never committed.
        self.count = min(state.last_page + 1, whole_pages) if state else whole_pages
        self._marks = bytearray(self.count)
        self.problems: list[str] = []
        #: Whether the list of free pages is intact.
        self.knows_free_pages = False
        if state is None:
            self.problems.append("Both meta pages are invalid.")
        else:
            self.problems += self._survey(state)
        #: Entries that the tree should have.
        self.expected = state.main.entries if state else 0
        self._mark_large_values()

    def _state(self, path: str) -> Meta | None:
        try:
            newest = self._file.states()[0]
        except PageDamaged:
            self._file.page_size = _USUAL_PAGE
            return None
        pending = recovery.pending(path)
        self.logged = pending.records
        return pending.rollback or newest

    def _survey(self, state: Meta) -> Iterator[str]:
        self.knows_free_pages = yield from survey(self._file, state, self._marks)

    def _mark_large_values(self) -> None:
        """Mark the pages of large values as in use: a stored value may contain what looks like a page."""
        for number in (*self.numbers(LEAF_IN_USE), *self.numbers(UNKNOWN)):
            for node in self.nodes([number]):
                if node.below:
                    end = node.below - (-(node.size + 16) // self._file.page_size)
                    for part in range(node.below, min(end, self.count)):
                        self._marks[part] = self._marks[part] or IN_USE

    def numbers(self, mark: int) -> list[int]:
        """Return the numbers of all pages with a mark."""
        return [number for number, found in enumerate(self._marks) if found == mark]

    def nodes(self, numbers: list[int]) -> Iterator[Node]:
        """Yield the readable entries of pages, with their values."""
        for number in numbers:
            page = self._read(number)
            with suppress(PageDamaged):
                for node in sound_nodes_of(page, number):
                    yield node._replace(value=self._file.value(node)) if node.below else node

    def _read(self, number: int) -> bytes:
        try:
            return self._file.page(number)
        except OSError as error:
            self.problems.append(f"Page {number} cannot be read: {error.strerror}.")
            return b""
