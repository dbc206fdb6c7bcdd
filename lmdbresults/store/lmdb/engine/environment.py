"""The LMDB environment of one file: transactions, forks, threads, growth of the file.

There is one per file and process, however many stores use it, because LMDB's locks do not allow a second one. It is
opened when it is first needed and closed before every fork, so that parent and child each open their own.
"""

import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeVar

import lmdb

from lmdbresults.errors import ForkedStore, NestedTransaction, StoreBusy, StoreClosed, StoreError
from lmdbresults.options import Options
from lmdbresults.process.fork_gate import ExclusiveWanted, gate, is_owned
from lmdbresults.store.lmdb.durability.checkpointer import Checkpointer
from lmdbresults.store.lmdb.engine.lock_file import LockFile
from lmdbresults.store.lmdb.engine.opening import OpenFile, open_file
from lmdbresults.store.lmdb.engine.signal_safe import Steps, lend
from lmdbresults.store.lmdb.engine.write_lock import WriteLock
from lmdbresults.store.lmdb.file import lmdb_errors
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["Environment"]

Result = TypeVar("Result")

logger = logging.getLogger("lmdbresults")

#: Seconds until checkpoints are tried again after an error, and after another process has not released the write lock.
_AFTER_ERROR: Final = 10.0
_AFTER_BUSY: Final = 0.5
#: How often a transaction is tried again after another process has let the file grow beyond our map.
_RETRIES: Final = 15
#: Errors after which an operation may start again.
_RETRIED: Final = (lmdb.Error, ExclusiveWanted)


class _ReadBlocks(threading.local):
    """The lock that a thread holds inside a ``with`` block that reads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()


class Environment:
    """One file in one process. Threads may share it; transactions run through `read` and `write`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.path = options.path
        #: The number of stores that use it; guarded by the registry.
        self.users = 0
        #: Everything that is open; None when all of it is closed.
        self._file: OpenFile | None = None
        self._lock_file: LockFile | None = None
        #: LMDB's environment, while it may be used.
        self._handle: lmdb.Environment | None = None
        #: Whether a write returns only when it is on disk.
        self._syncs = options.durability == "commit"
        #: The fsync error of an earlier opening of the file.
        self._sync_error: StoreError | None = None
        self._refuse_writes()
        #: Why this object can never open the file again; None if it can.
        self._unusable: StoreError | None = None
        self._reset()
        gate.watch_forks(self)

    def _reset(self) -> None:
        #: Guards the opening of the file; acquired inside the gate.
        self._opening = threading.RLock()
        self._write_lock = WriteLock(self.path, self.options.lock_timeout)
        self._read_blocks = _ReadBlocks()
        self._checkpointer = Checkpointer(self._run_checkpoints)

    def _refuse_writes(self) -> None:
        #: Those of the `Space` of the open file: check, inside a write transaction, that the next bytes fit.
        self.reserve: Callable[[Transaction, int], object] = self.require_usable
        self.reserve_for_delete: Callable[[Transaction], object] = self.require_usable
        #: That of the checkpoints of the open file.
        self._before_commit: Callable[[Transaction], object] = self.require_usable

    # -- transactions --------------------------------------------------------------------------------------------

    def read(self, operation: Callable[..., Result], *args: Any) -> Result:
        """Return ``operation(txn, *args)``, run in a read transaction.

        If it may fork, it calls `gate.detect_fork` and `require_usable` at its end.
        """
        shared = gate.try_shared() or self._shared()
        retries = _RETRIES
        while True:
            try:
                with shared:
                    handle = self._handle or self._open()
                    txn = handle.begin()
                    try:
                        return operation(txn, *args)
                    finally:
                        if self._handle is handle:  # else this is a child, and the transaction its parent's
                            txn.abort()
            except lmdb.Error as error:
                retries = self._recover(error, retries)

    def write(self, operation: Callable[..., Result], *args: Any, durably: bool = True) -> Result:
        """Return ``operation(txn, *args)``, run in a write transaction, once that is committed.

        An exception out of the operation undoes the transaction. With ``durably=False`` durability ``commit`` does not
        wait for the disk.

        The operation may fork: the child neither commits nor undoes what belongs to its parent, and gets `ForkedStore`
        instead. If it may fork without Python's hooks, it calls `gate.detect_fork` at its end.
        """
        shared = gate.try_shared() or self._shared()
        retries, lock = _RETRIES, self._write_lock
        while True:
            try:
                with shared, lock.threads, lock.processes:
                    handle = self._handle or self._open()
                    if lock.word[0]:
                        lock.wait()
                    txn = handle.begin(write=True)
                    # No signal handler runs between a call and the first instruction of `try`, nor between the
                    # beginning of `finally` and its first call: an exception out of one cannot leave LMDB locked.
                    try:
                        result = operation(txn, *args)
                        self._before_commit(txn)
                        number = txn.id()
                        txn.commit()
                    finally:
                        if self._handle is handle:  # else this is a child, and the transaction its parent's
                            txn.abort()  # does nothing after a commit
            except _RETRIED as error:
                retries = self._recover(error, retries)
            else:
                if self._syncs or self._checkpoints.needs_work:
                    self._after_commit(number, durably)
                return result

    def lend(
        self, write: bool, wrap: Callable[[Transaction], Any], finish: Callable[[], object] | None = None
    ) -> Steps[BaseException | None]:
        """Lend ``wrap(txn)`` to a `Block`, then end the transaction; return what the block has raised, or None.

        A write transaction is committed if the block ends well, after ``finish()``.
        """
        self._shared()
        is_lent, retries, number = False, _RETRIES, 0
        failure: BaseException | None = None
        while not is_lent:
            try:
                with gate.shared(), self._write_lock.acquire() if write else self._read_blocks.lock:
                    handle = self._handle or self._open()
                    txn = handle.begin(write=write)
                    try:
                        is_lent = True
                        failure = yield from lend(wrap(txn))
                        gate.detect_fork()
                        if self._handle is handle and failure is None and write:
                            if finish is not None:
                                finish()
                            self._before_commit(txn)
                            number = txn.id()
                            txn.commit()
                    finally:
                        if self._handle is handle:
                            txn.abort()
                if failure is None:
                    self.require_usable()  # in a child
                if isinstance(failure, lmdb.Error):
                    self._fail(failure)
            except _RETRIED as error:
                retries = self._recover(error, 0 if is_lent else retries)
        if number and (self._syncs or self._checkpoints.needs_work):
            self._after_commit(number)
        return failure

    def _shared(self) -> "threading.RLock":
        """Return the lock that this thread must hold in a transaction. Raises `NestedTransaction` inside one."""
        shared = gate.shared()
        # The write lock is held when a signal handler, or a destructor, interrupts a write.
        if is_owned(self._read_blocks.lock) or self._write_lock.is_owned():
            raise NestedTransaction(
                f"This thread is already in a transaction on {self.path}: use the methods of that transaction."
            )
        return shared

    def info(self) -> Any:
        """Return LMDB's figures about the open file. To be called inside a transaction."""
        assert self._handle is not None, "only called inside a transaction"
        return self._handle.info()

    # -- durability and readers ----------------------------------------------------------------------------------

    def flush(self, through: float = math.inf) -> None:
        """Return once all commits up to number ``through`` are durable. Raises `StoreError` if the disk fails."""
        self._run(lambda: self._checkpoints.flush(through))

    def release_pages(self) -> None:
        """Let pages be reused that are kept for an old checkpoint, or for readers of killed processes."""
        self._run(lambda: self._checkpoints.release_pages())
        self.clear_dead_readers()

    def clear_dead_readers(self) -> int:
        """Free the slots of killed processes, whose snapshots keep pages from reuse; return the number of slots."""
        return self._run(self._clear_dead_readers)

    def _clear_dead_readers(self) -> int:
        handle = self._handle or self._open()
        # Other writers are kept out, because a killed process may have held the pin that they rely on.
        with self._write_lock.acquire(), handle.begin(write=True):
            return handle.reader_check()

    def _run(self, work: Callable[[], Result]) -> Result:
        """Return ``work()``, which needs the file open, but no transaction around it."""
        shared = self._shared()
        retries = _RETRIES
        while True:
            try:
                with shared:
                    if self._handle is None:
                        self._open()
                    result = work()
                if self._checkpoints.needs_work:
                    self._checkpointer.wake()
                return result
            except _RETRIED as error:
                retries = self._recover(error, retries)

    def _after_commit(self, number: int, durably: bool = True) -> None:
        """Make a commit durable, now or in time."""
        with suppress(StoreClosed):  # by another thread meanwhile: then everything is durable
            if (self._syncs and durably) or self._checkpoints.is_backlogged:
                self.flush(number)
            if self._checkpoints.needs_work and not self._checkpointer.wake():
                self.flush(number)  # no thread can be started, so the writer must wait

    def _run_checkpoints(self) -> float:
        """Make the checkpoint that is due; return after how many seconds to call again. For the checkpointer."""
        try:
            with gate.shared():
                return math.inf if self._handle is None else self._checkpoints.run_due()
        except ExclusiveWanted:
            gate.give_way()
        except lmdb.MapResizedError:
            self._adopt_size()
        except StoreBusy:
            return _AFTER_BUSY
        except (lmdb.Error, OSError, StoreError) as error:
            logger.error("%s: no checkpoint could be made: %s", self.path, error)
            return _AFTER_ERROR
        return 0.0

    # -- opening and closing -------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the file now rather than at the first transaction. Raises a `StoreError`."""
        with gate.shared():
            self._open()

    def _open(self) -> lmdb.Environment:
        if is_owned(self._opening):
            raise NestedTransaction(f"{self.path} is being opened by this thread: a signal handler cannot use it now.")
        with self._opening:
            retries = _RETRIES
            while self._handle is None:
                self.require_usable()
                try:
                    self._close_file()  # what a signal handler has kept from being closed
                    open_file(self.options, self._write_lock.acquire, self._keep)
                    self._attach()
                except lmdb.Error as error:
                    if not isinstance(error, lmdb.MapResizedError) or not retries:  # grown while it was being opened
                        self._fail(error)
                    retries -= 1
                except StoreError:
                    raise
                except OSError as error:
                    raise lmdb_errors.translate_error(error, self.options) from error
            return self._handle

    def _keep(self, file: OpenFile) -> None:
        self._file, self._space, self._checkpoints = file, file.space, file.checkpoints

    def _attach(self) -> None:
        """Use what was opened."""
        file = self._file
        assert file is not None, "it was just opened"
        self._lock_file = LockFile(self.path)
        self._write_lock.attach(self._lock_file, file.sidecar.data)
        self.reserve, self.reserve_for_delete = file.space.reserve, file.space.reserve_for_delete
        self._before_commit = file.checkpoints.before_commit
        file.checkpoints.sync_errors.failure = self._sync_error
        self._handle = file.handle
        if file.checkpoints.is_behind():
            self._checkpointer.wake()

    def has_been_replaced(self) -> bool:
        """Return whether the path now names another file than the one that is open here."""
        with gate.shared():
            return self._handle is not None and not self._space.is_at(self.path)

    def close(self) -> None:
        """Close the file when no transaction is open in this process; the next transaction opens it again."""
        gate.exclusive(self._close_file)

    def close_at_exit(self) -> None:
        """Close the file, unless a daemon thread is in a transaction that does not end soon."""
        if self._file is not None and not gate.exclusive(self._close_file, timeout=1.0):
            _leak(self._file)

    def retire(self) -> bool:
        """Close the file for good. The caller has exclusive access, and no store uses this object.

        Return whether another object may open the file: not after a fork that left it unusable.
        """
        self._close_file()
        self._checkpointer.stop()
        if self._unusable is None:
            self._unusable = StoreClosed(f"The store on {self.path} is closed. Open it again with open_store().")
        return isinstance(self._unusable, StoreClosed)

    def _close_file(self) -> None:
        """Close the file. The caller has exclusive access."""
        self._handle = None
        if self._file is not None:
            self._file.close()
            self._sync_error = self._sync_error or self._file.checkpoints.sync_errors.failure
            self._file = None
        self._write_lock.detach()
        if self._lock_file is not None:  # only after LMDB's environment
            self._lock_file.close()
            self._lock_file = None

    def before_fork(self) -> None:
        """Close the file: an inherited LMDB environment can neither be used nor closed in the child."""
        self._close_file()

    def after_fork_in_child(self) -> None:
        """Reset the locks. If the file was not closed before the fork, it is unusable in this process for good."""
        self._reset()
        if self._file is not None:
            self._file.sidecar.close()  # otherwise the child keeps the locks of a parent that is killed
            _leak(self._file)
            self._file = self._lock_file = self._handle = None
            self._refuse_writes()  # of a transaction that the child has inherited
            self._unusable = ForkedStore(
                f"{self.path} was in use when this process was forked, inside a transaction or by code outside Python, "
                "so it cannot be used here. Fork outside transactions; with uWSGI set lazy-apps = true."
            )

    def require_usable(self, *_: object) -> None:
        """Raise `ForkedStore` if a fork has left the file unusable here, `StoreClosed` if it is closed for good."""
        if self._unusable is not None:
            raise type(self._unusable)(*self._unusable.args)

    # -- errors --------------------------------------------------------------------------------------------------

    def _recover(self, error: lmdb.Error | ExclusiveWanted, retries: int) -> int:
        """Do what lets an operation succeed that failed because of others; return how many retries are left.

        Raises everything else as one of our errors.
        """
        if isinstance(error, ExclusiveWanted):
            gate.give_way()
            return retries
        if isinstance(error, lmdb.MapResizedError) and retries:
            self._adopt_size()
        elif not (isinstance(error, lmdb.ReadersFullError) and retries and self.clear_dead_readers()):
            self._fail(error)
        return retries - 1

    def _adopt_size(self) -> None:
        """Adopt the size to which another process, with a larger max_size, has let the file grow."""
        gate.exclusive(self._resize)

    def _resize(self) -> None:
        try:
            if self._handle is not None:
                self._checkpoints.unpin()  # a resize invalidates open read transactions
                self._handle.set_mapsize(0)
        except lmdb.Error:
            self._close_file()  # the handle is useless after a failed resize; the next try opens the file again

    def _fail(self, error: lmdb.Error) -> NoReturn:
        if isinstance(error, lmdb.PanicError):
            with suppress(NestedTransaction):
                self.close()  # after a fatal error of LMDB only a new handle helps
        raise lmdb_errors.translate_error(error, self.options) from error


def _leak(inherited: object) -> None:
    """Keep an object of LMDB's from ever being freed.

    Freeing one that was inherited through a fork releases slots and locks that belong to the parent.
    """
    import ctypes  # rarely needed

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
