"""Space for what is added: on the map, of which some is kept back for deletes, and on the disk, ahead of the data."""

import errno
import os
from typing import TYPE_CHECKING, Final

from lmdbresults.errors import StoreFull
from lmdbresults.options import Options
from lmdbresults.store.lmdb.durability.unsynced import Durability
from lmdbresults.store.lmdb.engine.long_reader import LongReaders
from lmdbresults.store.lmdb.file import lmdb_errors, paths
from lmdbresults.store.lmdb.file.btree import freed_before
from lmdbresults.store.lmdb.file.pages import PageDamaged, PageFile

if TYPE_CHECKING:
    import lmdb

__all__ = ["Space"]

#: What is kept for deletes and sweeps, which copy the pages that they touch: an eighth of the map at most.
_MAX_RESERVE: Final = 64 << 20
_MIN_RESERVE: Final = 256 << 10
#: Disk space that is allocated ahead of the data, so that deletes go on when the disk is full.
_HEADROOM: Final = 1 << 20
#: Pages that a commit may copy besides what it adds: about eight, and twice that while a reader pins the former ones.
_COMMIT_COST: Final = 64 << 10
#: Space is looked at once for so many bytes of writes, because looking costs 2 µs.
_CHECK_EVERY: Final = 512 << 10


class Space:
    """The space of an open file. Guarded by the write lock of its environment."""

    def __init__(
        self, handle: "lmdb.Environment", options: Options, checkpoints: Durability, long_readers: LongReaders
    ) -> None:
        self._handle = handle
        self._checkpoints = checkpoints
        self._long_readers = long_readers
        self._options = options
        self._page_size = handle.stat()["psize"]
        self._map_size = min(options.max_size, handle.info()["map_size"])
        reserve = min(max(self._map_size // 8, _MIN_RESERVE), _MAX_RESERVE)
        self._limit = self._map_size - reserve
        self._check_every = min(_CHECK_EVERY, reserve // 8)
        #: The transaction of the last check, and the bytes that it had added by then.
        self._transaction, self._added = -1, 0
        #: Bytes added since the last check, in that transaction or later ones.
        self._since = 0
        #: The same, and what commits copy.
        self._unchecked = self._check_every
        #: The size of the file when it was last asked for. No process makes it smaller.
        self._size = 0
        self._descriptor = os.open(options.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def close(self) -> None:
        """Close the descriptor. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def is_at(self, path: str) -> bool:
        """Return whether the path leads to the file that is open here."""
        return paths.is_same_file(path, self._descriptor)

    def reserve(self, txn: "lmdb.Transaction[bytes]", size: int) -> None:
        """Check, inside a write transaction, that about ``size`` more bytes fit the map and the disk.

        Raises `StoreFull`.
        """
        self._since += size
        self._unchecked += _COMMIT_COST + size
        if self._unchecked >= self._check_every:
            self._look(txn, size)

    def reserve_for_delete(self, txn: "lmdb.Transaction[bytes]") -> None:
        """Make room, inside a write transaction, for a removal, which may use the reserve."""
        self._unchecked += _COMMIT_COST
        if self._unchecked >= self._check_every:
            self._look(txn, None)

    def _look(self, txn: "lmdb.Transaction[bytes]", adds: int | None) -> None:
        number, used = txn.id(), (self._handle.info()["last_pgno"] + 1) * self._page_size
        self._added = self._since + (self._added if number == self._transaction else 0)
        self._transaction, self._since = number, 0
        self._checkpoints.note_growth(used, number)
        self._checkpoints.needs_work |= self._long_readers.note_growth(used)
        live = used
        if live + (adds or 0) > self._limit:  # else there is no need to ask which of the used pages are free
            pages = txn.stat()
            live = (pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"]) * self._page_size
        fits = live + (adds or 0) <= self._limit
        if adds is not None and not fits:
            raise StoreFull(
                f"{self._options.path} holds {live} bytes of results, and {adds} more do not fit "
                f"max_size={self._map_size}. Raise max_size, let results expire sooner, or delete some."
            )
        refusal = self._allocate(min(used + self._added + _HEADROOM, self._map_size), used)
        if refusal is None and fits:
            self._unchecked = 0  # else the next addition must look again
        elif refusal is not None and adds is not None and self._reusable(used, number - 1) < self._added + _HEADROOM:
            raise lmdb_errors.translate_error(refusal, self._options) from refusal

    def _allocate(self, wanted: int, used: int) -> OSError | None:
        """Allocate blocks ahead of the data; return the error of the file system if it refuses.

        Only the holder of the write lock may do so, because no other process lets the file grow.
        """
        if self._size < wanted:
            self._size = os.fstat(self._descriptor).st_size
        size = self._size
        if size >= wanted:
            return None
        step = min(max(used // 16, _HEADROOM), _MAX_RESERVE) + (-wanted) % _HEADROOM  # ends at a round number
        available = size + self._free_on_disk(wanted + step)
        if available < wanted:  # checked first: a file system may take 50 ms to fail
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for target in (min(wanted + step, self._map_size, available), wanted):
            try:
                _extend(self._descriptor, size, target)
            except OSError as error:
                refusal = error
            else:
                self._size = target
                return None
        return refusal

    def _free_on_disk(self, unknown: int) -> int:
        """Return the free bytes of the disk, or ``unknown`` if the file system does not tell."""
        try:
            disk = os.fstatvfs(self._descriptor)
        except OSError:
            return unknown
        return disk.f_bavail * disk.f_frsize if disk.f_blocks else unknown

    def _reusable(self, used: int, last: int) -> int:
        """Return about how many bytes of the file the next commits can write to.

        These are pages behind the used part, and those that were freed before the oldest reader began. A checkpoint
        keeps the others until the next one: they are of no use to a delete on a full disk.
        """
        lines = [line.split()[-1] for line in self._handle.readers().splitlines()[1:]]
        oldest = min((int(txn) for txn in lines if txn != "-"), default=last)
        behind = os.fstat(self._descriptor).st_size - used
        try:
            with PageFile(self._options.path) as file:
                return behind + self._page_size * freed_before(file, file.states()[0], min(oldest, last))
        except (PageDamaged, OSError):
            return behind


def _extend(descriptor: int, size: int, wanted: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, size, wanted - size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        else:
            return
    os.ftruncate(descriptor, wanted)
