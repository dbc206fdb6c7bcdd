"""Checkpoints: commits that are not synced one by one, and yet survive a loss of power up to the last checkpoint.

A checkpoint is a commit whose pages are all on disk, whose meta page is saved in the sidecar, and whose pages are not
reused, because a read transaction is kept open on it: its *pin*. So a file that a loss of power leaves as a mixture of
old and new pages can be rolled back to it (recovery.py).

Invariant: the pin stands whenever a commit reaches the file. Each writer looks for it in LMDB's reader table just
before its commit, when nothing of the transaction is in the file yet. The pin is gone if its holder has closed the file
or was killed. If nothing was committed since the checkpoint, the writer puts a pin of its own, which takes a
microsecond, and makes the next checkpoint in time. Otherwise it first makes a checkpoint of the last commit.

A process that is stopped, or whose threads wait for the GIL, cannot release its pin, and pages would be kept for ever.
So a process that makes a checkpoint frees older pins in LMDB's reader table itself, as nothing is read through a pin.

To spare writers that, a thread (checkpointer.py) makes a checkpoint at most a second after its pin was put. An idle
file has no pin, and needs no checkpoint.

Order of locks: `_making`, the checkpoint lock of the sidecar, the writer lock, LMDB's write lock.
"""

import logging
import math
import threading
import time
from typing import Final

import lmdb

from lmdbresults.errors import StoreError
from lmdbresults.options import Options
from lmdbresults.process.fork_gate import is_owned
from lmdbresults.store.lmdb.durability.sidecar import Checkpoint, Sidecar, SidecarState
from lmdbresults.store.lmdb.durability.sync_errors import SyncErrors
from lmdbresults.store.lmdb.file import lmdb_errors, meta
from lmdbresults.store.lmdb.file.meta import Head
from lmdbresults.store.lmdb.file.reader_table import PIN, ReaderTable
from lmdbresults.store.lmdb.types import AcquireWriter

__all__ = ["Checkpoints"]

logger = logging.getLogger("lmdbresults")

#: Sentinel: a line that LMDB's reader table never has.
_NO_LINE: Final = "\0"
#: How many intervals another process may take before this one makes the checkpoint in its place.
_PATIENCE: Final = 2
#: Seconds until the holder of the checkpoint lock counts as stopped. A fork waits longer than that (fork_gate.py).
_LOCK_PATIENCE: Final = 5.0
#: Seconds between two tries for the checkpoint lock: a fraction of what a sync takes.
_LOCK_PAUSE: Final = 0.001
#: Seconds between two looks of a writer whether a sync has failed in another process: one takes 1.5 µs.
_LOOK_EVERY: Final = 0.1
#: What a commit writes at least, about: six pages, and ten among 50,000 results; the next one replaces most of them.
#: While the file has room for them it does not grow, so its size does not tell.
_COMMIT_BYTES: Final = 24 << 10
#: How many times `checkpoint_bytes` may be written before writers wait for a checkpoint.
_MOST_WRITTEN: Final = 4
#: With a small `max_size`: how many checkpoints are made, at least, while that much is written.
_LEAST_PER_MAP: Final = 32


class Checkpoints:
    """The checkpoints of an open file, as this process sees and makes them."""

    def __init__(
        self,
        handle: "lmdb.Environment",
        readers: ReaderTable,
        sidecar: Sidecar,
        options: Options,
        acquire_writer: AcquireWriter,
    ) -> None:
        self._handle = handle
        self._readers = readers
        self._sidecar = sidecar
        self._options = options
        #: Returns a block in which this process may take LMDB's write lock.
        self._acquire_writer = acquire_writer
        #: Held while a checkpoint is made, so that other threads that want one find it done.
        self._making = threading.RLock()
        #: The pin of this process, if it holds one, and its checkpoint.
        self._pin: lmdb.Transaction[bytes] | None = None
        self._pinned: Checkpoint | None = None
        #: Part of the line of the pin in LMDB's reader table, be it of this process or of another one.
        self._pin_line = _NO_LINE
        #: When this process must make the next checkpoint, and when it makes one in place of another process, by
        #: `time.monotonic`.
        self._due = self._takeover_at = math.inf
        #: When a writer next looks for both a takeover and a failed sync; under ``commit`` at each commit.
        self._look_at = -math.inf
        self._look_every = 0.0 if options.durability == "commit" else min(_LOOK_EVERY, options.checkpoint_interval)
        #: The commit of the checkpoint, and the end of the used part of the file then.
        self._covered = self._end = 0
        #: How many bytes may be written until the next one is begun.
        self._most = min(options.checkpoint_bytes, handle.info()["map_size"] // _LEAST_PER_MAP)
        #: The checkpoint behind which other processes were at the last look, and how long they are left alone with it.
        self._seen, self._alone_until = (-1, -1), math.inf
        self.sync_errors = SyncErrors(sidecar, options, is_guarded=True)
        #: Whether the folder is still to be synced, as the sidecar may be new.
        self._is_new = True
        #: Whether the checkpointer has something to do.
        self.needs_work = False
        #: Whether so much was written since the checkpoint that writers wait for the next one.
        self.is_backlogged = False
        self._is_large = False
        #: Whether `close` has done all it can.
        self.is_closed = False

    # -- writing -----------------------------------------------------------------------------------------------------

    def before_commit(self, txn: "lmdb.Transaction[bytes]") -> None:
        """Make sure that the pin stands. Called in a write transaction as the last thing before its commit."""
        if self._pin_line not in self._handle.readers():
            self._protect(txn)
        elif time.monotonic() >= self._look_at:
            self.sync_errors.raise_if_failed()  # after a failure each commit comes here
            now = time.monotonic()
            self._look_at = now + self._look_every
            self.needs_work |= now > self._takeover_at

    def _protect(self, txn: "lmdb.Transaction[bytes]") -> None:
        """Put a pin, follow the one of another process, or make a checkpoint of the last commit."""
        self.sync_errors.raise_if_failed()
        self.needs_work = True
        state, head, number = self._sidecar.read(), self._sidecar.head(), txn.id() - 1
        durable = state.durable
        if _is_of_commit(durable, head, number):
            self._adopt(durable, self._readers.begin(PIN))
        elif durable.is_pinned and durable.is_of(head) and self._has_pin(durable):
            self._rely_on(durable)
            self._takeover_at = time.monotonic() + _PATIENCE * self._options.checkpoint_interval
        else:
            checkpoint = self._sidecar.describe(state, head, number, is_pinned=True)
            self._secure(checkpoint, self._readers.begin(PIN), state, with_lock=False)

    def note_growth(self, used: int, number: int) -> None:
        """Take note of how many bytes of the file are in use at a commit, which a writer looks up now and then."""
        written = max(used - self._end, (number - self._covered) * _COMMIT_BYTES)
        if written > self._most:
            self.needs_work = self._is_large = True
            self.is_backlogged = written > _MOST_WRITTEN * self._most

    # -- making ------------------------------------------------------------------------------------------------------

    def flush(self, through: float = math.inf) -> None:
        """Return once all commits up to number ``through`` are durable. The caller is in no transaction.

        Threads and processes that want this at the same time share the work. Raises `DiskFailed` if a sync fails, or
        has failed in this boot.
        """
        is_nested = is_owned(self._making)
        with self._making:
            if self._is_durable(through):
                return
            self.sync_errors.raise_if_failed()
            if is_nested:  # in a signal handler that has interrupted a checkpoint, which holds the lock
                self._make(False, through)
                return
            try:
                until = time.monotonic() + _LOCK_PATIENCE
                while not (has_lock := self._sidecar.try_lock_checkpoints()):
                    if self._sidecar.read().is_lock_stuck:  # as another process has found out
                        break
                    if time.monotonic() >= until:
                        self._sidecar.note_lock_stuck(True)
                        break
                    time.sleep(_LOCK_PAUSE)
                    if self._is_durable(through):
                        return
                self._make(has_lock, through)
            finally:
                try:
                    self._sidecar.unlock_checkpoints()
                finally:  # again, in case a signal handler raised before the first one
                    self._sidecar.unlock_checkpoints()

    def _is_durable(self, through: float) -> bool:
        return through < math.inf and self._sidecar.read().durable.txn >= through

    def release_pages(self) -> None:
        """Let pages be reused that are kept for an older checkpoint. The caller is in no transaction."""
        self.flush()
        with self._acquire_writer(), self._handle.begin(write=True) as txn:
            self._free_stale_pins(self._sidecar.read().durable, txn.id() - 1)

    def _make(self, has_lock: bool, through: float) -> None:
        """Make a checkpoint of the last commit, unless there is one up to number ``through``."""
        if has_lock and self._sidecar.is_missing():
            self._sidecar.recreate(self._options.mode)
            self._is_new = True
        with self._acquire_writer(), self._handle.begin(write=True) as txn:
            state, head, number = self._sidecar.read(), self._sidecar.head(), txn.id() - 1
            if has_lock and state.is_lock_stuck:
                self._sidecar.note_lock_stuck(False)
            self._free_stale_pins(state.durable, number)
            if state.durable.txn >= through or _is_of_commit(state.durable, head, number):
                return
            checkpoint = self._sidecar.describe(state, head, number, is_pinned=True)
            pin = self._readers.begin(PIN)
            if not has_lock:  # then the write lock protects the slots of the sidecar, and writers wait
                self._secure(checkpoint, pin, state, with_lock=False)
                return
        self._secure(checkpoint, pin, state, with_lock=True)

    def _free_stale_pins(self, durable: Checkpoint, last: int) -> None:
        """Free the pins of all processes below a durable checkpoint, if its own pin stands or it is the last commit.

        The caller holds the write lock, so no writer is between its look for a pin and its commit.
        """
        for reader in self._readers.readers():
            is_stale = reader.label == PIN and reader.txn < durable.txn
            if is_stale and (durable.txn == last or self._has_pin(durable)):
                self._readers.free(reader, last)

    def _secure(
        self, checkpoint: Checkpoint, pin: "lmdb.Transaction[bytes]", state: SidecarState, *, with_lock: bool
    ) -> None:
        """Sync a checkpoint to the disk, save it in the sidecar, and rely on it."""
        try:
            self.sync_errors.sync(self._handle)
            if self._is_new:
                self._sidecar.sync_folder()
                self._is_new = False
            self._sidecar.write(checkpoint, state, with_lock=with_lock)
        except BaseException as error:
            pin.abort()  # now, as the traceback may be kept
            self._look_at = -math.inf
            if isinstance(error, OSError) and not isinstance(error, StoreError):
                # Such as for want of descriptors; the next attempt may succeed.
                raise lmdb_errors.translate_error(error, self._options) from error
            raise
        self._adopt(checkpoint, pin)

    def _adopt(self, checkpoint: Checkpoint, pin: "lmdb.Transaction[bytes]") -> None:
        """Rely on a durable checkpoint, under a pin of this process."""
        former, self._pin, self._pinned = self._pin, pin, checkpoint
        self._rely_on(checkpoint)
        self._due = time.monotonic() + self._options.checkpoint_interval
        self._takeover_at = math.inf
        if former is not None:
            former.abort()
        else:  # the checkpointer must release the new one in time
            self.needs_work = True

    def _rely_on(self, checkpoint: Checkpoint) -> None:
        self._pin_line = self._line_of(checkpoint)
        page = meta.unpack(checkpoint.meta)
        self._covered, self._end = checkpoint.txn, page.end if page else 0
        self._is_large = self.is_backlogged = False

    def _line_of(self, checkpoint: Checkpoint) -> str:
        """Return the line of a checkpoint's pin in LMDB's reader table, from the label on."""
        table, pin = self._handle.readers(), f" {PIN:x} {checkpoint.txn}\n"
        if pin in table:
            return pin
        # On a system without labels: any reader of the commit keeps its pages.
        return next((f"\n{line}\n" for line in table.splitlines() if line.endswith(f" {checkpoint.txn}")), _NO_LINE)

    def _has_pin(self, checkpoint: Checkpoint) -> bool:
        return self._line_of(checkpoint) != _NO_LINE

    def is_behind(self) -> bool:
        """Return whether something was committed since the last checkpoint."""
        return bool(self._handle.info()["last_txnid"] > self._sidecar.read().durable.txn)

    # -- in time -----------------------------------------------------------------------------------------------------

    def run_due(self) -> float:
        """Make the checkpoint that is due, if one is; return after how many seconds to call again."""
        self.needs_work = False
        if self._is_superseded():
            self._unpin_if_unneeded()
        elif self._pin is not None and (self._is_large or time.monotonic() >= self._due):
            self.flush()
            self._unpin_if_unneeded()
        if self._pin is None:
            self._watch_others()
        if self._pin is not None:
            return max(self._due - time.monotonic(), 0.0)
        until = self._alone_until - time.monotonic() if self.is_behind() else math.inf
        return min(max(until, 0.0), _PATIENCE * self._options.checkpoint_interval)

    def _watch_others(self) -> None:
        """Make what other processes wrote durable, if they have not done so in time: they may have been killed."""
        last = self._sidecar.read().durable[:2]
        if self.is_behind():
            now = time.monotonic()
            if last != self._seen:
                self._seen, self._alone_until = last, now + _PATIENCE * self._options.checkpoint_interval
            if self._is_large or now >= self._alone_until:
                self.flush()
        elif self._sidecar.is_missing():
            self.flush()  # which recreates it: until then no other process can open the file

    def _is_superseded(self) -> bool:
        """Return whether another process has made, and pins, a later checkpoint than the one that is pinned here."""
        if self._pinned is None:
            return False
        durable = self._sidecar.read().durable
        return durable[:2] > self._pinned[:2] and self._has_pin(durable)

    def _unpin_if_unneeded(self) -> None:
        """Release the pin if nothing was committed since, or another process pins a later checkpoint."""
        with self._acquire_writer(), self._handle.begin(write=True) as txn:
            # Here only: a writer in another process may rely on the pin of a killed one until it has committed.
            self._handle.reader_check()
            if self._is_superseded() or (self._pinned is not None and txn.id() - 1 == self._pinned.txn):
                self.unpin()

    def unpin(self) -> None:
        """Release the pin. The next commit deals with its absence.

        The caller holds the write lock wherever possible: a writer may have seen the pin, and be committing now.
        """
        pin, self._pin, self._pinned = self._pin, None, None
        self._due = math.inf
        if pin is not None:
            pin.abort()

    def close(self) -> None:
        """Make a last checkpoint if that is up to this process, and release the pin. LMDB's file closes next."""
        try:
            is_ours = self._pin is not None or self._options.durability == "commit"
            if is_ours or (self.is_behind() and self._sidecar.try_lock_exclusive()):
                self.flush()
            if self._pin is not None:
                with self._acquire_writer(), self._handle.begin(write=True):
                    self.unpin()
        except (lmdb.Error, OSError, StoreError) as error:
            logger.error("%s was closed without a last checkpoint: %s", self._options.path, error)
        finally:
            self.unpin()


def _is_of_commit(checkpoint: Checkpoint, head: Head, number: int) -> bool:
    """Return whether a pinned checkpoint is that of the last commit, which has the number ``number``."""
    return checkpoint.is_pinned and checkpoint.txn == number and checkpoint.is_last_commit_of(head)
