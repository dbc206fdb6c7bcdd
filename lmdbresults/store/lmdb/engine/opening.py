"""Opening one file: its path is examined, it is recovered after a power failure, and only then given to LMDB."""

import os
from collections.abc import Callable
from typing import NamedTuple

import lmdb

from lmdbresults.options import MIN_SIZE, Options
from lmdbresults.process import boot
from lmdbresults.store.lmdb.durability import recovery
from lmdbresults.store.lmdb.durability.checkpoints import Checkpoints
from lmdbresults.store.lmdb.durability.logged import logged
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from lmdbresults.store.lmdb.durability.unsynced import Durability, UnsyncedFile
from lmdbresults.store.lmdb.engine.long_reader import LongReaders
from lmdbresults.store.lmdb.engine.space import Space
from lmdbresults.store.lmdb.file import paths
from lmdbresults.store.lmdb.file.format import check_format, is_marked, mark
from lmdbresults.store.lmdb.file.lmdb_errors import translate_error
from lmdbresults.store.lmdb.file.lock_file import LockFile, holder_before_opening
from lmdbresults.store.lmdb.file.mapped import mapped_memory
from lmdbresults.store.lmdb.file.reader_table import ReaderTable, wait_for_table
from lmdbresults.store.lmdb.types import RunLocked

__all__ = ["OpenFile", "look_inside", "open_file"]


class OpenFile(NamedTuple):
    """A file that is open, with all that belongs to it."""

    path: str
    """Its real path, as the system says it."""
    handle: lmdb.Environment
    """LMDB's environment."""
    sidecar: Sidecar
    """The checkpoints on disk."""
    lock_file: LockFile
    """LMDB's lock file."""
    checkpoints: Durability
    """What limits the loss when power fails."""
    space: Space
    """What there is room for."""
    readers: ReaderTable
    """The open read transactions of all processes."""
    long_readers: LongReaders
    """Those that keep many pages from reuse."""

    def close(self) -> None:
        """Close everything, after a last checkpoint. May be called again, as when a signal handler has raised."""
        try:
            if not self.checkpoints.is_closed:
                self.checkpoints.close()
        finally:
            self.checkpoints.is_closed = True
            self.handle.close()
            if self.checkpoints.log is not None:
                self.checkpoints.log.close()
            mapped_memory.paths.discard(self.path)
            self.lock_file.close()  # only after LMDB's environment
            self.space.close()
            self.sidecar.close()


def open_file(options: Options, run_locked: RunLocked, keep: Callable[[OpenFile], object]) -> None:
    """Open the file of the options, and create it if it is missing. ``run_locked`` is `WriteLock.run`.

    The file goes to ``keep`` rather than being returned, so that an exception out of a signal handler cannot lose it.

    Raises a `StoreError`, or LMDB's or the system's error.
    """
    while not _try_open(options, run_locked, keep):
        pass  # a damaged file was moved aside


def _try_open(options: Options, run_locked: RunLocked, keep: Callable[[OpenFile], object]) -> bool:
    found = paths.examine(options.path, options.mode)
    sidecar = Sidecar(options.path) if found.has_file and found.has_sidecar else None
    parts = None
    try:
        if found.has_file:
            _refuse_unusable(options, found, sidecar)
        paths.create_missing(options)
        sidecar = sidecar or Sidecar(options.path)
        is_guarded = recovery.prepare(sidecar, options)
        if is_guarded is not None:
            if found.has_content:  # recovery is over, so the file can be relied on
                paths.check_content(options.path)
            parts = _map_and_check(options, sidecar, is_guarded, run_locked)
            keep(parts)
            return True
    except BaseException:  # a signal handler's too: the traceback would keep the descriptors open
        if parts is not None:
            parts.close()
        elif sidecar is not None:
            sidecar.close()
        raise
    sidecar.close()
    return False


def _refuse_unusable(options: Options, found: paths.Found, sidecar: Sidecar | None) -> None:
    """Refuse a damaged or foreign file before anything is changed: it gets no files of this package beside it."""
    state = sidecar.read() if sidecar is not None else None
    if sidecar is not None and state is not None:
        if not found.has_content:
            recovery.refuse_emptied(sidecar, state, options.path)
        if recovery.is_from_earlier_boot(state.last, boot.boot_id()):
            return  # the content cannot be relied on before recovery
    if found.has_content:
        paths.check_content(options.path)
        if sidecar is None or not found.has_lock:
            look_inside(options, found.has_lock)


def look_inside(options: Options, has_lock: bool) -> None:
    """Check, without leaving a trace, that the file belongs to this package. Raises a `StoreError`."""
    path = os.fsencode(options.path)
    try:
        with lmdb.open(path, subdir=False, readonly=True, lock=has_lock, create=False) as handle:
            check_format(handle, options.path)
    except lmdb.Error as error:
        raise translate_error(error, options) from error


def _map_and_check(options: Options, sidecar: Sidecar, is_guarded: bool, run_locked: RunLocked) -> OpenFile:
    handle = _map(options)
    lock_file: LockFile | None = None
    durability: Durability | None = None
    try:
        if _has_readers_from_before_exec(handle):
            handle = _map(options)
        check_format(handle, options.path)
        lock_file = LockFile(options.path)
        readers = ReaderTable(handle, lock_file)
        if is_guarded and boot.boot_id():
            durability = Checkpoints(handle, readers, sidecar, options, run_locked)
        else:
            handle.reader_check()  # not where there are pins: none may be cleared while a writer relies on it
            durability = UnsyncedFile(handle, sidecar, options)
        _mark_as_ours(handle, durability)
        long_readers = LongReaders(handle, readers, options, run_locked)
        space = Space(handle, options, durability, long_readers)
        mapped_memory.paths.add(options.path)
        return OpenFile(options.path, handle, sidecar, lock_file, durability, space, readers, long_readers)
    except BaseException:  # as above
        handle.close()
        if durability is not None and durability.log is not None:
            durability.log.close()
        if lock_file is not None:
            lock_file.close()
        raise


def _map(options: Options) -> lmdb.Environment:
    # Where one boot cannot be told from another, checkpoints are of no use, and LMDB syncs each commit.
    syncs = options.durability != "none" and not boot.boot_id()
    size = options.max_size
    wait_for_table(lambda: holder_before_opening(options.path))
    while True:
        try:
            return lmdb.open(
                os.fsencode(options.path),
                map_size=size,
                subdir=False,
                mode=options.mode,
                sync=syncs,
                metasync=syncs,
                max_readers=options.max_readers,
                max_spare_txns=0,  # a cached transaction would not survive a fork
                readahead=False,  # results are read at random
                lib_version=0,
            )
        except lmdb.MemoryError:
            size //= 2  # RLIMIT_AS leaves no address space of that size
            if size < MIN_SIZE:
                raise


def _has_readers_from_before_exec(handle: lmdb.Environment) -> bool:
    """Close the file again if this process left readers in its table before it became another program by ``exec``.

    LMDB takes them for alive, so no process ever clears them, and they keep pages from reuse. Closing does, after a
    read.
    """
    pids = [line.split()[0] for line in handle.readers().splitlines() if line.strip()]
    if str(os.getpid()) not in pids:
        return False
    try:
        handle.begin().abort()
    finally:
        handle.close()
    return True


def _mark_as_ours(handle: lmdb.Environment, durability: Durability) -> None:
    """Mark an empty file as one of this package."""
    with handle.begin() as txn:
        if is_marked(txn):
            return
    with handle.begin(write=True) as txn:
        given = txn if durability.log is None else logged(txn)
        if not is_marked(txn):  # another process may have been faster
            mark(given)
            durability.before_commit(given)
