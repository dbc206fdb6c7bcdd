"""Checkpoints: commits are not synced one by one; a power failure takes the file back to the last checkpoint.

A checkpoint is a commit whose pages are all on disk, whose meta page is saved in the sidecar, and whose pages are not
reused, because a read transaction is kept open on it: its *pin*. So a file that a power failure leaves as a mixture of
old and new pages can be rolled back to it (recovery.py).

Invariant: the pin exists whenever a commit reaches the file. Each writer looks for it in LMDB's reader table just
before its commit, when nothing of the transaction is in the file yet. The pin is gone if its holder has closed the file
or was killed. Then, if nothing was committed since the checkpoint, the writer sets a pin of its own, which takes
microseconds, and its process makes the next checkpoint. Otherwise it first makes a checkpoint of the last commit.

A process that is stopped, or whose threads wait for the GIL, cannot release its pin, and pages would be kept for ever.
So a process that makes a checkpoint frees older pins in LMDB's reader table itself, as nothing is read through a pin.

Writers rarely have to make checkpoints: a thread (checkpointer.py) of the process that set the pin makes the next one
after `checkpoint_interval`, or `checkpoint_bytes`. An idle file has no pin, and needs no checkpoint.

Lock order: `_making`, the checkpoint lock of the sidecar, the lock of the writing threads, LMDB's write lock.
"""

import logging
import math
import threading
import time
from functools import partial
from typing import Final

import lmdb

from lmdbresults.errors import StoreError
from lmdbresults.options import Options
from lmdbresults.process.fork_gate import is_owned
from lmdbresults.store.lmdb.durability.log import Log
from lmdbresults.store.lmdb.durability.pins import NO_LINE, Pins
from lmdbresults.store.lmdb.durability.sidecar import Checkpoint, Sidecar, SidecarState
from lmdbresults.store.lmdb.durability.sync_errors import SyncErrors
from lmdbresults.store.lmdb.file import lmdb_errors, meta
from lmdbresults.store.lmdb.file.meta import Head
from lmdbresults.store.lmdb.file.reader_table import ReaderTable
from lmdbresults.store.lmdb.types import RunLocked, Transaction

__all__ = ["Checkpoints"]

logger = logging.getLogger("lmdbresults")

#: After how many intervals without a checkpoint this process makes one in place of another process.
_PATIENCE: Final = 2
#: Seconds until the holder of the checkpoint lock counts as stopped. A fork waits longer than that (fork_gate.py).
_LOCK_PATIENCE: Final = 5.0
#: Seconds between two tries for the checkpoint lock: a fraction of what a sync takes.
_LOCK_PAUSE: Final = 0.001
#: Seconds after which a writer checks again whether a sync has failed in another process, which takes 1.5 µs.
_LOOK_EVERY: Final = 0.1
#: Estimate of the least that a commit writes: six pages, ten in a store of 50,000 results. Commits reuse free pages
#: first, so the size of the file does not show how much was written.
_COMMIT_BYTES: Final = 24 << 10
#: How many times `checkpoint_bytes` may be written before writers wait for a checkpoint.
_MOST_WRITTEN: Final = 3
#: The share of a half of the log that is full when a checkpoint is due: of this process if it has the pin, or else.
_FULL_OF_OWN, _FULL_OF_OTHERS = 0.5, 0.8
#: With a small `max_size`: the least number of checkpoints while `max_size` bytes are written.
_LEAST_PER_MAP: Final = 32


class Checkpoints:
    """The checkpoints of an open file, as this process sees and makes them."""

    #: Whether the checkpointer must be woken.
    needs_work = False
    #: Whether so much was written since the checkpoint that the next one is due; that writers wait for it.
    _is_large = is_backlogged = False
    #: Whether the folder must be synced, because the sidecar may be new.
    _is_new = True
    #: Whether `close` has done all it can.
    is_closed = False

    def __init__(
        self,
        handle: "lmdb.Environment",
        readers: ReaderTable,
        sidecar: Sidecar,
        options: Options,
        run_locked: RunLocked,
    ) -> None:
        self._handle = handle
        self._pins = Pins(handle, readers)
        self._sidecar = sidecar
        self._options = options
        #: Runs ``step(txn, *args)`` under LMDB's write lock.
        self._locked = partial(run_locked, handle)
        #: Held while a checkpoint is made: other threads that need one wait, and then find it made.
        self._making = threading.RLock()
        #: The pin of this process, if it holds one, and its checkpoint.
        self._pin: Transaction | None = None
        self._pinned: Checkpoint | None = None
        #: The pin to rely on, of this process or another one, as part of its line in LMDB's reader table.
        self._pin_line = NO_LINE
        #: When this process must make the next checkpoint, and when it makes one in place of another process, by
        #: `time.monotonic`.
        self._due = self._takeover_at = math.inf
        #: When a writer next checks for a takeover and for a failed sync; with ``commit``, at each commit.
        self._look_at = -math.inf
        self._look_every = 0.0 if options.durability == "commit" else min(_LOOK_EVERY, options.checkpoint_interval)
        #: The last commit in the checkpoint, and the end of the used part of the file as of then.
        self._covered = self._end = 0
        #: How many bytes may be written after a checkpoint until the next one is due.
        self._most = min(options.checkpoint_bytes, handle.info()["map_size"] // _LEAST_PER_MAP)
        #: The last durable checkpoint when `_watch_others` looked, and until when it waits for others to make the next.
        self._seen, self._alone_until = (-1, -1), math.inf
        self.sync_errors = SyncErrors(sidecar, options, is_guarded=True)
        #: The log, if this file is logged; None if it is not, as far as this process knows.
        self.log: Log | None = None
        if options.durability == "commit" or sidecar.read().durable.is_logged:
            self._attach_log()

    def _attach_log(self) -> None:
        if self._pins.are_labelled:  # by which writers notice that the file is logged from now on
            log = Log(self._handle, self._sidecar, self._options, self.sync_errors)
            log.create()
            self.log = log

    # -- writing -----------------------------------------------------------------------------------------------------

    def before_commit(self, txn: Transaction) -> None:
        """Ensure that a pin exists, and log the transaction. Must be its last step before its commit.

        If there is a log as it begins, the transaction is a `LoggedTransaction`.
        """
        try:
            if self._pin_line not in self._handle.readers():
                self._ensure_pin(txn)
            elif time.monotonic() >= self._look_at:
                self.sync_errors.raise_if_failed()  # `_look_at` is not moved on, so each later commit raises as well
                now = time.monotonic()
                self._look_at = now + self._look_every
                self.needs_work |= now > self._takeover_at
            if self.log is not None and self.log.append(txn) > (_FULL_OF_OWN if self._pin else _FULL_OF_OTHERS):
                self.needs_work = self._is_large = True
        except StoreError:
            raise
        except OSError as error:  # of the sidecar
            raise lmdb_errors.translate_error(error, self._options) from error

    def _ensure_pin(self, txn: Transaction) -> None:
        """Set a pin, rely on that of another process, or make a checkpoint of the last commit.

        The first process that needs the log makes a checkpoint whose pin says so, and frees all others: so each writer
        comes here before its next commit, and finds that the file is logged.
        """
        self.sync_errors.raise_if_failed()
        self.needs_work = True
        state, head, number = self._sidecar.read(), self._sidecar.head(), txn.id() - 1
        durable = state.durable
        begins_log = self.log is not None and not durable.is_logged
        if _is_of_commit(durable, head, number) and not begins_log:
            self._adopt(durable, self._pins.begin(durable))
        elif durable.is_pinned and durable.is_of(head) and self._pins.exists(durable) and not begins_log:
            self._rely_on(durable)
            self._takeover_at = time.monotonic() + _PATIENCE * self._options.checkpoint_interval
        else:
            begun = self._describe(state, head, number, is_logged=durable.is_logged or begins_log)
            self._make_durable(*begun, with_lock=False)
            if begins_log:
                self._pins.free_stale(txn, begun[0])

    def _describe(
        self, state: SidecarState, head: Head, number: int, *, is_logged: bool
    ) -> tuple[Checkpoint, Transaction, SidecarState]:
        """Pin the last commit, and have the log go on behind it; return what `_make_durable` needs."""
        checkpoint = self._sidecar.describe(state, head, number, is_pinned=True, is_logged=is_logged)
        if self.log is not None and is_logged:
            self.log.switch(checkpoint, state.durable)
        return checkpoint, self._pins.begin(checkpoint), state

    def note_growth(self, used: int, number: int) -> None:
        """Note how many bytes of the file are in use at commit ``number``. Writers call this now and then."""
        written = max(used - self._end, (number - self._covered) * _COMMIT_BYTES)
        if written > self._most:
            self.needs_work = self._is_large = True
            self.is_backlogged = written > _MOST_WRITTEN * self._most

    # -- making ------------------------------------------------------------------------------------------------------

    def secure(self, number: int) -> None:
        """Return once commit ``number`` is durable: by the log if it has it, else by a checkpoint.

        Must not be called in a transaction. Raises `DiskFailed`.
        """
        if self.log is None or not self.log.sync(number):
            self.flush(number)

    def flush(self, through: float = math.inf) -> None:
        """Return once all commits up to number ``through`` are durable. Must not be called in a transaction.

        Threads and processes that call it at the same time share one sync. Raises `DiskFailed` if a sync fails, or
        has failed in this boot.
        """
        is_nested = is_owned(self._making)
        with self._making:
            if self._sidecar.covers(through):
                return
            self.sync_errors.raise_if_failed()
            if is_nested:  # in a signal handler that interrupted a checkpoint, which holds the checkpoint lock
                self._make(False, through)
                return
            try:
                until = time.monotonic() + _LOCK_PATIENCE
                while not (has_lock := self._sidecar.try_lock_checkpoints()):
                    if self._sidecar.read().is_lock_stuck:  # another process has found its holder stopped
                        break
                    if time.monotonic() >= until:
                        self._sidecar.note_lock_stuck(True)
                        break
                    time.sleep(_LOCK_PAUSE)
                    if self._sidecar.covers(through):
                        return
                self._make(has_lock, through)
            finally:
                try:
                    self._sidecar.unlock_checkpoints()
                finally:  # again, in case a signal handler raised before the first one
                    self._sidecar.unlock_checkpoints()

    def release_pages(self) -> None:
        """Let LMDB reuse the pages of older checkpoints. Must not be called in a transaction."""
        self.flush()
        self._locked(self._pins.free_stale, self._sidecar.read().durable)

    def _make(self, has_lock: bool, through: float) -> None:
        """Make a checkpoint of the last commit, unless there is one up to number ``through``."""
        if has_lock and self._sidecar.is_missing():
            self._sidecar.recreate(self._options.mode)
            self._is_new = True
        if self.log is not None:
            self.log.create()
        begun = self._locked(self._begin, has_lock, through)
        if begun is not None:
            checkpoint, is_large = begun[0], self._is_large
            self._make_durable(*begun, with_lock=True)
            if is_large:  # then the pins of other processes keep too much to wait for the next checkpoint
                self._locked(self._pins.free_stale, checkpoint)

    def _begin(
        self, txn: Transaction, has_lock: bool, through: float
    ) -> tuple[Checkpoint, Transaction, SidecarState] | None:
        """Pin the last commit; return what `_make_durable` needs, or None if the checkpoint has been made."""
        state, head, number = self._sidecar.read(), self._sidecar.head(), txn.id() - 1
        if has_lock and state.is_lock_stuck:
            self._sidecar.note_lock_stuck(False)
        self._pins.free_stale(txn, state.durable)
        if state.durable.txn >= through or _is_of_commit(state.durable, head, number):
            return None
        begun = self._describe(state, head, number, is_logged=state.durable.is_logged)
        if has_lock:
            return begun
        self._make_durable(*begun, with_lock=False)  # the write lock guards the other slots of the sidecar
        return None

    def _make_durable(self, checkpoint: Checkpoint, pin: Transaction, state: SidecarState, *, with_lock: bool) -> None:
        """Sync the data file, save the checkpoint in the sidecar, and rely on it."""
        try:
            self.sync_errors.sync(self._handle)
            if self._is_new:
                self._sidecar.sync_folder()
                self._is_new = False
            self._sidecar.write(checkpoint, state, with_lock=with_lock)
        except BaseException:
            pin.abort()  # now, as the traceback may be kept
            self._look_at = -math.inf
            raise
        self._adopt(checkpoint, pin)

    def _adopt(self, checkpoint: Checkpoint, pin: Transaction) -> None:
        """Rely on a durable checkpoint, under a pin of this process."""
        former, self._pin, self._pinned = self._pin, pin, checkpoint
        self._rely_on(checkpoint)
        self._due = time.monotonic() + self._options.checkpoint_interval
        self._takeover_at = math.inf
        if former is not None:
            former.abort()
        else:  # wake the checkpointer, which makes the next checkpoint when it is due
            self.needs_work = True

    def _rely_on(self, checkpoint: Checkpoint) -> None:
        if checkpoint.is_logged and self.log is None:
            self._attach_log()  # first: a writer that finds the pin must find the log
        # A checkpoint that is made before there is a log does not begin one: the next commit does.
        begins_log = self.log is not None and not checkpoint.is_logged
        self._pin_line = NO_LINE if begins_log else self._pins.line_of(checkpoint)
        page = meta.unpack(checkpoint.meta)
        self._covered, self._end = checkpoint.txn, page.end if page else 0
        self._is_large = self.is_backlogged = False

    def is_behind(self) -> bool:
        """Return whether something was committed since the last checkpoint."""
        return bool(self._handle.info()["last_txnid"] > self._sidecar.read().durable.txn)

    # -- the checkpointer --------------------------------------------------------------------------------------------

    def run_due(self) -> float:
        """Make a checkpoint if one is due; return the seconds after which to call again."""
        self.needs_work = False
        if self._is_superseded():
            self._locked(self._unpin_if_unneeded)
        elif self._pin is not None and (self._is_large or time.monotonic() >= self._due):
            self.flush()
            self._locked(self._unpin_if_unneeded)
        if self._pin is None:
            self._watch_others()
        if self._pin is not None:
            return max(self._due - time.monotonic(), 0.0)
        until = self._alone_until - time.monotonic() if self.is_behind() else math.inf
        return min(max(until, 0.0), _PATIENCE * self._options.checkpoint_interval)

    def _watch_others(self) -> None:
        """Make a checkpoint if other processes have written and not made one in time: they may have been killed."""
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
        """Return whether another process has made, and still pins, a later checkpoint than this process pins."""
        if self._pinned is None:
            return False
        durable = self._sidecar.read().durable
        return durable[:2] > self._pinned[:2] and self._pins.exists(durable)

    def _unpin_if_unneeded(self, txn: Transaction) -> None:
        """Release the pin if nothing was committed since it was set, or if another process pins a later checkpoint."""
        # Only under the write lock: a writer may rely on the pin of a killed process until it has committed.
        self._handle.reader_check()
        if self._is_superseded() or (self._pinned is not None and txn.id() - 1 == self._pinned.txn):
            self.unpin()

    def unpin(self) -> None:
        """Release the pin. The next writer sets a new one, or makes a checkpoint.

        Hold the write lock if possible: a writer in another process may have seen the pin, and be committing now.
        """
        pin, self._pin, self._pinned = self._pin, None, None
        self._due = math.inf
        if pin is not None:
            pin.abort()

    def close(self) -> None:
        """Make a last checkpoint if no other process will, and release the pin. Call before LMDB closes the file."""
        try:
            is_ours = self._pin is not None or self._options.durability == "commit"
            if is_ours or (self.is_behind() and self._sidecar.try_lock_exclusive()):
                self.flush()
            if self._pin is not None:
                self._locked(lambda _: self.unpin())
        except (lmdb.Error, OSError, StoreError) as error:
            logger.error("%s was closed without a last checkpoint: %s", self._options.path, error)
        finally:
            self.unpin()


def _is_of_commit(checkpoint: Checkpoint, head: Head, number: int) -> bool:
    """Return whether a checkpoint is pinned, and is of the last commit, whose number is ``number``."""
    return checkpoint.is_pinned and checkpoint.txn == number and checkpoint.is_last_commit_of(head)
