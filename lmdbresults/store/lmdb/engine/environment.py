"""The LMDB environment of one file: opening, forks, threads, growth, readers, and the translation of LMDB's errors.

There is one for each file and process, however many stores use it, because LMDB's locks do not bear a second one. It
is opened when it is first needed and closed before every fork, so that parent and child each open their own.
"""

import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeVar

import lmdb

from lmdbresults.errors import (
    ForkedStore,
    NestedTransaction,
    StoreClosed,
    StoreError,
)
from lmdbresults.options import Options
from lmdbresults.process.fork_gate import gate, is_owned
from lmdbresults.store.lmdb.durability.checkpointer import Checkpointer
from lmdbresults.store.lmdb.engine.opening import OpenFile, open_file
from lmdbresults.store.lmdb.engine.signal_safe import Steps, lend
from lmdbresults.store.lmdb.engine.spin_lock import Entrance
from lmdbresults.store.lmdb.file import lmdb_errors
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["Environment"]

Result = TypeVar("Result")

logger = logging.getLogger("lmdbresults")

#: Seconds until checkpoints are tried again after one could not be made.
_AFTER_FAILURE: Final = 10.0
#: How often a transaction is tried again after another process has let the file grow beyond our map.
_TRIES: Final = 16


class _Reading(threading.local):
    """What a thread holds inside a ``with`` block that reads. Writing ones hold the writer lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()


class Environment:
    """One file in one process. Threads may share it; transactions run through `read` and `write`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.path = options.path
        #: How many stores use it; guarded by the register below.
        self.users = 0
        #: What is open, until the last of it is closed.
        self._opened: OpenFile | None = None
        #: LMDB's environment in it, as long as that may be used.
        self._handle: lmdb.Environment | None = None
        #: Whether a commit is acknowledged only once it is on the disk.
        self._waits = options.durability == "commit"
        #: Those of the `Space` of the open file: check, inside a write transaction, that the next bytes fit.
        self.reserve: Callable[[Transaction, int], object] = self._refuse_unusable
        self.reserve_for_delete: Callable[[Transaction], object] = self._refuse_unusable
        #: Why nothing more may be stored, though the file was closed and opened since; None if that is not so.
        self._failure: StoreError | None = None
        #: Why the file can never be opened again by this object; None if it can.
        self._unusable: StoreError | None = None
        self._reset()
        gate.watch_forks(self)

    def _reset(self) -> None:
        #: Guards the opening of the handle; taken inside the gate.
        self._opening = threading.RLock()
        #: Held during a write transaction. LMDB's own lock would do, but waiting for that freezes gevent's hub and
        #: keeps signal handlers from running; with this one, a single thread of the process at most waits there.
        self._writer = threading.RLock()
        self._reading = _Reading()
        #: What comes before LMDB's lock.
        self._entrance = Entrance()
        #: Has checkpoints made in time.
        self._checkpointer = Checkpointer(self._run_checkpoints)

    # -- transactions --------------------------------------------------------------------------------------------

    def read(self, operation: Callable[..., Result], *args: Any) -> Result:
        """Return ``operation(txn, *args)``, run in a read transaction."""
        lock = gate.try_shared() or self._guarded()
        tries_left = _TRIES
        while True:
            try:
                with lock:
                    handle = self._handle or self._open()
                    txn = handle.begin()
                    try:
                        result = operation(txn, *args)
                        if self._handle is not handle:
                            self._refuse_unusable()
                        return result
                    finally:
                        if self._handle is handle:  # else this is a child, and the transaction its parent's
                            txn.abort()
            except lmdb.Error as error:
                tries_left -= 1
                self._recover(error, tries_left)

    def write(self, operation: Callable[..., Result], *args: Any, durably: bool = True) -> Result:
        """Return ``operation(txn, *args)``, run in a write transaction, once that is committed.

        An exception out of the operation undoes the transaction. With ``durably=False`` durability ``commit`` does not
        wait for the disk.

        The operation may fork: the child neither commits nor undoes what belongs to its parent, and gets `ForkedStore`
        when the operation ends there. (A fork that Python's hooks do not see must be announced by `gate.detect_fork`.)
        """
        lock = gate.try_shared() or self._guarded()
        tries_left = _TRIES
        while True:
            try:
                with lock, self._writer, self._entrance.way:
                    handle = self._handle or self._open()
                    txn = handle.begin(write=True)
                    # No signal handler can run between a call and the first instruction of `try`, nor between the
                    # beginning of `finally` and its first call. So an exception out of one finds the lock released.
                    try:
                        result = operation(txn, *args)
                        if self._handle is not handle:
                            self._refuse_unusable()
                        number = self._commit(txn)
                    finally:
                        if self._handle is handle:  # else this is a child, and the transaction its parent's
                            txn.abort()  # does nothing after a commit
            except lmdb.Error as error:
                tries_left -= 1
                self._recover(error, tries_left)
            else:
                if self._waits or self._checkpoints.needs_work:
                    self._after_commit(number, durably)
                return result

    def lend(
        self, write: bool, wrap: Callable[[Transaction], Any], finish: Callable[[], object] | None = None
    ) -> Steps[BaseException | None]:
        """Lend ``wrap(txn)`` to a `Block`, then end the transaction; return what the block has raised, or None.

        A write transaction is committed if the block ends well, after ``finish()``.
        """
        self._guarded()
        is_lent, tries_left, number = False, _TRIES, 0
        failure: BaseException | None = None
        while not is_lent:
            try:
                with gate.shared(), self._writer if write else self._reading.lock:
                    handle = self._handle or self._open()
                    txn = handle.begin(write=write)
                    try:
                        is_lent = True
                        failure = yield from lend(wrap(txn))
                        gate.detect_fork()
                        if self._handle is handle and failure is None and write:
                            if finish is not None:
                                finish()
                            number = self._commit(txn)
                    finally:
                        if self._handle is handle:
                            txn.abort()
                if failure is None:
                    self._refuse_unusable()  # in a child
                if isinstance(failure, lmdb.Error):
                    self._fail(failure)
            except lmdb.Error as error:
                tries_left = 0 if is_lent else tries_left - 1
                self._recover(error, tries_left)
        if number and (self._waits or self._checkpoints.needs_work):
            self._after_commit(number)
        return failure

    def _commit(self, txn: Transaction) -> int:
        """Commit, and return the number of the commit."""
        self._checkpoints.before_commit(txn)
        entrance, number = self._entrance, txn.id()
        if number != entrance.next:
            entrance.meet_others()
        entrance.next = number + 1
        txn.commit()
        return number

    def _guarded(self) -> "threading.RLock":
        """Return the lock that this thread holds in a transaction; notice a fork that Python's hooks have not seen.

        Raises `NestedTransaction` inside a transaction of this file.
        """
        lock = gate.shared()
        # The writer lock is held when a signal handler, or a destructor, comes in the middle of a write.
        if is_owned(self._reading.lock) or is_owned(self._writer):
            raise NestedTransaction(
                f"This thread is already in a transaction on {self.path}: use the methods of that transaction."
            )
        return lock

    def has_been_replaced(self) -> bool:
        """Return whether the path leads to another file by now than the one that is open here."""
        with gate.shared():
            return self._handle is not None and not self._space.is_at(self.path)

    # -- durability ----------------------------------------------------------------------------------------------

    def flush(self, through: float = math.inf) -> None:
        """Return once all commits up to number ``through`` are durable. Raises `StoreError` if the disk fails."""
        self._guarded()
        self._see_to(lambda: self._checkpoints.flush(through))

    def release_pages(self) -> None:
        """Have the pages be used again that are kept for an old checkpoint, or for readers that were killed."""
        self._guarded()
        self._see_to(lambda: self._checkpoints.release_pages())
        self.clear_dead_readers()

    def _see_to(self, work: Callable[[], object]) -> None:
        """Do what takes the file to be open, but no transaction around it."""
        tries_left = _TRIES
        while True:
            try:
                with gate.shared():
                    if self._handle is None:
                        self._open()
                    work()
                if self._checkpoints.needs_work:
                    self._checkpointer.wake()
                return
            except lmdb.Error as error:
                tries_left -= 1
                self._recover(error, tries_left)

    def _after_commit(self, number: int, durably: bool = True) -> None:
        """Have a commit become durable in time, which may be now."""
        with suppress(StoreClosed):  # by another thread meanwhile: then everything is durable
            if (self._waits and durably) or self._checkpoints.is_backlogged:
                self.flush(number)
            if self._checkpoints.needs_work and not self._checkpointer.wake():
                self.flush(number)  # where no thread can run, whoever writes has to wait

    def _run_checkpoints(self) -> float:
        """Make the checkpoint that is due; return after how many seconds to call again. Runs in the keeper's thread."""
        try:
            with gate.shared():
                return math.inf if self._handle is None else self._checkpoints.run_due()
        except lmdb.MapResizedError:
            self._adopt_size()
        except (lmdb.Error, OSError, StoreError) as error:
            logger.error("%s: no checkpoint could be made: %s", self.path, error)
            return _AFTER_FAILURE
        return 0.0

    # -- opening and closing -------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the file now rather than at the first transaction. Raises a `StoreError`."""
        with gate.shared():
            self._open()

    def close(self) -> None:
        """Close the file once no transaction is open in this process; the next transaction opens it again."""
        gate.exclusive(self.let_go)

    def close_at_exit(self) -> None:
        """Close the file if that is possible soon; a daemon thread may be in a transaction that never ends."""
        if self._opened is None:
            return
        if not gate.exclusive(self.let_go, timeout=1.0):
            _leave_untouched(self._opened)

    def _open(self) -> lmdb.Environment:
        if is_owned(self._opening):
            raise NestedTransaction(f"{self.path} is being opened by this thread: a signal handler cannot use it now.")
        with self._opening:
            tries_left = _TRIES
            while self._handle is None:
                self._refuse_unusable()
                try:
                    self.let_go()  # of what a signal handler has kept from being closed
                    self._take(open_file(self.options, self._writer))
                except StoreError:
                    raise
                except lmdb.Error as error:
                    tries_left -= 1
                    if not (isinstance(error, lmdb.MapResizedError) and tries_left):  # grown while it was being opened
                        self._fail(error)
                except OSError as error:
                    raise lmdb_errors.translate_error(error, self.options) from error
            return self._handle

    def _take(self, opened: OpenFile) -> None:
        self._opened, self._space, self._checkpoints = opened, opened.space, opened.checkpoints
        self._handle = opened.handle
        self.reserve, self.reserve_for_delete = opened.space.reserve, opened.space.reserve_for_delete
        self._entrance = Entrance(opened.sidecar.data)
        opened.checkpoints.sync_errors.failure = self._failure
        if opened.checkpoints.is_behind():
            self._checkpointer.wake()

    def retire(self) -> bool:
        """Close the file for good, as nobody uses it; the caller holds the gate exclusively.

        Return whether the file can be opened by another object: not after a fork that left it unusable.
        """
        self.let_go()
        self._checkpointer.stop()
        if self._unusable is None:
            self._unusable = StoreClosed(f"The store on {self.path} is closed. Open it again with open_store().")
        return isinstance(self._unusable, StoreClosed)

    def let_go(self) -> None:
        """Close the file. The caller holds the gate exclusively."""
        self._handle, self._entrance = None, Entrance()
        if self._opened is not None:
            self._opened.close()
            self._failure = self._failure or self._opened.checkpoints.sync_errors.failure
            self._opened = None

    def before_fork(self) -> None:
        """Close the file: an inherited LMDB environment can neither be used nor closed in the child."""
        self.let_go()

    def after_fork_in_child(self) -> None:
        """Make new locks. If the file was not closed before the fork, give it up for good."""
        self._reset()
        if self._opened is not None:
            self._opened.sidecar.close()  # or the locks of the parent would stay when that is killed
            _leave_untouched(self._opened)
            self._opened = self._handle = None
            # A transaction that the child has inherited ends at its next write.
            self.reserve = self.reserve_for_delete = self._refuse_unusable
            self._unusable = ForkedStore(
                f"{self.path} was in use when this process was forked, inside a transaction or by code outside Python, "
                "so it cannot be used here. Fork outside transactions; with uWSGI set lazy-apps = true."
            )

    def handle(self) -> lmdb.Environment:
        """Return LMDB's own environment, inside a transaction, where nobody can close it."""
        self._refuse_unusable()
        assert self._handle is not None, "only called inside a transaction"
        return self._handle

    def _refuse_unusable(self, *_: object) -> None:
        if self._unusable is not None:
            raise type(self._unusable)(*self._unusable.args)

    # -- errors --------------------------------------------------------------------------------------------------

    def _recover(self, error: lmdb.Error, tries_left: int) -> None:
        """Cure what another process may cause at any time; raise the rest as an error of ours."""
        if isinstance(error, lmdb.MapResizedError) and tries_left:
            self._adopt_size()
        elif not (isinstance(error, lmdb.ReadersFullError) and tries_left and self.clear_dead_readers()):
            self._fail(error)

    def _adopt_size(self) -> None:
        """Take over the size that another process, with a larger max_size, has let the map grow to."""
        gate.exclusive(self._resize)

    def _resize(self) -> None:
        try:
            if self._handle is not None:
                self._checkpoints.unpin()  # a resize takes the ground from under readers
                self._handle.set_mapsize(0)
        except lmdb.Error:
            self.let_go()  # after a failed resize the handle is of no use; the next try opens the file again

    def clear_dead_readers(self) -> int:
        """Free the slots of killed processes, whose snapshots keep pages from reuse; return how many there were."""
        self._guarded()
        with gate.shared(), self._writer:  # nobody may be writing: one of the dead may have held the pin
            handle = self._handle or self._open()
            with handle.begin(write=True):
                return handle.reader_check()

    def _fail(self, error: lmdb.Error) -> NoReturn:
        if isinstance(error, lmdb.PanicError):
            with suppress(NestedTransaction):
                self.close()  # after a fatal error of LMDB only a new handle helps
        raise lmdb_errors.translate_error(error, self.options) from error


def _leave_untouched(inherited: object) -> None:
    """Keep an object of LMDB's from ever being freed.

    Freeing one that was inherited through a fork releases slots and locks that belong to the parent.
    """
    import ctypes  # here, because hardly anybody ever gets here

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
