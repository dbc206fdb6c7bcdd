"""Checkpoints: commits that are not synced one by one, and yet survive a loss of power up to the last checkpoint.

A checkpoint is a commit whose pages are all on disk, whose meta page is noted in the sidecar, and whose pages nobody
overwrites, because a read transaction is kept open on it: its *pin*. So a file that a loss of power leaves as a mixture
of old and new pages can be put back to it (recovery.py).

Whoever commits sees to it that the pin stands: it is looked for in LMDB's table of readers just before each commit,
until when nothing of the transaction is in the file. If it does not stand, because its holder has closed the file or
was killed, there are two cases. If nothing was committed since the checkpoint, the writer puts a pin of its own, in
a microsecond, and makes the next checkpoint in time. Otherwise it makes a checkpoint of the last commit first.

So that writers need not, a thread (checkpointer.py) makes a checkpoint a second after its pin was put at the latest. An
idle file has no pin, and nothing to be made.

Order of locks: one's making, then the turn, then the writer lock and LMDB's.
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
from lmdbresults.store.lmdb.durability.sidecar import Checkpoint, Sidecar
from lmdbresults.store.lmdb.durability.sync_errors import SyncErrors
from lmdbresults.store.lmdb.file import lmdb_errors, meta
from lmdbresults.store.lmdb.types import AcquireWriter

__all__ = ["Checkpoints", "UnsyncedFile"]

logger = logging.getLogger("lmdbresults")

#: Stands in no table of readers.
_NO_LINE: Final = "\0"
#: How many intervals another process may take before this one makes the checkpoint in its place.
_PATIENCE: Final = 2
#: Seconds until the process that makes a checkpoint is taken to be stopped. A fork waits longer (fork_gate.py).
_LONGEST_TURN: Final = 5.0
#: Seconds until the turn is asked for again: a fraction of what a sync takes.
_ASK_AGAIN: Final = 0.001
#: Seconds until whoever writes looks again whether the disk has failed under another process: that takes 1.5 µs.
_LOOK_AGAIN: Final = 0.1
#: What a commit writes at least, about: six pages, and ten among 50,000 results; the next one replaces most of them.
#: Where there is room in the file for it, the file does not grow, so that its size does not tell.
_COMMIT_BYTES: Final = 24 << 10
#: How many times `checkpoint_bytes` may be written before writers wait for a checkpoint.
_MOST_WRITTEN: Final = 4
#: How many checkpoints there are at least while as much is written as there is room for, in a file of small `max_size`.
_LEAST_PER_MAP: Final = 32


class UnsyncedFile:
    """Takes the place of `Checkpoints` where there are none: nothing is synced, but at the end or if told to."""

    needs_work = is_backlogged = is_closed = False

    def __init__(self, handle: "lmdb.Environment", sidecar: Sidecar, options: Options) -> None:
        self._handle = handle
        self._sidecar = sidecar
        self._options = options
        self.sync_errors = SyncErrors(sidecar, options, is_guarded=False)

    def before_commit(self, txn: "lmdb.Transaction[bytes]") -> None:
        """Nothing to do: also after a sync that failed nothing is promised of what is stored."""

    def note_growth(self, used: int, number: int) -> None:
        """Nothing to do."""

    def release_pages(self) -> None:
        """Nothing to do: no pages are kept from reuse."""

    def is_behind(self) -> bool:
        """Nothing to catch up with."""
        return False

    def run_due(self) -> float:
        """Nothing to do."""
        return math.inf

    def flush(self, through: float = math.inf) -> None:
        """Return once what was committed is on the disk. Raises `DiskFailed` if that fails, or has failed before."""
        self.sync_errors.raise_if_failed()
        if not any(self._sidecar.identity()):
            with self._handle.begin(write=True):
                self._sidecar.ensure_identity()
        self.sync_errors.sync(self._handle)

    def unpin(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Note that the file was closed in peace, if nobody else has it open: then it need not be looked through."""
        try:
            if self._sidecar.try_lock_exclusive() and not self._sidecar.is_at(self._sidecar.last()):
                self.flush()
                closed = self._sidecar.described(self._handle.info()["last_txnid"], is_pinned=False)
                self._sidecar.write(closed, with_turn=True)
        except (lmdb.Error, OSError, StoreError) as error:
            logger.error("%s was closed without having been synced: %s", self._options.path, error)


class Checkpoints:
    """The checkpoints of a file that is open, as this process sees and makes them."""

    def __init__(
        self, handle: "lmdb.Environment", sidecar: Sidecar, options: Options, acquire_writer: AcquireWriter
    ) -> None:
        self._handle = handle
        self._sidecar = sidecar
        self._options = options
        #: Held with LMDB's write lock, and taken before it.
        self._acquire_writer = acquire_writer
        #: Held while a checkpoint is made, so that the other threads that want one find it done.
        self._making = threading.RLock()
        #: What keeps the pages of a checkpoint from reuse, if this process does, and which one.
        self._pin: lmdb.Transaction[bytes] | None = None
        self._pinned: Checkpoint | None = None
        #: The line of the pin in LMDB's table of readers, be it this process's or another's.
        self._line = _NO_LINE
        #: When the checkpoint has to be made; when this process sees to it whoever was to make it; by `time.monotonic`.
        self._due = self._takeover_at = math.inf
        #: When a writer looks again for both that and a disk that has failed; each time where it waits for the disk.
        self._look_at = -math.inf
        self._look_every = 0.0 if options.durability == "commit" else min(_LOOK_AGAIN, options.checkpoint_interval)
        #: The last commit of the checkpoint, and the size of the file's used part then.
        self._covered = self._end = 0
        #: How many bytes may be written until the next one is begun.
        self._most = min(options.checkpoint_bytes, handle.info()["map_size"] // _LEAST_PER_MAP)
        #: The checkpoint behind which others were when this process last looked, and how long it leaves them alone.
        self._seen, self._alone_until = (-1, -1), math.inf
        self.sync_errors = SyncErrors(sidecar, options, is_guarded=True)
        self._is_new = True
        #: Whether the thread that makes checkpoints, or whoever commits next, has something to do.
        self.needs_work = False
        #: Whether so much was written since the checkpoint that whoever writes should wait for the next one.
        self.is_backlogged = False
        self._is_large = False
        #: Whether there is nothing to be done any more before the file is closed.
        self.is_closed = False

    # -- writing -----------------------------------------------------------------------------------------------------

    def before_commit(self, txn: "lmdb.Transaction[bytes]") -> None:
        """See to it that the pin stands. Called in a write transaction, when nothing is left but to commit it."""
        if self._line not in self._handle.readers():
            self._protect(txn)
        elif time.monotonic() >= self._look_at:
            self._look()

    def _look(self) -> None:
        """Look at what seldom changes. After a failure each commit comes here."""
        self.sync_errors.raise_if_failed()
        now = time.monotonic()
        self._look_at = now + self._look_every
        if now > self._takeover_at:
            self.needs_work = True

    def _protect(self, txn: "lmdb.Transaction[bytes]") -> None:
        self.sync_errors.raise_if_failed()
        last, checkpoint = txn.id() - 1, self._sidecar.last_durable()
        self.needs_work = True
        if checkpoint.is_pinned and self._sidecar.is_of(checkpoint):
            if checkpoint.txn == last and self._sidecar.is_at(checkpoint):
                self._adopt(checkpoint, self._handle.begin())
                return
            if self._follow(checkpoint):
                return
        self._secure(*self._begin(txn), with_turn=False)

    def _follow(self, checkpoint: Checkpoint) -> bool:
        """Look whether the pin of another process stands; remember where."""
        line = self._line_of(checkpoint.txn)
        if line == _NO_LINE:
            return False
        self._note(checkpoint, line)
        self._takeover_at = time.monotonic() + _PATIENCE * self._options.checkpoint_interval
        return True

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
        is_within = is_owned(self._making)  # for a signal handler that has come in its midst, where the turn is had
        with self._making:
            if self._is_durable(through):
                return
            self.sync_errors.raise_if_failed()
            try:
                has_turn = self._wait_for_turn(through)
                if not self._is_durable(through):
                    self._make(has_turn)
            finally:
                if not is_within:
                    try:
                        self._sidecar.unlock_checkpoints()
                    finally:  # once more, if a signal handler has raised as that began
                        self._sidecar.unlock_checkpoints()

    def _wait_for_turn(self, through: float) -> bool:
        """Return whether this process has the turn, once it has, or once it is not needed or not to be had."""
        until = time.monotonic() + _LONGEST_TURN
        while not (has_turn := self._sidecar.try_lock_checkpoints()) and time.monotonic() < until:
            time.sleep(_ASK_AGAIN)
            if self._is_durable(through):
                break
        return has_turn

    def release_pages(self) -> None:
        """Have the pages be used again that are kept for an older checkpoint. The caller is in no transaction."""
        self.flush()

    def _is_durable(self, through: float) -> bool:
        return math.isfinite(through) and self._sidecar.last_durable().txn >= through

    def _make(self, has_turn: bool) -> None:
        if has_turn and self._sidecar.is_missing():
            self._sidecar.recreate(self._options.mode)
            self._is_new = True
        with self._acquire_writer(), self._handle.begin(write=True) as txn:
            last = self._sidecar.last_durable()
            if last.is_pinned and last.txn == txn.id() - 1 and self._sidecar.is_at(last):
                return
            begun = self._begin(txn)
            if not has_turn:  # then the write lock is what keeps others from the same places, and they have to wait
                self._secure(*begun, with_turn=False)
                return
        self._secure(*begun, with_turn=True)

    def _begin(self, txn: "lmdb.Transaction[bytes]") -> "tuple[Checkpoint, lmdb.Transaction[bytes]]":
        """Return the last commit as a checkpoint, and a pin on it. The caller has the write lock."""
        return self._sidecar.described(txn.id() - 1, is_pinned=True), self._handle.begin()

    def _secure(self, checkpoint: Checkpoint, pin: "lmdb.Transaction[bytes]", *, with_turn: bool) -> None:
        """Have a checkpoint be on the disk, and rely on it."""
        try:
            self.sync_errors.sync(self._handle)
            if self._is_new:
                self._sidecar.sync_folder()
                self._is_new = False
            self._sidecar.write(checkpoint, with_turn=with_turn)
        except BaseException as error:
            pin.abort()  # not left to the traceback, which somebody may keep
            self._look_at = -math.inf
            if isinstance(error, OSError) and not isinstance(error, StoreError):
                # Such as for want of descriptors; the next attempt may do better.
                raise lmdb_errors.translate_error(error, self._options) from error
            raise
        self._adopt(checkpoint, pin)

    def _adopt(self, checkpoint: Checkpoint, pin: "lmdb.Transaction[bytes]") -> None:
        """Rely on a checkpoint that is durable, under a pin of this process."""
        former, self._pin, self._pinned = self._pin, pin, checkpoint
        self._note(checkpoint, self._line_of(checkpoint.txn))
        self._due = time.monotonic() + self._options.checkpoint_interval
        self._takeover_at = math.inf
        if former is not None:
            former.abort()
        else:  # somebody has to take the pin away in time
            self.needs_work = True

    def _note(self, checkpoint: Checkpoint, line: str) -> None:
        self._line = line
        page = meta.unpacked(checkpoint.meta)
        self._covered, self._end = checkpoint.txn, page.end if page else 0
        self._is_large = self.is_backlogged = False

    def _line_of(self, txn: int) -> str:
        """Return the line of a reader of a commit in LMDB's table of readers."""
        for line in self._handle.readers().splitlines():
            if line.rsplit(None, 1)[-1] == str(txn):
                return f"\n{line}\n"
        return _NO_LINE

    def is_behind(self) -> bool:
        """Return whether something was committed since the last checkpoint."""
        return bool(self._handle.info()["last_txnid"] > self._sidecar.last_durable().txn)

    # -- in time -----------------------------------------------------------------------------------------------------

    def run_due(self) -> float:
        """Make the checkpoint that is due, if one is; return after how many seconds to look again."""
        self.needs_work = False
        if self._is_relieved():
            self._rest()
        elif self._pin is not None and (self._is_large or time.monotonic() >= self._due):
            self.flush()
            self._rest()
        if self._pin is None:
            self._watch()
        if self._pin is None:
            until = self._alone_until - time.monotonic() if self.is_behind() else math.inf
            return min(max(until, 0.0), _PATIENCE * self._options.checkpoint_interval)
        return max(self._due - time.monotonic(), 0.0)

    def _watch(self) -> None:
        """See that what others have written becomes durable, as they may have been killed before they could do that."""
        last = self._sidecar.last_durable()[:2]
        if self.is_behind():
            now = time.monotonic()
            if last != self._seen:
                self._seen, self._alone_until = last, now + _PATIENCE * self._options.checkpoint_interval
            if self._is_large or now >= self._alone_until:
                self.flush()
        elif self._sidecar.is_missing():
            self.flush()  # which makes it anew: until then nobody else can open the file

    def _is_relieved(self) -> bool:
        """Return whether another process has made a later checkpoint than the one that is pinned here, and pins it."""
        last = self._sidecar.last_durable()
        return self._pinned is not None and last[:2] > self._pinned[:2] and self._line_of(last.txn) != _NO_LINE

    def _rest(self) -> None:
        """Take the pin away if it is not needed: whoever writes next puts one of its own, or follows another one."""
        with self._acquire_writer(), self._handle.begin(write=True) as txn:
            self._handle.reader_check()  # of the dead; only here, as somebody may be writing who relies on their pin
            if self._is_relieved() or (self._pinned is not None and txn.id() - 1 == self._pinned.txn):
                self.unpin()

    def unpin(self) -> None:
        """Take the pin away. Whoever commits next sees to what that means.

        The caller has the write lock, wherever possible: somebody may have looked for the pin, and be committing now.
        """
        pin, self._pin, self._pinned = self._pin, None, None
        self._due = math.inf
        if pin is not None:
            pin.abort()

    def close(self) -> None:
        """Make a last checkpoint if this is for this process to do, and take the pin away. LMDB's file closes next."""
        try:
            is_for_us = self._pin is not None or self._options.durability == "commit"
            if is_for_us or (self.is_behind() and self._sidecar.try_lock_exclusive()):
                self.flush()
            if self._pin is not None:
                with self._acquire_writer(), self._handle.begin(write=True):
                    self.unpin()
        except (lmdb.Error, OSError, StoreError) as error:
            logger.error("%s was closed without a last checkpoint: %s", self._options.path, error)
        finally:
            self.unpin()
