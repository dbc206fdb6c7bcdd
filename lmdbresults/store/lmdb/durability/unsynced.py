"""What stands in for checkpoints where there are none: nothing is synced, except at the end and on demand."""

import logging
import math
from typing import TypeAlias

import lmdb

from lmdbresults.errors import StoreError
from lmdbresults.options import Options
from lmdbresults.store.lmdb.durability.checkpoints import Checkpoints
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from lmdbresults.store.lmdb.durability.sync_errors import SyncErrors

__all__ = ["Durability", "UnsyncedFile"]

logger = logging.getLogger("lmdbresults")


class UnsyncedFile:
    """Has the interface of `Checkpoints`, and makes none."""

    needs_work = is_backlogged = is_closed = False
    log = None

    def __init__(self, handle: "lmdb.Environment", sidecar: Sidecar, options: Options) -> None:
        self._handle = handle
        self._sidecar = sidecar
        self._options = options
        self.sync_errors = SyncErrors(sidecar, options, is_guarded=False)

    def before_commit(self, txn: "lmdb.Transaction[bytes]") -> None:
        """Do nothing: also after a failed sync nothing is promised about what is stored."""

    def note_growth(self, used: int, number: int) -> None:
        """Do nothing."""

    def release_pages(self) -> None:
        """Do nothing: no pages are kept from reuse."""

    def is_behind(self) -> bool:
        """Return False: there is nothing to make up for."""
        return False

    def run_due(self) -> float:
        """Do nothing."""
        self.needs_work = False
        return math.inf

    def unpin(self) -> None:
        """Do nothing."""

    def secure(self, number: int) -> None:
        """Return once a commit is on the disk, as `flush` does."""
        self.flush(number)

    def flush(self, through: float = math.inf) -> None:
        """Return once all commits are on the disk. Raises `DiskFailed` if that fails, or has failed before."""
        self.sync_errors.raise_if_failed()
        if not any(self._sidecar.head().identity):  # by which a failure is noted
            with self._handle.begin(write=True):
                self._sidecar.ensure_identity(self._sidecar.head())
        self.sync_errors.sync(self._handle)

    def close(self) -> None:
        """Note that the file is closed cleanly if no other process has it open: then it need not be verified."""
        try:
            if self._sidecar.try_lock_exclusive():
                state, number = self._sidecar.read(), self._handle.info()["last_txnid"]
                if not state.last.is_last_commit_of(self._sidecar.head()):
                    self.flush()
                    closed = self._sidecar.describe(state, self._sidecar.head(), number, is_pinned=False)
                    self._sidecar.write(closed, state, with_lock=True)
        except (lmdb.Error, OSError, StoreError) as error:
            logger.error("%s was closed without having been synced: %s", self._options.path, error)


#: What protects an open file from a power failure.
Durability: TypeAlias = Checkpoints | UnsyncedFile
