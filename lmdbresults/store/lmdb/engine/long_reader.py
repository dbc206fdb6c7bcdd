"""The read transaction that keeps the most pages from reuse: its process, its beginning, and the bytes it costs."""

import time
from typing import NamedTuple

from lmdbresults.process.identity import describe
from lmdbresults.store.lmdb.file.btree import freed_pages
from lmdbresults.store.lmdb.file.pages import PageDamaged, PageFile
from lmdbresults.store.lmdb.file.reader_table import PIN, ReaderTable

__all__ = ["LongReader", "oldest_reader"]


class LongReader(NamedTuple):
    """The oldest read transaction of all processes."""

    pid: int
    process: str
    """Number and name of the process."""
    since: float | None
    """When it began, in seconds since the epoch; None if unknown: only ``store.read()`` blocks tell."""
    kept: int
    """Bytes of pages that were freed since, and cannot be reused before it ends."""

    def __str__(self) -> str:
        when = "" if self.since is None else f" since {time.strftime('%H:%M:%S', time.localtime(self.since))}"
        return f"{self.process} has been reading{when}, which keeps {self.kept} bytes from reuse"


def oldest_reader(readers: ReaderTable, path: str) -> LongReader | None:
    """Return the oldest reader of an open file that is not a pin; None if no transaction is open or known."""
    found = [reader for reader in readers.readers() if reader.label != PIN]
    if not found:
        return None
    oldest = min(found, key=lambda reader: reader.txn)
    try:
        with PageFile(path) as file:
            state = file.states()[0]
            pages = sum(count for txn, count in freed_pages(file, state) if txn >= oldest.txn)
            kept = pages * file.page_size
    except (PageDamaged, OSError):  # also if the tree was changed while it was read
        kept = 0
    return LongReader(oldest.pid, describe(oldest.pid), oldest.since, kept)
