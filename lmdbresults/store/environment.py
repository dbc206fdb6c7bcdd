"""The LMDB environment of one file: opening, forks, threads, growth, readers, and the translation of LMDB's errors.

There is one for each file and process, however many stores use it, because LMDB's locks do not bear a second one. It
is opened when it is first needed and closed before every fork, so that parent and child each open their own.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, TypeVar

import lmdb
import msgpack

from lmdbresults.errors import (
    ForeignFile,
    ForkedStore,
    NestedTransaction,
    NewerFormat,
    StoreClosed,
    StoreError,
)
from lmdbresults.options import MIN_SIZE, Options
from lmdbresults.store import faults, files
from lmdbresults.store.block import Block, Steps, Undone, lend
from lmdbresults.store.gate import gate, is_mine
from lmdbresults.store.room import Room

__all__ = ["FORMAT_KEY", "FORMAT_VERSION", "Environment", "Transaction"]

if TYPE_CHECKING:
    Transaction: TypeAlias = lmdb.Transaction[bytes]
else:  # generic in its type stubs only
    Transaction = lmdb.Transaction
Result = TypeVar("Result")

#: The record that says whose file this is, and in which layout. Its first byte is of no other kind of key.
FORMAT_KEY: Final = b"\x00lmdbresults"
FORMAT_VERSION: Final = 1

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
        self._handle: lmdb.Environment | None = None
        #: Why the file can never be opened again by this object; None if it can.
        self._unusable: StoreError | None = None
        self._start_anew()
        gate.watch_forks(self)

    def _start_anew(self) -> None:
        #: Guards the opening of the handle; taken inside the gate.
        self._opening = threading.RLock()
        #: Held during a write transaction. LMDB's own lock would do, but waiting for that freezes gevent's hub and
        #: keeps signal handlers from running; with this one, a single thread of the process at most waits there.
        self._writer = threading.RLock()
        self._reading = _Reading()

    # -- transactions --------------------------------------------------------------------------------------------

    def read(self, operation: Callable[..., Result], *args: Any) -> Result:
        """Return ``operation(txn, *args)``, run in a read transaction."""
        self._guard()
        tries_left = _TRIES
        while True:
            try:
                with gate.shared(), (self._handle or self._open()).begin() as txn:
                    return operation(txn, *args)
            except lmdb.Error as error:
                tries_left -= 1
                self._recover(error, tries_left)

    def write(self, operation: Callable[..., Result], *args: Any) -> Result:
        """Return ``operation(txn, *args)``, run in a write transaction, once that is committed.

        An exception out of the operation leaves everything as it was.
        """
        self._guard()
        tries_left = _TRIES
        while True:
            try:
                with gate.shared(), self._writer, (self._handle or self._open()).begin(write=True) as txn:
                    self._room.added = 0
                    return operation(txn, *args)
            except lmdb.Error as error:
                tries_left -= 1
                self._recover(error, tries_left)

    def transaction(self, write: bool) -> Block[Transaction]:
        """Return a block with a transaction; it commits if the block ends well and is undone if the block raises."""
        return Block(self._transaction(write))

    def _transaction(self, write: bool) -> Steps:
        """Lend a transaction, and see to it that a child that was forked in its midst does nothing to it."""
        self._guard()
        owner, failure = os.getpid(), None
        block: Block[Transaction] = Block(self._hold(write, owner))
        try:
            with block as txn:
                failure = yield from lend(txn)
                if failure is not None:
                    raise Undone(failure)
        except Undone:
            pass
        if os.getpid() != owner:
            _leave_untouched(block)
            gate.notice_fork()
            if failure is None:
                self._refuse_unusable()
        if isinstance(failure, lmdb.Error):
            self._fail(failure)  # in the block, which cannot be run again from here
        yield 0

    def _hold(self, write: bool, owner: int) -> Steps:
        """Lend a transaction, and end it; never in another process than the one that began it."""
        is_lent, tries_left = False, _TRIES
        while not is_lent:
            try:
                lock = self._writer if write else self._reading.lock
                with gate.shared(), lock, (self._handle or self._open()).begin(write=write) as txn:
                    if write:
                        self._room.added = 0
                    is_lent = True
                    failure = yield from lend(txn)
                    while os.getpid() != owner:
                        yield 0  # and is left for good
                    if failure is not None:
                        raise Undone(failure)
            except lmdb.Error as error:
                tries_left = 0 if is_lent else tries_left - 1
                self._recover(error, tries_left)
            except Undone:
                pass
        yield 0

    def _guard(self) -> None:
        """Refuse a transaction inside another one, and notice a fork that Python's hooks have not seen."""
        gate.notice_fork()
        gate.refuse_while_alone()
        # The writer lock is held when a signal handler, or a destructor, comes in the middle of a write.
        if is_mine(self._reading.lock) or is_mine(self._writer):
            raise NestedTransaction(
                f"This thread is already in a transaction on {self.path}: use the methods of that transaction."
            )

    def make_room(self, txn: Transaction, adds: int | None) -> None:
        """See to it, inside a write transaction, that the next bytes fit; None announces a removal. See `Room`."""
        self._refuse_unusable()  # in a child that was forked in the midst of this transaction
        self._room.make(txn, adds)

    def has_been_replaced(self) -> bool:
        """Return whether the path leads to another file by now than the one that is open here."""
        with gate.shared():
            return self._handle is not None and not self._room.is_at(self.path)

    # -- opening and closing -------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the file now rather than at the first transaction. Raises a `StoreError`."""
        with gate.shared():
            self._open()

    def close(self) -> None:
        """Close the file once no transaction is open in this process; the next transaction opens it again."""
        gate.alone(self.let_go)

    def close_at_exit(self) -> None:
        """Close the file if that is possible soon; a daemon thread may be in a transaction that never ends."""
        if self._handle is None:
            return
        if not gate.alone(self.let_go, timeout=1.0):
            _leave_untouched(self._handle)

    def _open(self) -> lmdb.Environment:
        if is_mine(self._opening):
            raise NestedTransaction(f"{self.path} is being opened by this thread: a signal handler cannot use it now.")
        with self._opening:
            tries_left = _TRIES
            while self._handle is None:
                self._refuse_unusable()
                try:
                    self._prepare_path()
                    self._open_file()
                except StoreError:
                    raise
                except lmdb.Error as error:
                    tries_left -= 1
                    if not (isinstance(error, lmdb.MapResizedError) and tries_left):  # grown while it was being opened
                        self._fail(error)
                except OSError as error:
                    raise faults.explained(error, self.options) from error
            return self._handle

    def _prepare_path(self) -> None:
        found = files.examine(self.path, self.options.mode)
        if found.has_content and not found.has_lock:
            self._look_inside()  # a foreign file is not to get a lock file from us
        files.create_missing(self.path, self.options.mode, self.options.max_readers)

    def _look_inside(self) -> None:
        """See that a file that nobody has open is ours, without leaving a trace."""
        try:
            with lmdb.open(os.fsencode(self.path), subdir=False, readonly=True, lock=False, create=False) as handle:
                _check_format(handle, self.path)
        except lmdb.Error as error:
            self._fail(error)

    def _open_file(self) -> None:
        handle = self._map()
        try:
            handle.reader_check()
            _check_format(handle, self.path)
            _make_ours(handle)
            self._room = Room(handle, self.options)
            self._handle = handle
        except BaseException:  # also one out of a signal handler: a traceback would keep the handle open
            handle.close()
            raise

    def _map(self) -> lmdb.Environment:
        size = self.options.max_size
        while True:
            try:
                return lmdb.open(
                    os.fsencode(self.path),
                    map_size=size,
                    subdir=False,
                    mode=self.options.mode,
                    sync=self.options.syncs,
                    metasync=self.options.syncs,
                    max_readers=self.options.max_readers,
                    max_spare_txns=0,  # a cached transaction would not survive a fork
                    readahead=False,  # results are read at random
                    lib_version=0,
                )
            except lmdb.MemoryError:
                size //= 2  # RLIMIT_AS leaves no address space of that size
                if size < MIN_SIZE:
                    raise

    def retire(self) -> bool:
        """Close the file for good, as nobody uses it; the caller holds the gate exclusively.

        Return whether the file can be opened by another object: not after a fork that left it unusable.
        """
        self.let_go()
        if self._unusable is None:
            self._unusable = StoreClosed(f"The store on {self.path} is closed. Open it again with open_store().")
        return isinstance(self._unusable, StoreClosed)

    def let_go(self) -> None:
        """Close the file. The caller holds the gate exclusively."""
        handle, self._handle = self._handle, None
        if handle is not None:
            try:
                handle.close()
            finally:
                self._room.close()

    def before_fork(self) -> None:
        """Close the file: an inherited LMDB environment can neither be used nor closed in the child."""
        self.let_go()

    def after_fork_in_child(self) -> None:
        """Make new locks. If the file was not closed before the fork, give it up for good."""
        self._start_anew()
        if self._handle is not None:
            _leave_untouched(self._handle)
            self._handle = None
            self._unusable = ForkedStore(
                f"{self.path} was in use when this process was forked, inside a transaction or by code outside Python, "
                "so it cannot be used here. Fork outside transactions; with uWSGI set lazy-apps = true."
            )

    def handle(self) -> lmdb.Environment:
        """Return LMDB's own environment, inside a transaction, where nobody can close it."""
        self._refuse_unusable()
        assert self._handle is not None, "only called inside a transaction"
        return self._handle

    def _refuse_unusable(self) -> None:
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
        gate.alone(self._resize)

    def _resize(self) -> None:
        try:
            if self._handle is not None:
                self._handle.set_mapsize(0)
        except lmdb.Error:
            self.let_go()  # after a failed resize the handle is of no use; the next try opens the file again

    def clear_dead_readers(self) -> int:
        """Free the slots of killed processes, whose snapshots keep pages from reuse; return how many there were."""
        with gate.shared():
            return (self._handle or self._open()).reader_check()

    def _fail(self, error: lmdb.Error) -> NoReturn:
        if isinstance(error, lmdb.PanicError):
            with suppress(NestedTransaction):
                self.close()  # after a fatal error of LMDB only a new handle helps
        raise faults.explained(error, self.options) from error


def _check_format(handle: lmdb.Environment, path: str) -> None:
    """See that the file is ours, or empty. Raises `ForeignFile` or `NewerFormat`."""
    with handle.begin() as txn:
        mark, entries = txn.get(FORMAT_KEY), txn.stat()["entries"]
    version = _format_version(mark)
    if entries and version is None:
        raise ForeignFile(f"{path} is an LMDB file of another program, and was left as it is. Choose another path.")
    if version is not None and version > FORMAT_VERSION:
        raise NewerFormat(
            f"{path} has format {version}; this lmdbresults reads up to {FORMAT_VERSION}: upgrade it in every process."
        )


def _make_ours(handle: lmdb.Environment) -> None:
    """Mark an empty file as one of this program, in this format."""
    with handle.begin() as txn:
        if txn.get(FORMAT_KEY) is not None:
            return
    with handle.begin(write=True) as txn:
        if txn.get(FORMAT_KEY) is None:  # another process may have been faster
            txn.put(FORMAT_KEY, msgpack.packb({"format": FORMAT_VERSION}))


def _format_version(mark: bytes | None) -> int | None:
    try:
        return int(msgpack.unpackb(mark)["format"]) if mark else None
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return None


def _leave_untouched(inherited: object) -> None:
    """Keep an object of LMDB's from ever being freed.

    Freeing one that was inherited through a fork releases slots and locks that belong to the parent.
    """
    import ctypes  # here, because hardly anybody ever gets here

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
