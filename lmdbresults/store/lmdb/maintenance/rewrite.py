"""Rewrite: every page of a file is written to the disk again, after an fsync failure and before a reboot.

After a failed fsync the kernel may still have the pages in memory, but marks them as written, so another fsync does
nothing. Writing each page again with its own content marks it as changed. A page that the kernel has evicted comes back
as it is on the disk: so every record is verified afterwards, before a new checkpoint includes it. The old checkpoint
stays intact meanwhile.
"""

import os
from contextlib import suppress
from typing import Final

from lmdbresults.errors import FileDamaged, OpenError, StoreError
from lmdbresults.options import Options
from lmdbresults.process import boot
from lmdbresults.store.base import Progress
from lmdbresults.store.lmdb.durability import recovery
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from lmdbresults.store.lmdb.durability.sync_errors import SyncErrors
from lmdbresults.store.lmdb.engine.opening import look_inside
from lmdbresults.store.lmdb.file import lmdb_errors, paths
from lmdbresults.store.lmdb.file.verify import verify

__all__ = ["rewrite"]

#: Bytes per read and write.
_BATCH: Final = 1 << 20


def rewrite(options: Options, *, progress: Progress | None = None) -> int:
    """Write a data file to the disk again and allow writes; return its size in bytes, or 0 if there is nothing to do.

    There is nothing to do after a reboot: opening the file recovers it. Raises `OpenError` if a process has the file
    open, `DiskFailed` if the disk fails again, `FileDamaged` if a page was no longer in memory.
    """
    found = paths.examine(options.path, options.mode)
    if not found.has_content:
        return 0
    try:
        if not found.has_sidecar:  # it was deleted, and with it the record of the failure
            _look(options, found.has_lock)
            paths.create_sidecar(options.path + paths.CHECKPOINT_SUFFIX, options.mode)
        sidecar = Sidecar(options.path)
        try:
            return _rewrite(sidecar, options, progress)
        finally:
            sidecar.close()
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise lmdb_errors.translate_error(error, options) from error


def _rewrite(sidecar: Sidecar, options: Options, progress: Progress | None) -> int:
    if not sidecar.try_lock_exclusive():
        raise OpenError(f"{options.path} is in use: stop every process that has it open, then try again.")
    state = sidecar.read()
    if recovery.is_from_earlier_boot(state.last, boot.boot_id()):
        return 0
    is_pinned = state.last.is_pinned
    try:
        _look(options, has_lock=False)
    except FileDamaged as error:
        raise _damaged(is_pinned, options, str(error)) from error
    sidecar.ensure_identity(sidecar.head())
    head = sidecar.head()
    last = head.newest
    assert last is not None, "LMDB has opened the file"
    _write_again(sidecar.data, last.end, progress)
    _sync(sidecar, options, is_pinned)
    problems = verify(options.path)
    if problems:
        raise _damaged(is_pinned, options, problems[0])
    is_logged = state.last.is_logged
    checkpoint = sidecar.describe(state, head, last.txn, is_pinned=is_pinned, is_logged=is_logged)
    sidecar.write(checkpoint, state, with_lock=True)
    with suppress(FileNotFoundError):  # the disk may have failed to write it; all it says is in the checkpoint
        os.unlink(options.path + paths.LOG_SUFFIX)
    sidecar.clear_failure()
    return last.end


def _look(options: Options, has_lock: bool) -> None:
    """Raise an error if the file is not a store, or if LMDB could not open it safely."""
    paths.check_content(options.path)
    look_inside(options, has_lock)


def _write_again(descriptor: int, size: int, progress: Progress | None) -> None:
    for start in range(0, size, _BATCH):
        os.pwrite(descriptor, os.pread(descriptor, min(_BATCH, size - start), start), start)
        if progress is not None:
            progress(min(start + _BATCH, size), size)


def _sync(sidecar: Sidecar, options: Options, is_pinned: bool) -> None:
    try:
        os.fsync(sidecar.data)
    except OSError as error:
        raise SyncErrors(sidecar, options, is_guarded=is_pinned).record(error) from error


def _damaged(is_pinned: bool, options: Options, problem: str) -> FileDamaged:
    fix = "Write what can be read to a new file with `lmdbresults salvage`"
    if is_pinned:
        fix += ", or reboot, and the file goes back to its last checkpoint"
    return FileDamaged(f"{options.path}: a page that the disk did not accept is no longer in memory. {fix}. {problem}")
