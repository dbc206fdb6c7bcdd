"""The LMDB environment of one file: its transactions, across forks, threads, and growth of the file.

There is one per file and process, however many stores use it, because LMDB's locks do not allow a second one.
"""

import math
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import lmdb

from lmdbresults.errors import NestedTransaction, StoreClosed, StoreError
from lmdbresults.options import Options
from lmdbresults.process.fork_gate import ExclusiveWanted, gate, is_owned
from lmdbresults.store.lmdb.durability.logged import logged
from lmdbresults.store.lmdb.engine.data_file import RETRIES, DataFile
from lmdbresults.store.lmdb.engine.signal_safe import Steps, lend
from lmdbresults.store.lmdb.file.lmdb_errors import translate_error
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["Environment"]

Result = TypeVar("Result")

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
        self.file = DataFile(options)
        #: The stores that use it. One that is garbage leaves the set, unless a signal handler raises meanwhile.
        self.users: set[weakref.ref[object]] = set()
        #: Whether a write returns only when it is on disk.
        self._syncs = options.durability == "commit"
        self.after_fork_in_child()
        gate.watch_forks(self)

    def after_fork_in_child(self) -> None:
        """Reset the locks."""
        self._read_blocks = _ReadBlocks()

    def is_used(self) -> bool:
        """Return whether a store uses it."""
        return any(user() is not None for user in list(self.users))

    # -- transactions --------------------------------------------------------------------------------------------

    def read(self, operation: Callable[..., Result], *args: Any) -> Result:
        """Return ``operation(txn, *args)``, run in a read transaction.

        If it may fork, it calls `gate.detect_fork` and `require_usable` at its end.
        """
        shared = gate.try_shared() or self._shared()
        file, retries = self.file, RETRIES
        while True:
            try:
                with shared:
                    if file.reader_word[0]:
                        file.write_lock.wait_for_reader_table()
                    txn = (file.handle or file.open()).begin()
                    try:
                        return operation(txn, *args)
                    finally:
                        if file.handle is not None:  # else this is a child, and the transaction its parent's
                            txn.abort()
            except _RETRIED as error:
                retries = self._recover(error, retries)

    def write(self, operation: Callable[..., Result], *args: Any, durably: bool = True) -> Result:
        """Return ``operation(txn, *args)``, run in a write transaction, once that is committed.

        An exception out of the operation undoes the transaction. With ``durably=False`` durability ``commit`` does not
        wait for the disk.

        The operation may fork: the child neither commits nor undoes what belongs to its parent, and gets `ForkedStore`
        instead. If it may fork without Python's hooks, it calls `gate.detect_fork` at its end.
        """
        shared = gate.try_shared() or self._shared()
        file, retries = self.file, RETRIES
        lock = file.write_lock
        while True:
            try:
                with shared, lock.threads, lock.processes:
                    handle = file.handle or file.open()
                    if lock.word[0]:
                        lock.wait()
                    txn = handle.begin(write=True)
                    # No signal handler runs between a call and the first instruction of `try`, nor between the
                    # beginning of `finally` and its first call: an exception out of one cannot leave LMDB locked.
                    try:
                        given = txn if file.checkpoints.log is None else logged(txn)
                        result = operation(given, *args)
                        file.before_commit(given)
                        number = txn.id()
                        txn.commit()
                    finally:
                        if file.handle is not None:  # else this is a child, and the transaction its parent's
                            txn.abort()  # does nothing after a commit
            except _RETRIED as error:
                retries = self._recover(error, retries)
            else:
                if self._syncs or file.checkpoints.needs_work:
                    self._after_commit(number, durably)
                return result

    def lend(
        self, wrap: Callable[[Transaction], Any], finish: Callable[[], object] | None = None
    ) -> Steps[BaseException | None]:
        """Lend ``wrap(txn)`` to a `Block`, then end the transaction; return what the block has raised, or None.

        With ``finish`` it is a write transaction, which is committed after ``finish()`` if the block ends well.
        """
        self._shared()
        file, write, is_lent, retries, number = self.file, finish is not None, False, RETRIES, 0
        lock, reading = file.write_lock, self._read_blocks.lock  # a reader holds its own twice: it waits for none
        failure: BaseException | None = None
        while not is_lent:
            try:
                with gate.shared(), lock.threads if write else reading, lock.processes if write else reading:
                    handle = file.open()
                    if write and lock.word[0]:
                        lock.wait()
                    txn = handle.begin(write=True) if write else file.begin_block()
                    try:
                        is_lent = True
                        given = logged(txn) if write and file.checkpoints.log is not None else txn
                        failure = yield from lend(wrap(given))
                        gate.detect_fork()
                        if file.handle is not None and failure is None and finish is not None:
                            finish()
                            file.before_commit(given)
                            number = txn.id()
                            txn.commit()
                    finally:
                        if file.handle is not None:
                            txn.abort()
                if failure is None:
                    file.require_usable()  # in a child
                if isinstance(failure, lmdb.Error):
                    file.fail(failure)
            except _RETRIED as error:
                retries = self._recover(error, 0 if is_lent else retries)
        if number and (self._syncs or file.checkpoints.needs_work):
            self._after_commit(number)
        return failure

    def _shared(self) -> "threading.RLock":
        """Return the lock that this thread must hold in a transaction. Raises `NestedTransaction` inside one."""
        shared = gate.shared()
        # The write lock is held when a signal handler, or a destructor, interrupts a write.
        if is_owned(self._read_blocks.lock) or is_owned(self.file.write_lock.thread_lock):
            raise NestedTransaction(
                f"This thread is already in a transaction on {self.path}: use the methods of that transaction."
            )
        return shared

    def info(self) -> Any:
        """Return LMDB's figures about the open file. To be called inside a transaction."""
        assert self.file.handle is not None, "only called inside a transaction"
        return self.file.handle.info()

    # -- durability and readers ----------------------------------------------------------------------------------

    def flush(self, through: float = math.inf) -> None:
        """Return once all commits up to number ``through`` are durable. Raises `StoreError` if the disk fails."""
        self._run(lambda file: file.checkpoints.flush(through))

    def release_pages(self) -> None:
        """Let pages be reused that are kept for an old checkpoint, or for readers of killed processes."""
        self._run(lambda file: file.checkpoints.release_pages())
        self.clear_dead_readers()

    def clear_dead_readers(self) -> int:
        """Free the slots of killed processes, whose snapshots keep pages from reuse; return the number of slots."""
        return self._run(_clear_dead_readers)

    def _run(self, work: Callable[[DataFile], Result], retries: int = RETRIES) -> Result:
        """Return ``work(file)``, which needs the file open, but no transaction around it."""
        shared = gate.try_shared() or self._shared()
        file = self.file
        while True:
            try:
                with shared:
                    if file.handle is None:
                        file.open()
                    result = work(file)
                if file.checkpoints.needs_work:
                    file.checkpointer.wake()
                return result
            except _RETRIED as error:
                retries = self._recover(error, retries)
            except StoreError:
                raise
            except OSError as error:  # for example, no free descriptors: the next attempt may succeed
                raise translate_error(error, self.options) from error

    def _after_commit(self, number: int, durably: bool = True) -> None:
        """Make a commit durable, now or in time."""
        with suppress(StoreClosed):  # by another thread meanwhile: then everything is durable
            if self._syncs and durably:
                self._run(lambda file: file.checkpoints.secure(number))
            if self.file.checkpoints.is_backlogged:
                self.flush(number)
            if self.file.checkpoints.needs_work and not self.file.checkpointer.wake():
                self.flush(number)  # no thread can be started, so the writer must wait

    # -- errors --------------------------------------------------------------------------------------------------

    def _recover(self, error: lmdb.Error | ExclusiveWanted, retries: int) -> int:
        """Do what lets an operation succeed that failed because of others; return how many retries are left.

        Raises everything else as one of our errors.
        """
        if isinstance(error, ExclusiveWanted):
            gate.give_way()
            return retries
        if isinstance(error, lmdb.MapResizedError) and retries:
            self.file.adopt_size()
        elif not (isinstance(error, lmdb.ReadersFullError) and retries and self._run(_clear_dead_readers, 0)):
            self.file.fail(error)
        return retries - 1


def _clear_dead_readers(file: DataFile) -> int:
    handle = file.open()
    # Other writers are kept out, because a killed process may have held the pin that they rely on.
    return file.write_lock.run(handle, lambda txn: handle.reader_check())
