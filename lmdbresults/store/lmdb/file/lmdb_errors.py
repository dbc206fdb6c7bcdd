"""LMDB's errors, translated in one place: which error of this package each becomes, in which words, with which cure."""

import errno
import os
import time
from typing import Final, NamedTuple

import lmdb

from lmdbresults.errors import (
    DiskFailed,
    FileDamaged,
    FileReplaced,
    LockUnavailable,
    OpenError,
    StoreError,
    StoreFull,
    TooManyReaders,
)
from lmdbresults.options import Options
from lmdbresults.store.lmdb.file import paths

__all__ = ["SyncFailure", "file_replaced", "sync_failed", "translate_error"]


class SyncFailure(NamedTuple):
    """A sync of the data file that has failed."""

    at: float
    """When, in seconds since the epoch."""
    reason: str
    """What the system said."""


def translate_error(error: lmdb.Error | OSError, options: Options) -> StoreError:
    """Return the error to raise in place of one of LMDB's, or of one of the file system."""
    if _means_no_room(error, options.path):
        return StoreFull(
            f"The disk of {options.path} is full. Free space on it; deleting results makes room for results only."
        )
    for kind, (wanted, text) in _TRANSLATIONS.items():
        if isinstance(error, kind):
            return wanted(text.format(path=options.path, options=options))
    if "already open" in str(error):
        return file_replaced(options.path)
    code = _code_of(error)
    if code in _OF_THE_SYSTEM:
        return paths.translate_os_error(OSError(code, os.strerror(code)), options.path)
    if code == errno.EIO:
        return DiskFailed(
            f"{options.path}, or a file beside it, cannot be read or written ({os.strerror(code)}). Fix the disk, stop "
            "every process that uses the file, then run `lmdbresults rewrite` on it."
        )
    return StoreError(f"{options.path}: {error}. Run `lmdbresults check` on it; if that finds no problem, report this.")


def file_replaced(path: str) -> FileReplaced:
    """Return the error for a path that no longer leads to the file that this process has open."""
    return FileReplaced(
        f"{path} was deleted or replaced while this process has the former file open: "
        "close every store on it, or restart the process."
    )


def sync_failed(path: str, failure: SyncFailure, *, is_guarded: bool) -> DiskFailed:
    """Return the error for a failed sync; ``is_guarded``: checkpoints are made."""
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(failure.at))
    cure = "Fix the disk, stop every process that uses the file, then run `lmdbresults rewrite` on it."
    if not is_guarded:
        return DiskFailed(f"{path} could not be written to the disk ({failure.reason}, {when}). {cure}")
    return DiskFailed(
        f"{path} could not be written to the disk ({failure.reason}, {when}). What was stored since the last "
        "checkpoint may be in memory only, and the system does not write it again, so all writes are refused; "
        f"reads still work. {cure} If the machine restarts before that, the file is rolled back to its last checkpoint."
    )


def _means_no_room(error: lmdb.Error | OSError, path: str) -> bool:
    code = _code_of(error)
    if code != errno.EIO:
        return code in _NO_ROOM
    return not _can_grow(path)  # LMDB says EIO if the disk took only a part of what was to be written


def _code_of(error: lmdb.Error | OSError) -> int:
    return (error.code if isinstance(error, lmdb.Error) else error.errno) or 0


def _can_grow(path: str) -> bool:
    """Return whether the limits of the process, its quota and the disk allow a little more."""
    import resource  # rarely needed
    import tempfile

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and os.path.getsize(path) + _LITTLE > limit:
        return False
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
            os.posix_fallocate(file.fileno(), 0, _LITTLE)
    except OSError as error:
        return error.errno not in _NO_ROOM
    return True


_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: What a path is refused for, also once it is open.
_OF_THE_SYSTEM: Final = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.EROFS)
#: More than a commit may write.
_LITTLE: Final = 1 << 20

_TRANSLATIONS: Final[dict[type[lmdb.Error], tuple[type[StoreError], str]]] = {
    lmdb.MapFullError: (
        StoreFull,
        "{path} has reached max_size={options.max_size}. Raise max_size, let results expire sooner, or delete some.",
    ),
    lmdb.TxnFullError: (StoreFull, "{path}: one transaction has changed too much. Split it."),
    lmdb.MapResizedError: (StoreError, "{path} grows faster than it can be mapped. Give every process one max_size."),
    lmdb.ReadersFullError: (
        TooManyReaders,
        "{path} is being read by max_readers={options.max_readers} transactions. "
        "Close every process that uses it, and open it with a larger max_readers.",
    ),
    lmdb.LockError: (
        LockUnavailable,
        "{path}: LMDB cannot acquire its locks. Containers that share the file need a shared PID namespace; "
        "network file systems are not supported.",
    ),
    lmdb.MemoryError: (OpenError, "{path} does not fit the address space: raise RLIMIT_AS, or lower max_size."),
    lmdb.InvalidError: (
        FileDamaged,
        "{path} is damaged, or not an LMDB file. Restore it from a backup, or move it away.",
    ),
    lmdb.CorruptedError: (FileDamaged, "{path} is damaged. Restore it from a backup, or move it away."),
    lmdb.PageNotFoundError: (FileDamaged, "{path} is damaged. Restore it from a backup, or move it away."),
    lmdb.PanicError: (
        StoreError,
        "{path}: an earlier write failed halfway. It was undone, and the file reopened: run the operation again.",
    ),
}
