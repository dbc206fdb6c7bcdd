"""A disk that does not take what was written: seen once, and remembered for as long as the machine is up.

The system tells a failed write to each descriptor that was open then, once, and takes the pages for written. So a later
sync says that all is well, above all one of a process that was started since. What has failed is therefore noted in
the sidecar, where every process of this boot looks before it says that anything is on the disk.
"""

import logging
import time

import lmdb

from lmdbresults.errors import StoreError
from lmdbresults.options import Options
from lmdbresults.store.lmdb.durability.sidecar import Failure, Sidecar
from lmdbresults.store.lmdb.file import lmdb_errors

__all__ = ["SyncErrors"]

logger = logging.getLogger("lmdbresults")


class SyncErrors:
    """The disk below a data file, as far as this process and the others of this boot know."""

    def __init__(self, sidecar: Sidecar, options: Options, *, is_guarded: bool) -> None:
        self._sidecar = sidecar
        self._path = options.path
        self._is_guarded = is_guarded
        #: What this process was told when it synced. It counts even where the sidecar could not be written.
        self.failure: StoreError | None = None

    def raise_if_failed(self) -> None:
        """Raise `DiskFailed` if a sync has failed since the machine was started, here or in another process."""
        if self.failure is not None:
            raise type(self.failure)(*self.failure.args)
        noted = self._sidecar.failure()
        if noted is not None:
            raise lmdb_errors.sync_failed(self._path, noted, is_guarded=self._is_guarded)

    def sync(self, handle: "lmdb.Environment") -> None:
        """Have all that was committed be on the disk; the data file says which one it is. Raises `DiskFailed`."""
        try:
            handle.sync(True)
        except lmdb.Error as error:
            self.failure = self.record(error)
            raise type(self.failure)(*self.failure.args) from error
        self.raise_if_failed()  # others, who may have been told what we were not

    def record(self, error: Exception) -> StoreError:
        """Have all processes of this boot know that a sync has failed; return what is to be raised."""
        failure = Failure(time.time(), str(error))
        try:
            self._sidecar.note_failure(failure)
        except OSError as trouble:
            logger.error("%s: other processes cannot be told that the disk has failed: %s", self._path, trouble)
        return lmdb_errors.sync_failed(self._path, failure, is_guarded=self._is_guarded)
