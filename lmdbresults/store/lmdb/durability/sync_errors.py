"""A failed sync: noticed once, and remembered until the machine restarts.

The system reports a failed write once, to each descriptor that was open then, and marks the pages as clean. So a later
sync succeeds, also in a process that was started since. The failure is therefore noted in the sidecar, and each process
of this boot reads the note before it says that anything is on the disk.
"""

import logging
import os
import time

import lmdb

from lmdbresults.errors import StoreError
from lmdbresults.options import Options
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from lmdbresults.store.lmdb.file.lmdb_errors import SyncFailure, sync_failed

__all__ = ["SyncErrors"]

logger = logging.getLogger("lmdbresults")


class SyncErrors:
    """Syncs a data file, and remembers the syncs that failed, in this process or in another one."""

    def __init__(self, sidecar: Sidecar, options: Options, *, is_guarded: bool) -> None:
        self._sidecar = sidecar
        self._path = options.path
        self._is_guarded = is_guarded
        #: The failure that this process has seen. It counts even where the sidecar could not be written.
        self.failure: StoreError | None = None

    def raise_if_failed(self) -> None:
        """Raise `DiskFailed` if a sync has failed since the machine was started, here or in another process."""
        if self.failure is not None:
            raise type(self.failure)(*self.failure.args)
        noted = self._sidecar.failure()
        if noted is not None:
            raise sync_failed(self._path, noted, is_guarded=self._is_guarded)

    def sync(self, handle: "lmdb.Environment") -> None:
        """Sync all commits to the disk. The data file has its identity. Raises `DiskFailed`."""
        try:
            handle.sync(True)
        except lmdb.Error as error:
            self.failure = self.record(error)
            raise type(self.failure)(*self.failure.args) from error
        self.raise_if_failed()  # the system may have reported the failure to another process only

    def sync_log(self, descriptor: int) -> None:
        """Sync the log of the data file. Raises `DiskFailed`."""
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            self.failure = self.record(error)
            raise type(self.failure)(*self.failure.args) from error
        self.raise_if_failed()

    def record(self, error: Exception) -> StoreError:
        """Note a failed sync for all processes of this boot; return the error to raise."""
        failure = SyncFailure(time.time(), str(error))
        try:
            self._sidecar.note_failure(failure)
        except OSError as trouble:
            logger.error("%s: cannot note for other processes that a sync has failed: %s", self._path, trouble)
        return sync_failed(self._path, failure, is_guarded=self._is_guarded)
