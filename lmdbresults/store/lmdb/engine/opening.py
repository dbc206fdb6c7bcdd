"""Opening one file: the path is examined, the file put in order after a loss of power, and only then given to LMDB."""

import os
from typing import NamedTuple

import lmdb

from lmdbresults.options import MIN_SIZE, Options
from lmdbresults.process import boot
from lmdbresults.store.lmdb.durability import recovery
from lmdbresults.store.lmdb.durability.checkpoints import Checkpoints, UnsyncedFile
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from lmdbresults.store.lmdb.engine.space import Space
from lmdbresults.store.lmdb.file import lmdb_errors, paths
from lmdbresults.store.lmdb.file.format import check_format, is_marked, mark
from lmdbresults.store.lmdb.types import AcquireWriter

__all__ = ["OpenFile", "look_inside", "open_file"]


class OpenFile(NamedTuple):
    """A file that is open, with all that belongs to it."""

    handle: lmdb.Environment
    """LMDB's environment."""
    sidecar: Sidecar
    """The checkpoints on disk."""
    checkpoints: Checkpoints | UnsyncedFile
    """What sees to it that a loss of power loses no more than it may."""
    space: Space
    """What there is room for."""

    def close(self) -> None:
        """Close everything, after a last checkpoint. Once more is fine, as after a signal handler that raised."""
        try:
            if not self.checkpoints.is_closed:
                self.checkpoints.close()
        finally:
            self.checkpoints.is_closed = True
            self.handle.close()
            self.space.close()
            self.sidecar.close()


def open_file(options: Options, acquire_writer: AcquireWriter) -> OpenFile:
    """Open the file of the options, which is created if missing; ``acquire_writer()`` surrounds write transactions.

    Raises a `StoreError`, or LMDB's or the system's error.
    """
    opened = None
    while opened is None:  # once more if a damaged file was put aside
        opened = _attempt(options, acquire_writer)
    return opened


def _attempt(options: Options, acquire_writer: AcquireWriter) -> OpenFile | None:
    found = paths.examine(options.path, options.mode)
    sidecar = Sidecar(options.path) if found.has_file and found.has_sidecar else None
    try:
        if found.has_file:
            _refuse(options, found, sidecar)
        paths.create_missing(options.path, options.mode, options.max_readers)
        sidecar = sidecar or Sidecar(options.path)
        is_guarded = recovery.prepare(sidecar, options)
        if is_guarded is not None:
            if found.has_content:  # now for sure
                paths.check_content(options.path)
            return _map_and_check(options, sidecar, is_guarded, acquire_writer)
    except BaseException:  # also one out of a signal handler: a traceback would keep the descriptors open
        if sidecar is not None:
            sidecar.close()
        raise
    sidecar.close()
    return None


def _refuse(options: Options, found: paths.Found, sidecar: Sidecar | None) -> None:
    """Refuse a file that is damaged or not ours, as long as nothing is changed: such a one gets no files of ours."""
    if not found.has_content:
        if sidecar is not None:
            recovery.refuse_emptied(sidecar, options.path)
        return
    if sidecar is not None and recovery.is_from_earlier_boot(sidecar):
        return  # what the file says of itself cannot be relied on yet
    paths.check_content(options.path)
    if sidecar is None or not found.has_lock:
        look_inside(options, found.has_lock)


def look_inside(options: Options, has_lock: bool) -> None:
    """See that a file is ours, without leaving a trace. Raises a `StoreError`."""
    path = os.fsencode(options.path)
    try:
        with lmdb.open(path, subdir=False, readonly=True, lock=has_lock, create=False) as handle:
            check_format(handle, options.path)
    except lmdb.Error as error:
        raise lmdb_errors.translate_error(error, options) from error


def _map_and_check(options: Options, sidecar: Sidecar, is_guarded: bool, acquire_writer: AcquireWriter) -> OpenFile:
    handle = _map(options)
    if _has_former_life(handle):
        handle = _map(options)
    try:
        check_format(handle, options.path)
        guard = _guard(handle, sidecar, options, is_guarded, acquire_writer)
        _make_ours(handle, guard)
        return OpenFile(handle, sidecar, guard, Space(handle, options, guard))
    except BaseException:  # as above
        handle.close()
        raise


def _guard(
    handle: lmdb.Environment, sidecar: Sidecar, options: Options, is_guarded: bool, acquire_writer: AcquireWriter
) -> Checkpoints | UnsyncedFile:
    if is_guarded and boot.boot_id():
        return Checkpoints(handle, sidecar, options, acquire_writer)
    handle.reader_check()  # where there are pins, nobody must clear one while others write
    return UnsyncedFile(handle, sidecar, options)


def _map(options: Options) -> lmdb.Environment:
    # Where one boot cannot be told from another, checkpoints are of no use, and LMDB syncs each commit.
    syncs = options.durability != "none" and not boot.boot_id()
    size = options.max_size
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


def _has_former_life(handle: lmdb.Environment) -> bool:
    """Close the file again if this process has left readers in it before it has become another program (``exec``).

    LMDB takes them for alive, so nobody ever clears them, and they keep pages from reuse. Closing does, after a read.
    """
    pids = [line.split()[0] for line in handle.readers().splitlines() if line.strip()]
    if str(os.getpid()) not in pids:
        return False
    try:
        handle.begin().abort()
    finally:
        handle.close()
    return True


def _make_ours(handle: lmdb.Environment, guard: Checkpoints | UnsyncedFile) -> None:
    """Mark an empty file as one of this program."""
    with handle.begin() as txn:
        if is_marked(txn):
            return
    with handle.begin(write=True) as txn:
        if not is_marked(txn):  # another process may have been faster
            mark(txn)
            guard.before_commit(txn)
