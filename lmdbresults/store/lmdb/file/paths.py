"""What may be opened: every check of the path, before LMDB sees it and before anything is changed.

LMDB itself follows symbolic links, creates files that others may read, takes an empty file for a new one and dies by
SIGBUS on a short one. So the path is examined first, and the files are created here.
"""

import errno
import os
import stat
import sys
import threading
import time
from contextlib import suppress
from typing import Final, NamedTuple

from lmdbresults.errors import (
    AccessDenied,
    FileDamaged,
    FolderMissing,
    NotAFile,
    NotLMDB,
    OpenError,
    ReadOnlyPath,
    StoreError,
    StoreFull,
    SymlinkRefused,
    WrongOwner,
)
from lmdbresults.store.lmdb.file import meta
from lmdbresults.store.lmdb.file.btree import damage_at_the_top
from lmdbresults.store.lmdb.file.pages import PageFile

__all__ = [
    "CHECKPOINT_SUFFIX",
    "LOCK_SUFFIX",
    "Found",
    "canonical",
    "check_content",
    "create_missing",
    "create_sidecar",
    "examine",
    "translate_os_error",
    "wait_for_content",
    "is_same_file",
    "sync_folder",
]

LOCK_SUFFIX: Final = "-lock"
CHECKPOINT_SUFFIX: Final = "-checkpoint"

#: The sizes of which LMDB makes its lock file: for itself and for each reader.
_LOCK_HEAD_BYTES: Final = 128
_READER_BYTES: Final = 64
#: Four places of a page (sidecar.py).
_SIDECAR_BYTES: Final = 4 * 4096

#: What has to be free for a new file.
_LEAST_SPACE: Final = 1 << 20


def canonical(path: str) -> str:
    """Return the path with the links among its folders resolved: one name for each file that is not a link itself."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


class Found(NamedTuple):
    """What lies at a path already."""

    has_file: bool
    """Whether there is a data file."""
    has_content: bool
    """Whether that is more than what a loss of power may leave of a new file, to which nothing was committed."""
    has_lock: bool
    """Whether there is a lock file beside it."""
    has_sidecar: bool
    """Whether there is a file of checkpoints beside it."""


def examine(path: str, mode: int) -> Found:
    """Check that ``path`` may be opened as a store. Changes nothing; raises an `OpenError` with path and cure."""
    data, lock, sidecar = (_examine_one(path + suffix, mode) for suffix in ("", LOCK_SUFFIX, CHECKPOINT_SUFFIX))
    is_begun = data is not None and data.st_size > 0 and (sidecar is None or _has_content(path))
    return Found(data is not None, is_begun, lock is not None, sidecar is not None)


def _has_content(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return not meta.is_blank(file.fileno())
    except OSError as error:
        raise translate_os_error(error, path) from error


def create_missing(path: str, mode: int, max_readers: int) -> None:
    """Create the folder, the lock file, the sidecar and the data file, as far as they do not exist.

    Raises an `OpenError`, or `StoreFull` if the disk has no room for them.
    """
    folder = os.path.dirname(path)
    _make_folder(folder)
    is_new = not os.path.exists(path) or not os.path.getsize(path)
    if is_new:
        _require_space(folder, path)
    if not os.path.lexists(path + LOCK_SUFFIX):
        _create_whole(path + LOCK_SUFFIX, mode, _LOCK_HEAD_BYTES + max_readers * _READER_BYTES)
    create_sidecar(path + CHECKPOINT_SUFFIX, mode)
    _create(path, mode)
    if is_new:  # whoever has created it
        sync_folder(folder)  # or a power cut could take a file, with all that was synced in it


def create_sidecar(path: str, mode: int) -> None:
    """Create an empty sidecar, if there is none. Raises as `create_missing` does."""
    if not os.path.lexists(path):
        _create_whole(path, mode, _SIDECAR_BYTES)


def _examine_one(path: str, mode: int) -> os.stat_result | None:
    """Return the status of a file that may be opened, or None if there is none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translate_os_error(error, path) from error
    if stat.S_ISLNK(found.st_mode):
        raise SymlinkRefused(f"{path} is a symbolic link. Give the path of the file itself: {os.path.realpath(path)}")
    if not stat.S_ISREG(found.st_mode):
        raise NotAFile(f"{path} is {_kind(found.st_mode)}. A store is a file: give the path of one, which may be new.")
    if found.st_nlink > 1 and not path.endswith((LOCK_SUFFIX, CHECKPOINT_SUFFIX)):
        raise NotAFile(
            f"{path} has {found.st_nlink} names (hard links). The lock lies beside a name, so processes that use "
            "different names would destroy each other's data: remove the other names, or copy the file."
        )
    if found.st_uid != os.geteuid() and not mode & 0o077:
        raise WrongOwner(
            f"{path} belongs to user {found.st_uid}, this process is user {os.geteuid()}. "
            "Run as that user; or share the file on purpose with mode=0660 in every process."
        )
    _check_access(path)
    return found


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "not a regular file")


def _make_folder(folder: str) -> None:
    if os.path.isdir(folder):
        return
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise NotAFile(f"{folder} is no folder, so no file can lie in it. Choose another path.") from None
    except FileNotFoundError as error:
        raise FolderMissing(
            f"The folder {folder} does not exist, and neither does the one above it. "
            "Check the path for a typing error, or create the folder."
        ) from error
    except OSError as error:
        raise translate_os_error(error, folder) from error


def _create(path: str, mode: int) -> bool:
    """Create an empty file, if there is none; return whether this process did.

    The umask is overruled: a store shared by ``mode=0660`` has to be what it was told.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        return False
    except OSError as error:
        raise translate_os_error(error, path) from error
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    return True


def _require_space(folder: str, path: str) -> None:
    """Refuse to begin a file that the disk has no room for: LMDB would leave half a first page behind."""
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < _LEAST_SPACE:
        raise StoreFull(f"The disk has no room for {path}: a new store takes {_LEAST_SPACE} bytes. Free space on it.")


def _create_whole(path: str, mode: int, size: int) -> None:
    """Create a file of zeros with its blocks.

    LMDB would make its lock file sparse and write to it through a map, which on a full disk is SIGBUS. It takes over
    whatever size it finds, so the file has to appear with its final one: hence the other name first, and a link, which
    unlike renaming replaces nothing. For the sidecar the same holds: overwriting it must never need room.
    """
    draft = f"{path}.{os.getpid()}.{threading.get_ident()}"
    try:
        if not _create(draft, mode):
            os.unlink(draft)  # of a process that died here, with the number that is ours now
            _create(draft, mode)
        with open(draft, "wb") as file:
            file.write(bytes(size))
        with suppress(FileExistsError):
            os.link(draft, path)
    except StoreError:
        raise
    except OSError as error:
        raise translate_os_error(error, path) from error
    finally:
        with suppress(OSError):
            os.unlink(draft)


def sync_folder(folder: str) -> None:
    """Have what was created or renamed in a folder survive a loss of power, as far as the folder may be read."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a folder that may be written and not listed cannot be synced either
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_access(path: str) -> None:
    """Ask without opening: closing a descriptor of the lock file would drop the locks that this process holds."""
    if os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise _read_only(path)
    raise AccessDenied(
        f"Process user {os.geteuid()} may not read and write {path} "
        f"(mode {stat.S_IMODE(os.stat(path).st_mode):#o}). Change its permissions, or share it with mode=0660."
    )


def check_content(path: str) -> None:
    """Read both meta pages: a file that is no LMDB file, or shorter than it says, would end in SIGBUS later."""
    try:
        with open(path, "rb") as file:
            wait_for_content(file.fileno())
            first, second = meta.read_both(file.fileno())
            size = os.fstat(file.fileno()).st_size
            beginning = file.read(64)
    except OSError as error:
        raise translate_os_error(error, path) from error
    if first is None or second is None:
        raise _not_lmdb(path, b"" if first else beginning)
    end = max(first, second).end
    if size < end:
        raise FileDamaged(
            f"{path} is {size} bytes long and should be at least {end}: it was cut short. "
            "Restore it from a backup; to start anew, move it away."
        )
    _check_top(path)


def _check_top(path: str) -> None:
    """See that the pages through which a file is opened are ones: LMDB would not look, and end the process."""
    try:
        with PageFile(path) as file:
            damage = damage_at_the_top(file)
    except OSError as error:
        raise translate_os_error(error, path) from error
    if damage is not None:
        raise FileDamaged(
            f"{path} is damaged: {damage} Restore it from a backup, or have `lmdbresults salvage` get out what can be "
            "read; to start anew, move it away."
        )


def wait_for_content(descriptor: int) -> bool:
    """Give a process that is writing the first two pages, right now, a tenth of a second; return whether they came."""
    for _ in range(20):
        if os.fstat(descriptor).st_size >= 2 * 4096:
            return True
        time.sleep(0.005)
    return False


def is_same_file(path: str, descriptor: int) -> bool:
    """Return whether a path leads to the file that is open under a descriptor."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _not_lmdb(path: str, beginning: bytes) -> NotLMDB:
    if meta.MAGIC.to_bytes(4, sys.byteorder) in beginning:
        return NotLMDB(f"{path} has another LMDB data format than a store, which has that of LMDB 0.9. Check the path.")
    return NotLMDB(f"{path} is no LMDB file, and was left as it is. Check the path, or move the file away.")


def translate_os_error(error: OSError, path: str) -> StoreError:
    """Return the error to raise in place of one about a path."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"The disk has no room for {path}. Free space on it.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"Process user {os.geteuid()} may not use {path}: give it permission for the file and its folder."
        )
    if error.errno == errno.EROFS:
        return _read_only(path)
    if error.errno == errno.ENOTDIR:
        return NotAFile(f"{path} cannot exist: a part of the path before its last is a file. Choose another path.")
    return OpenError(f"{path} cannot be opened: {error.strerror}.")


def _read_only(path: str) -> ReadOnlyPath:
    return ReadOnlyPath(
        f"{path} lies on a read-only file system, and even reading needs the lock file beside it. "
        "Mount it writable, or copy the file elsewhere."
    )
