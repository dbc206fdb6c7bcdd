"""The log: what each commit changes, written one after the other, so that a commit is durable by one short sync.

A record is written under LMDB's write lock before the commit that it belongs to, so the log has the order of commits.
Each process that has to wait for the disk syncs the log itself, after its commit: no process waits for another one that
may be stopped. After a power failure the file goes back to its last checkpoint, and the records that follow it are done
again (replay.py).

Invariant, while a file is logged: each writer writes its record behind that of the commit before, or notes that it does
not. Then the chain of records is broken, and commits wait for a checkpoint, where a new one begins.

Where the log ends stands in the sidecar: in the log it would cost each sync a page. If that names the commit that is
about to be made, its process was killed, or LMDB's commit failed: the record is overwritten.

A checkpoint goes on in the other half, once no checkpoint needs what is there.
"""

import logging
import math
import os
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Final, NamedTuple
from zlib import crc32

import lmdb

from lmdbresults.errors import StoreError
from lmdbresults.options import Options
from lmdbresults.store.lmdb.durability import log_file
from lmdbresults.store.lmdb.durability.log_file import RECORDS_AT, Half
from lmdbresults.store.lmdb.durability.logged import LoggedTransaction
from lmdbresults.store.lmdb.durability.sidecar import Checkpoint, Sidecar
from lmdbresults.store.lmdb.durability.sync_errors import SyncErrors
from lmdbresults.store.lmdb.file import paths
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["NO_POSITION", "Log"]

logger = logging.getLogger("lmdbresults")


class _Position(NamedTuple):
    """Where the log ends, for the processes of this boot."""

    file: int
    """Which log that is: by its inode and its size."""
    life: int
    serial: int
    """Of the half in use."""
    half: int
    """Which one that is."""
    chain: int
    """The commit after which the records have no gap."""
    number: int
    """The commit of the last record; `_BROKEN` if the chain is broken."""
    start: int
    """Where in the half that record begins."""
    end: int
    """Where the next one begins."""
    before: int
    """The checksum of the record before it."""
    checksum: int
    """Its checksum."""
    highest: int
    """The last commit of which this half has a record."""
    other: int
    """The same of the other half."""


#: The fields of `_Position` in their order; then a checksum.
_POSITION: Final = struct.Struct(">QQQBQQIIIIQQ")
_CHECKSUM: Final = struct.Struct(">I")
#: What a log has at least, unless it was truncated.
_LEAST_BYTES: Final = 64 << 10
_MASK: Final = (1 << 64) - 1
#: Stands for no commit.
_BROKEN: Final = _MASK
#: Seconds until a log is created after that has failed.
_AFTER_ERROR: Final = 10.0
#: What stands in place of a position where the log has none.
NO_POSITION: Final = bytes(_POSITION.size + _CHECKSUM.size)


class Log:
    """The log of an open file, as this process writes and syncs it."""

    def __init__(self, handle: "lmdb.Environment", sidecar: Sidecar, options: Options, sync_errors: SyncErrors) -> None:
        self._handle = handle
        self._sidecar = sidecar
        self._options = options
        self._path = options.path + paths.LOG_SUFFIX
        self._sync_errors = sync_errors
        self._descriptor = -1
        self._file = self._half_bytes = 0
        #: Device, inode and size of the log that is open: no other file has them as long as it is.
        self._status = (0, 0, 0)
        #: Held while a thread syncs: the others find their commits synced.
        self._syncing = threading.RLock()
        #: The commits up to this one are synced as far as they have records.
        self._synced = 0
        #: The commit after which this process has seen no gap, and the life of the log then.
        self._chain, self._life = 1 << 64, 0
        #: The same, where it is known that a checkpoint covers all commits before.
        self._based = (-1, 0)
        #: Whether it was said that the log cannot be used, and until when none is created.
        self._has_warned, self._create_at = False, -math.inf

    # -- the file ----------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Create the log if it is missing, which takes some hundredths of a second. `switch` opens it."""
        if time.monotonic() < self._create_at:
            return
        try:
            with suppress(FileNotFoundError):
                if os.path.getsize(self._path) < _LEAST_BYTES:  # it was truncated
                    os.unlink(self._path)
            paths.create_log(self._path, self._options.mode, 2 * log_file.HALF_BYTES)
        except (OSError, StoreError) as error:
            self._create_at = time.monotonic() + _AFTER_ERROR
            self._warn(error)

    def _open(self, last: int) -> bool:
        """Open the log, or the one that has taken its place; return whether there is one. ``last`` is the last commit.

        The caller holds LMDB's write lock, so no thread writes, and none can take the new log for the former one.
        """
        if self._is_intact():
            return True
        with self._syncing:
            self._chain = last
            self.close()
            position = self._position()
            try:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                status = os.fstat(self._descriptor)
                self._half_bytes = status.st_size // 2
                self._status = (status.st_dev, status.st_ino, 2 * self._half_bytes)
                self._file = (status.st_ino << 32 | self._half_bytes) & _MASK
                has_position = self._has(position)
            except OSError as error:
                self._warn(error)
                self.close()
                return False
            if not has_position:
                self._sidecar.note_position(NO_POSITION)
        return True

    def _has(self, position: _Position | None) -> bool:
        """Return whether this is the log that a position is of. An inode does not tell, as it may be used again."""
        found = None
        if position is not None and position.file == self._file:
            found = log_file.read_header(self._descriptor, position.half)
        return found is not None and position is not None and found[:2] == (position.serial, position.life)

    def _is_intact(self) -> bool:
        """Return whether the log is open, was not deleted, and has its size."""
        if self._descriptor < 0:
            return False
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino, found.st_size) == self._status

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s cannot be used, so under durability='commit' each store waits for a checkpoint, which takes "
                "longer: %s",
                self._path,
                error,
            )

    def close(self) -> None:
        """Close the log. May be called again."""
        descriptor, self._descriptor, self._file = self._descriptor, -1, 0
        if descriptor >= 0:
            os.close(descriptor)

    # -- writing, under LMDB's write lock ------------------------------------------------------------------------------

    def append(self, txn: Transaction) -> float:
        """Write the record of a transaction that is about to be committed; return how full the half is, from 0 to 1.

        Where that cannot be, note that the chain is broken.
        """
        number, position = txn.id(), self._position()
        is_known = isinstance(txn, LoggedTransaction) and txn.is_complete()
        operations = b"".join(txn.parts) if isinstance(txn, LoggedTransaction) else b""
        if position is None or position.file != self._file:
            self._open(number - 1)
            position = self._position()
        if position is None or position.file != self._file or position.number not in (number - 1, number):
            position = self._begin_after_checkpoint(number - 1)
        if position is not None and is_known and self._write(position, number, operations):
            self._chain, self._life = position.chain, position.life
            return position.end / self._half_bytes
        self._break(number)
        return 0.0

    def _write(self, position: _Position, number: int, operations: bytes) -> bool:
        """Write a record; return whether there is room for it. A transaction that changes nothing has none."""
        if not operations:
            return True
        is_ghost = position.number == number
        start, before = (position.start, position.before) if is_ghost else (position.end, position.checksum)
        record, checksum = log_file.pack(number, operations, before)
        end = start + len(record)
        if end > self._half_bytes:
            return False
        try:
            written = os.pwrite(self._descriptor, record, position.half * self._half_bytes + start)
        except OSError as error:
            self._warn(error)
            return False
        if written < len(record):  # by RLIMIT_FSIZE, or a full disk that never writes in place
            return False
        self._note(
            position._replace(number=number, start=start, end=end, before=before, checksum=checksum, highest=number)
        )
        return True

    def _break(self, number: int) -> None:
        """Note that commit ``number`` has no record."""
        self._chain = number
        position = self._position()
        if position is not None and position.number != _BROKEN:
            self._note(position._replace(number=_BROKEN))

    def _begin_after_checkpoint(self, last: int) -> _Position | None:
        """Begin a new chain, if a checkpoint of the last commit is durable; return the position, or None."""
        durable = self._sidecar.read().durable
        if durable.txn != last or not durable.is_logged:
            return None
        self.switch(durable, durable)
        position = self._position()
        return position if position is not None and (position.file, position.number) == (self._file, last) else None

    def switch(self, checkpoint: Checkpoint, durable: Checkpoint) -> None:
        """Go on in the other half as a checkpoint of the last commit begins, if no checkpoint needs what is there.

        ``durable`` is the last durable checkpoint. If the chain is broken, begin a new one. A deleted sidecar may know
        less than one that others have made since, so no half is begun by it.
        """
        if self._sidecar.is_missing() or not self._open(checkpoint.txn):
            return
        position = self._position()
        if position is None or (position.file, position.life) != (self._file, checkpoint.life):
            try:
                position = self._survey(checkpoint)
            except OSError as error:
                self._warn(error)
                return
        last, before, chain = checkpoint.txn, 0, checkpoint.txn
        if position.number in (last, last + 1):  # that of the next commit is of a killed process
            chain = position.chain
            before = position.checksum if position.number == last else position.before
            if position.start == RECORDS_AT and (position.end == RECORDS_AT or position.number > last):
                return  # the half has no record of a commit yet
        if position.other <= durable.txn:
            half, other = 1 - position.half, position.highest
        elif not before and position.highest <= durable.txn:
            half, other = position.half, position.other
        else:
            return
        header = Half(position.serial + 1, checkpoint.life, last, before, checkpoint.identity, os.urandom(8))
        # First, in case this process is killed in between: no record counts that follows ``last`` in the other half.
        self._note(position._replace(number=_BROKEN))
        try:
            os.pwrite(self._descriptor, header.pack(), half * self._half_bytes)
        except OSError as error:
            self._warn(error)
            return
        ends = RECORDS_AT, RECORDS_AT, header.checksum, header.checksum
        self._note(_Position(self._file, checkpoint.life, header.serial, half, chain, last, *ends, last, other))

    def _survey(self, checkpoint: Checkpoint) -> _Position:
        """Return the position by what the log holds: its chain counts as broken."""
        serial, highest = 0, [0, 0]
        for number in (0, 1):
            found = log_file.read_half(self._descriptor, number)
            if found is not None:
                half, records = found
                serial = max(serial, half.serial)
                if (half.life, half.identity) == (checkpoint.life, checkpoint.identity):
                    for record in deque(records, maxlen=1):
                        highest[number] = record.number
        return _Position(self._file, checkpoint.life, serial, 1, 0, _BROKEN, 0, 0, 0, 0, highest[1], highest[0])

    def _position(self) -> _Position | None:
        data = self._sidecar.position(len(NO_POSITION))
        fields = data[: _POSITION.size]
        is_whole = len(data) == len(NO_POSITION) and data.endswith(_CHECKSUM.pack(crc32(fields)))
        return _Position._make(_POSITION.unpack(fields)) if is_whole else None

    def _note(self, position: _Position) -> None:
        fields = _POSITION.pack(*position)
        self._sidecar.note_position(fields + _CHECKSUM.pack(crc32(fields)))

    # -- syncing -------------------------------------------------------------------------------------------------------

    def sync(self, number: int) -> bool:
        """Return whether the log makes commit ``number`` of this process durable; sync it first if it is to.

        Threads that call it at the same time share a sync. Raises `DiskFailed`.
        """
        if number <= self._chain or not self._is_based():
            return False
        if self._synced < number:
            with self._syncing:
                # The chain before: another thread may have closed the log, and found no other one.
                is_in_chain = number > self._chain
                return is_in_chain and (self._synced >= number or self._sync()) and number > self._chain
        return True

    def _sync(self) -> bool:
        """Sync the log; return whether it, and the sidecar, which the next boot needs, are still there."""
        # Not up to the last record: its commit may never come, and the next one has the same number.
        committed = self._handle.info()["last_txnid"]
        self._sync_errors.sync_log(self._descriptor)
        if not self._is_intact() or self._sidecar.is_missing():
            return False
        self._synced = committed
        return True

    def _is_based(self) -> bool:
        """Return whether a durable checkpoint covers all commits before the chain."""
        chain = self._chain, self._life
        if chain != self._based:
            durable = self._sidecar.read().durable
            # A file without a commit on the disk is created again, so there is nothing that records could follow.
            if durable.txn < max(chain[0], 1) or durable.life != chain[1]:
                return False
            try:
                paths.sync_folder(os.path.dirname(self._path))  # the log may be new, and its name not on the disk
            except OSError:  # for example, no descriptor is left
                return False
            self._based = chain
        return True
