"""The data file of an environment: opened when it is first needed, closed before every fork, and opened again."""

import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

import lmdb

from lmdbresults.errors import ForkedStore, NestedTransaction, StoreBusy, StoreClosed, StoreError, StoreFull
from lmdbresults.options import Options
from lmdbresults.process.fork_gate import ExclusiveWanted, gate, is_owned
from lmdbresults.store.lmdb.durability.checkpointer import Checkpointer
from lmdbresults.store.lmdb.engine.long_reader import LongReader
from lmdbresults.store.lmdb.engine.opening import OpenFile, open_file
from lmdbresults.store.lmdb.engine.write_lock import WriteLock
from lmdbresults.store.lmdb.file import lmdb_errors
from lmdbresults.store.lmdb.file.lock_file import UNKNOWN
from lmdbresults.store.lmdb.file.reader_table import began_now
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["RETRIES", "DataFile"]

logger = logging.getLogger("lmdbresults")

#: How often an operation is tried again after another process has let the file grow beyond our map.
RETRIES: Final = 15
#: Seconds until checkpoints are tried again after an error, and after another process has not released the write lock.
_AFTER_ERROR: Final = 10.0
_AFTER_BUSY: Final = 0.5


class DataFile:
    """A data file, and everything that is open with it. A thread that uses it has shared access to the gate."""

    def __init__(self, options: Options) -> None:
        self.options = options
        #: LMDB's environment. None in a transaction: this is a child, and the transaction belongs to its parent.
        self.handle: lmdb.Environment | None = None
        #: 0 while a read transaction can begin: see `WriteLock.wait_for_reader_table`.
        self.reader_word = UNKNOWN
        #: Everything that is open; None when all of it is closed.
        self._parts: OpenFile | None = None
        #: The fsync error of an earlier opening of the file.
        self._sync_error: StoreError | None = None
        #: Why this object can never open the file again; None if it can.
        self._unusable: StoreError | None = None
        self._refuse_writes()
        self._reset()
        gate.watch_forks(self)
        gate.close_before_forks(self)  # an inherited LMDB environment can neither be used nor closed in the child

    def _reset(self) -> None:
        #: Guards the opening of the file; acquired inside the gate.
        self._opening = threading.RLock()
        self.write_lock = WriteLock(self.options.path, self.options.lock_timeout)
        self.checkpointer = Checkpointer(self._run_checkpoints)

    def _refuse_writes(self) -> None:
        #: Those of the `Space` of the open file: check, inside a write transaction, that the next bytes fit.
        self.reserve: Callable[[Transaction, int], object] = self.require_usable
        self.reserve_for_delete: Callable[[Transaction], object] = self.require_usable
        #: That of the checkpoints of the open file.
        self.before_commit: Callable[[Transaction], object] = self.require_usable

    # -- opening -------------------------------------------------------------------------------------------------

    def open(self) -> lmdb.Environment:
        """Open the file unless it is open; return LMDB's environment. Raises a `StoreError`."""
        if is_owned(self._opening):
            raise NestedTransaction(
                f"{self.options.path} is being opened by this thread: a signal handler cannot use it now."
            )
        if self.handle is not None:
            return self.handle
        with self._opening:
            retries = RETRIES
            while self.handle is None:
                self.require_usable()
                try:
                    self.close()  # what a signal handler has kept from being closed
                    open_file(self.options, self.write_lock.run, self._keep)
                    self._attach()
                except lmdb.Error as error:
                    if not isinstance(error, lmdb.MapResizedError) or not retries:  # grown while it was being opened
                        self.fail(error)
                    retries -= 1
                except StoreError:
                    raise
                except OSError as error:
                    raise lmdb_errors.translate_error(error, self.options) from error
            return self.handle

    def _keep(self, parts: OpenFile) -> None:
        self._parts = parts

    def _attach(self) -> None:
        """Use what was opened."""
        parts = self._parts
        assert parts is not None, "it was just opened"
        self.write_lock.attach(parts.lock_file, parts.sidecar.data)
        self.reader_word = parts.lock_file.reader_word
        self.reserve, self.reserve_for_delete = parts.space.reserve, parts.space.reserve_for_delete
        self.checkpoints, self.before_commit = parts.checkpoints, parts.checkpoints.before_commit
        self.checkpoints.sync_errors.failure = self._sync_error
        self.handle = parts.handle
        if self.checkpoints.is_behind():
            self.checkpointer.wake()

    def has_been_replaced(self) -> bool:
        """Return whether the path now names another file than the one that is open here."""
        parts = self._parts if self.handle is not None else None  # else closing it was interrupted
        return parts is not None and not parts.space.is_at(self.options.path)

    def exclude(self) -> bool:
        """Return whether no other process has the file open; then none can open it until `share`.

        False: the file must be closed now, as it is not protected from others any more.
        """
        assert self._parts is not None, "only called inside a transaction"
        return self._parts.sidecar.try_lock_exclusive()

    def share(self) -> None:
        """Let other processes open the file again, after `exclude`."""
        if self._parts is not None:  # else a fork has closed it
            self._parts.sidecar.lock_shared()

    def require_usable(self, *_: object) -> None:
        """Raise `ForkedStore` if a fork has left the file unusable here, `StoreClosed` if it is closed for good."""
        if self._unusable is not None:
            raise type(self._unusable)(*self._unusable.args)

    # -- closing, with exclusive access to the gate ----------------------------------------------------------------

    def close(self) -> None:
        """Close the file; `open` opens it again. Closing twice is fine."""
        self.handle, self.reader_word = None, UNKNOWN
        if self._parts is not None:
            self._parts.close()
            self._sync_error = self._sync_error or self._parts.checkpoints.sync_errors.failure
            self._parts = None
        self.write_lock.detach()

    def retire(self) -> bool:
        """Close the file for good. Return whether another object may open it: not if a fork left it unusable."""
        self.close()
        self.checkpointer.stop()
        if self._unusable is None:
            self._unusable = StoreClosed(
                f"The store on {self.options.path} is closed. Open it again with open_store()."
            )
        return isinstance(self._unusable, StoreClosed)

    def close_at_exit(self) -> None:
        """Close the file, unless a daemon thread is in a transaction that does not end soon."""
        if self._parts is not None and not gate.exclusive(self.close, timeout=1.0):
            _leak(self._parts)

    def after_fork_in_child(self) -> None:
        """Reset the locks. If the file was not closed before the fork, it is unusable in this process for good."""
        self._reset()
        if self._parts is not None:
            self._parts.sidecar.close()  # otherwise the child keeps the locks of a parent that is killed
            _leak(self._parts)
            self._parts = self.handle = None
            self.reader_word = UNKNOWN
            self._refuse_writes()  # of a transaction that the child has inherited
            self._unusable = ForkedStore(
                f"{self.options.path} was in use when this process was forked, inside a transaction or by code outside "
                "Python, so it cannot be used here. Fork outside transactions; with uWSGI set lazy-apps = true."
            )

    # -- size and errors -------------------------------------------------------------------------------------------

    def adopt_size(self) -> None:
        """Adopt the size to which another process, with a larger max_size, has let the file grow."""
        gate.exclusive(self._resize)

    def _resize(self) -> None:
        try:
            if self.handle is not None:
                self.checkpoints.unpin()  # a resize invalidates open read transactions
                self.handle.set_mapsize(0)
        except lmdb.Error:
            self.close()  # the handle is useless after a failed resize

    def fail(self, error: lmdb.Error) -> NoReturn:
        """Raise our error for one of LMDB's."""
        if isinstance(error, lmdb.PanicError):
            with suppress(NestedTransaction):
                gate.exclusive(self.close)  # after a fatal error of LMDB only a new handle helps
        translated = lmdb_errors.translate_error(error, self.options)
        reader = self.oldest_reader() if isinstance(translated, StoreFull) else None
        if reader is not None:
            translated = StoreFull(f"{translated} {reader}: end that.")
        raise translated from error

    def oldest_reader(self) -> LongReader | None:
        """Return the oldest reader of the file; None if there is none, or the file is closed."""
        with gate.shared():
            return self._parts.long_readers.oldest() if self._parts is not None else None

    def begin_block(self) -> Transaction:
        """Begin a read transaction that may last, and so tells when it began. The file is open."""
        assert self._parts is not None, "the file is open"
        return self._parts.readers.begin(began_now())

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _run_checkpoints(self) -> float:
        """Make the checkpoint that is due; return after how many seconds to call again. For the checkpointer."""
        try:
            with gate.shared():
                if self.handle is None or self._parts is None:
                    return math.inf
                return min(self.checkpoints.run_due(), self._parts.long_readers.run())
        except ExclusiveWanted:
            gate.give_way()
        except lmdb.MapResizedError:
            self.adopt_size()
        except StoreBusy:
            return _AFTER_BUSY
        except (lmdb.Error, OSError, StoreError) as error:
            logger.error("%s: no checkpoint could be made: %s", self.options.path, error)
            return _AFTER_ERROR
        return 0.0


def _leak(inherited: object) -> None:
    """Keep an object of LMDB's from ever being freed.

    Freeing one that was inherited through a fork releases slots and locks that belong to the parent.
    """
    import ctypes  # rarely needed

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
