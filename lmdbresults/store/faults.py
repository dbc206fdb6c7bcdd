"""LMDB's errors, translated once: which of ours they become, in which words, with which cure."""

import errno
import os
from typing import Final

import lmdb

from lmdbresults.errors import (
    FileDamaged,
    FileReplaced,
    LockUnavailable,
    OpenError,
    StoreError,
    StoreFull,
    TooManyReaders,
)
from lmdbresults.options import Options

__all__ = ["explained", "replaced", "unsynced"]


def explained(error: lmdb.Error | OSError, options: Options) -> StoreError:
    """Return the error to raise in place of one of LMDB's, or of one of the disk."""
    if _means_no_room(error, options.path):
        return StoreFull(
            f"The disk of {options.path} is full. Free space on it; deleting results makes room for results only."
        )
    for kind, (wanted, text) in _EXPLANATIONS.items():
        if isinstance(error, kind):
            return wanted(text.format(path=options.path, options=options))
    if "already open" in str(error):
        return replaced(options.path)
    return StoreError(f"{options.path}: {error}")


def replaced(path: str) -> FileReplaced:
    """Return the error for a file that is no longer the one that this process has open."""
    return FileReplaced(
        f"{path} was deleted or replaced while this process has the former file open: "
        "close every store on it, or restart the process."
    )


def unsynced(path: str, error: Exception) -> StoreError:
    """Return the error for a disk that did not take what was written."""
    return StoreError(
        f"{path} could not be written to the disk ({error}), so what was stored since the last checkpoint may be lost "
        "when the machine goes down. Nothing more is stored here: see to the disk, then restart the processes."
    )


def _means_no_room(error: lmdb.Error | OSError, path: str) -> bool:
    code = error.code if isinstance(error, lmdb.Error) else error.errno
    if code != errno.EIO:
        return code in _NO_ROOM
    # What LMDB says if the disk took only a part of what was to be written.
    disk = os.statvfs(os.path.dirname(path))
    return disk.f_bavail * disk.f_frsize < _NEARLY_NOTHING


_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Less than a commit may write.
_NEARLY_NOTHING: Final = 1 << 20

_EXPLANATIONS: Final[dict[type[lmdb.Error], tuple[type[StoreError], str]]] = {
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
        "{path}: LMDB cannot take its locks. Containers that share the file need a shared PID namespace; "
        "network file systems cannot be used.",
    ),
    lmdb.MemoryError: (OpenError, "{path} does not fit the address space: raise RLIMIT_AS, or lower max_size."),
    lmdb.InvalidError: (FileDamaged, "{path} is no LMDB file or damaged. Restore it from a backup, or move it away."),
    lmdb.CorruptedError: (FileDamaged, "{path} is damaged. Restore it from a backup; to start anew, move it away."),
    lmdb.PageNotFoundError: (FileDamaged, "{path} is damaged. Restore it from a backup; to start anew, move it away."),
    lmdb.PanicError: (StoreError, "{path}: an earlier write failed halfway. It was undone, and the file reopened."),
}
