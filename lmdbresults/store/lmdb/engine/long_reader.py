"""The read transaction that keeps the most pages from reuse: its process, its beginning, and the bytes it costs."""

import logging
import math
import time
from typing import Final, NamedTuple

import lmdb

from lmdbresults.options import Options
from lmdbresults.process.identity import describe
from lmdbresults.store.lmdb.file.btree import freed_before
from lmdbresults.store.lmdb.file.pages import PageDamaged, PageFile
from lmdbresults.store.lmdb.file.reader_table import Reader, ReaderTable
from lmdbresults.store.lmdb.types import RunLocked

__all__ = ["LongReader", "LongReaders"]

logger = logging.getLogger("lmdbresults")

#: Seconds until a reader that keeps many pages is logged: by then a read of a large value has ended.
_PATIENCE: Final = 5.0
#: With a small `max_size`, the part of it by which the file grows until its readers are examined.
_PART_OF_MAP: Final = 8
_META_PAGES: Final = 2
#: How often to begin a snapshot whose meta page two later commits have not overwritten yet.
_TRIES: Final = 100


class LongReader(NamedTuple):
    """The oldest read transaction of all processes."""

    pid: int
    process: str
    """Number and name of the process."""
    since: float | None
    """When it began, in seconds since the epoch; None if unknown: only ``store.read()`` blocks tell."""
    kept: int | None
    """Bytes of pages that were freed since, and cannot be reused before it ends; None if that cannot be read."""

    def __str__(self) -> str:
        when = "" if self.since is None else f" since {time.strftime('%H:%M:%S', time.localtime(self.since))}"
        what = "pages" if self.kept is None else f"{self.kept} bytes"
        return f"{self.process} has been reading{when}, which keeps {what} from reuse"


class LongReaders:
    """Finds long readers of an open file, and logs each that makes it grow, once."""

    def __init__(self, handle: lmdb.Environment, table: ReaderTable, options: Options, run_locked: RunLocked) -> None:
        self._handle = handle
        self._table = table
        self._path = options.path
        self._run_locked = run_locked
        #: By how many bytes the file grows until its readers are examined.
        self._step = min(options.checkpoint_bytes, handle.info()["map_size"] // _PART_OF_MAP)
        self._examine_at = self._used(handle) + self._step
        self._is_due = False
        #: A reader that kept many pages when it was examined, and when it is examined again; the last one logged.
        self._suspect: Reader | None = None
        self._suspect_until = math.inf
        self._logged: Reader | None = None

    @staticmethod
    def _used(handle: lmdb.Environment) -> int:
        used: int = (handle.info()["last_pgno"] + 1) * handle.stat()["psize"]
        return used

    def note_growth(self, used: int) -> bool:
        """Note how many bytes of the file are in use; return whether to call `run` soon. Writers call this."""
        if used >= self._examine_at:
            self._examine_at = used + self._step
            self._is_due = self._oldest() not in (None, self._logged)
        return self._is_due

    def run(self) -> float:
        """Log the reader that makes the file grow, if there is one; return the seconds after which to call again."""
        if not self._is_due:
            return math.inf
        self._run_locked(self._handle, lambda txn: self._handle.reader_check())  # one that was killed ends here
        reader = self._oldest()
        found = None if reader in (None, self._logged) else self.oldest()
        if reader is None or found is None or (found.kept or 0) < self._step:
            self._is_due, self._suspect = False, None
            return math.inf
        now = time.monotonic()
        if reader != self._suspect:
            self._suspect, self._suspect_until = reader, now + _PATIENCE
        if now < self._suspect_until:
            return self._suspect_until - now
        logger.warning("%s grows: %s. End that read, or that process.", self._path, found)
        self._is_due, self._logged = False, reader
        return math.inf

    def oldest(self) -> LongReader | None:
        """Return the oldest reader that is not a pin; None if no transaction is open, or the table cannot be read."""
        try:
            reader = self._oldest()
        except lmdb.Error:
            return None
        return reader and LongReader(reader.pid, describe(reader.pid), reader.since, self._kept_since(reader.txn))

    def _oldest(self) -> Reader | None:
        found = (reader for reader in self._table.readers() if not reader.is_pin)
        return min(found, key=lambda reader: reader.txn, default=None)

    def _kept_since(self, number: int) -> int | None:
        """Return how many bytes were freed by commit ``number`` and later; None if that cannot be read."""
        try:
            with PageFile(self._path) as file:
                for _ in range(_TRIES):
                    with self._handle.begin() as snapshot:  # while it is open, no page of it is reused
                        meta = next((meta for meta in file.states() if meta.txn == snapshot.id()), None)
                        if meta is not None:
                            free = meta.last_page + 1 - _META_PAGES - meta.main.pages - meta.free.pages
                            return file.page_size * (free - freed_before(file, meta, number))
        except (PageDamaged, OSError, lmdb.Error):
            pass
        return None
