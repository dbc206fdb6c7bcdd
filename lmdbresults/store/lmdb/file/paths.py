"""Checks of a path before LMDB opens it, and the creation of the files.

LMDB follows symbolic links, creates files that other users may read, takes an empty file for a new one, and a short one
ends the process by SIGBUS. So the path is examined first, which changes nothing, and the files are created here.
"""

import errno
import os
import re
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
from lmdbresults.options import Options
from lmdbresults.store.lmdb.file import meta
from lmdbresults.store.lmdb.file.btree import damage_at_the_top
from lmdbresults.store.lmdb.file.pages import PageFile

__all__ = [
    "CHECKPOINT_SUFFIX",
    "LOCK_SUFFIX",
    "LOG_SUFFIX",
    "Found",
    "canonical",
    "check_content",
    "create_log",
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
LOG_SUFFIX: Final = "-log"

#: The sizes that make up LMDB's lock file: its head and one slot per reader.
_LOCK_HEAD_BYTES: Final = 128
_READER_BYTES: Final = 64
#: Five pages (sidecar.py).
_SIDECAR_BYTES: Final = 5 * 4096

#: Bytes that must be free on the disk for a new file.
_LEAST_SPACE: Final = 1 << 20
#: Bytes that must be free besides those of a log: the disk must not be full because of it.
_LOG_HEADROOM: Final = 16 << 20


def canonical(path: str) -> str:
    """Return the path with the links among its folders resolved: one name for each file that is not a link itself."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


class Found(NamedTuple):
    """Which files exist at a path."""

    has_file: bool
    """Whether the data file exists."""
    has_content: bool
    """Whether anything was ever committed to it. A power failure may leave a partial file without any commit."""
    has_lock: bool
    """Whether the lock file exists."""
    has_sidecar: bool
    """Whether the sidecar exists."""


def examine(path: str, mode: int) -> Found:
    """Return what exists at ``path``, which may be opened as a store. Changes nothing. Raises an `OpenError`."""
    data, lock = _examine_one(path, mode), _examine_one(path + LOCK_SUFFIX, mode)
    sidecar = _examine_one(path + CHECKPOINT_SUFFIX, mode)
    _examine_one(path + LOG_SUFFIX, mode)
    has_content = data is not None and data.st_size > 0 and (sidecar is None or _has_content(path))
    return Found(data is not None, has_content, lock is not None, sidecar is not None)


def _has_content(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return not meta.read_head(file.fileno()).is_blank()
    except OSError as error:
        raise translate_os_error(error, path) from error


def create_missing(options: Options) -> None:
    """Create the lock file, the sidecar and the data file if they are missing; the folder if the options say so.

    Raises an `OpenError`, or `StoreFull` if the disk has no room for them.
    """
    path, mode = options.path, options.mode
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        _create_folder(folder, options)
    is_new = not os.path.exists(path) or not os.path.getsize(path)
    if is_new:
        _require_space(folder, path, _LEAST_SPACE)
    if not os.path.lexists(path + LOCK_SUFFIX):
        _create_whole(path + LOCK_SUFFIX, mode, _LOCK_HEAD_BYTES + options.max_readers * _READER_BYTES, path)
    create_sidecar(path + CHECKPOINT_SUFFIX, mode)
    _create(path, mode, path)
    if is_new:  # whichever process has created it
        sync_folder(folder)  # or a power failure could take the file, with all that was synced in it


def create_sidecar(path: str, mode: int) -> None:
    """Create an empty sidecar if it is missing. Raises as `create_missing` does."""
    if not os.path.lexists(path):
        _create_whole(path, mode, _SIDECAR_BYTES, path.removesuffix(CHECKPOINT_SUFFIX))


def create_log(path: str, mode: int, size: int) -> None:
    """Create a log of so many zero bytes, all of them on the disk, if it is missing. Raises as `create_missing` does.

    Zeros are written: blocks that are only allocated would have each sync of the log change the file system's tables.
    """
    if os.path.lexists(path):
        return
    folder, store = os.path.dirname(path), path.removesuffix(LOG_SUFFIX)
    _require_space(folder, path, size + _LOG_HEADROOM)
    _create_whole(path, mode, size, store, is_synced=True)


def _examine_one(path: str, mode: int) -> os.stat_result | None:
    """Return the status of a file that may be opened; None if it does not exist."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translate_os_error(error, path) from error
    if stat.S_ISLNK(found.st_mode):
        raise SymlinkRefused(f"{path} is a symbolic link. Give the path of the file itself: {os.path.realpath(path)}")
    if not stat.S_ISREG(found.st_mode):
        raise NotAFile(f"{path} is {_kind(found.st_mode)}. Give the path of a file, which may be new.")
    if found.st_nlink > 1 and not path.endswith((LOCK_SUFFIX, CHECKPOINT_SUFFIX, LOG_SUFFIX)):
        raise NotAFile(
            f"{path} has {found.st_nlink} names (hard links). Each name has its own lock file, so processes that use "
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


def _create_folder(folder: str, options: Options) -> None:
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent):
        _create_folder(parent, options)
    if not options.create_folder:
        raise FolderMissing(
            f"{options.path}: the folder {folder} does not exist. Check the path, and create the folder; or set "
            "create_folder=1, in a URL by ?create_folder=1."
        )
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        if not os.path.isdir(folder):  # else another process was faster
            raise NotAFile(f"{folder} is not a folder, so no file can be in it. Choose another path.") from None
    except OSError as error:
        raise translate_os_error(error, folder) from error


def _create(path: str, mode: int, store: str) -> bool:
    """Create an empty file if it is missing; return whether this process did. Errors name the ``store`` it is for.

    The umask does not count: the mode of a shared store must be the one of the options.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        return False
    except PermissionError as error:
        raise AccessDenied(
            f"User {os.geteuid()} may not create {store}: give it write permission for the folder "
            f"{os.path.dirname(store)}."
        ) from error
    except OSError as error:
        raise translate_os_error(error, store) from error
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    return True


def _require_space(folder: str, path: str, size: int) -> None:
    """Raise `StoreFull` if the disk has no room for a new file: LMDB would leave half a first page behind."""
    disk = os.statvfs(folder)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < size:
        raise StoreFull(f"The disk has no room for {path}, for which {size} bytes must be free. Free space on it.")


def _create_whole(path: str, mode: int, size: int, store: str, *, is_synced: bool = False) -> None:
    """Create a file of zeros, with all its blocks allocated.

    LMDB would create a sparse lock file and write to it through a map, which ends in SIGBUS on a full disk. It keeps
    the size that it finds, so the file must appear with its final size: hence the other name first, and a link, which
    unlike a rename replaces nothing. The same holds for the sidecar: overwriting it must never need room.
    """
    draft = f"{path}.{os.getpid()}.{threading.get_ident()}.draft"
    _remove_drafts(path)
    try:
        if not _create(draft, mode, store):
            os.unlink(draft)  # the folder may not be listed
            _create(draft, mode, store)
        with open(draft, "wb") as file:
            file.write(bytes(size))
            if is_synced:
                file.flush()
                os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    except StoreError:
        raise
    except OSError as error:
        raise translate_os_error(error, path) from error
    finally:
        with suppress(OSError):
            os.unlink(draft)


def _remove_drafts(path: str) -> None:
    """Remove what processes have left that were killed as they created a file."""
    folder, name = os.path.split(path)
    with suppress(OSError):
        for each in os.listdir(folder):
            found = re.fullmatch(rf"{re.escape(name)}\.([0-9]{{1,9}})\.[0-9]+\.draft", each)
            if found and (int(found[1]) == os.getpid() or not _exists(int(found[1]))):
                os.unlink(f"{folder}/{each}")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process of another user
        return True
    return True


def sync_folder(folder: str) -> None:
    """Make what was created or renamed in a folder survive a power failure, if the folder may be read."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # what may not be listed cannot be synced either
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_access(path: str) -> None:
    """Check the permissions without opening: closing the lock file would drop the locks that this process holds."""
    if os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise _read_only(path)
    raise AccessDenied(
        f"User {os.geteuid()} may not read and write {path} "
        f"(mode {stat.S_IMODE(os.stat(path).st_mode):#o}). Change its permissions, or share it with mode=0660."
    )


def check_content(path: str) -> None:
    """Raise an `OpenError` for a file that is not LMDB's, or damaged so that opening it would end the process."""
    try:
        with open(path, "rb") as file:
            wait_for_content(file.fileno())
            head = meta.read_head(file.fileno())
    except OSError as error:
        raise translate_os_error(error, path) from error
    if head.first is None or head.second is None:
        raise _not_lmdb(path, b"" if head.first else head.data[:64])
    end = max(head.first, head.second).end
    if head.size < end:
        raise FileDamaged(
            f"{path} is {head.size} bytes long and should be at least {end}: it was truncated. "
            "Restore it from a backup, or move it away."
        )
    _check_top(path)


def _check_top(path: str) -> None:
    """Check the pages that opening the file reads: LMDB would not check them, and end the process."""
    try:
        with PageFile(path) as file:
            damage = damage_at_the_top(file)
    except OSError as error:
        raise translate_os_error(error, path) from error
    if damage is not None:
        raise FileDamaged(
            f"{path} is damaged: {damage} Restore it from a backup, copy what can be read with `lmdbresults salvage`, "
            "or move it away."
        )


def wait_for_content(descriptor: int) -> bool:
    """Wait up to 0.1 seconds while another process creates the first two pages; return whether they exist."""
    for _ in range(20):
        if os.fstat(descriptor).st_size >= 2 * 4096:
            return True
        time.sleep(0.005)
    return False


def is_same_file(path: str, descriptor: int) -> bool:
    """Return whether a path leads to the file of an open descriptor."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _not_lmdb(path: str, beginning: bytes) -> NotLMDB:
    if meta.MAGIC.to_bytes(4, sys.byteorder) in beginning:
        return NotLMDB(f"{path} has a data format other than that of LMDB 0.9, which a store needs. Check the path.")
    return NotLMDB(f"{path} is not an LMDB file, and was left as it is. Check the path, or move the file away.")


def translate_os_error(error: OSError, path: str) -> StoreError:
    """Return the error to raise in place of one of the file system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"The disk has no room for {path}. Free space on it.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(f"User {os.geteuid()} may not use {path}: give it permission for the file and its folder.")
    if error.errno == errno.EROFS:
        return _read_only(path)
    if error.errno == errno.ENOTDIR:
        return NotAFile(f"{path} cannot exist: a folder of the path is a file. Choose another path.")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return OpenError(f"{path} needs a file descriptor ({error.strerror}): close files, or raise ulimit -n.")
    return OpenError(f"{path} cannot be opened: {error.strerror}.")


def _read_only(path: str) -> ReadOnlyPath:
    return ReadOnlyPath(
        f"{path} is on a read-only file system, and even reading needs the lock file beside it. "
        "Mount it writable, or copy the file elsewhere."
    )
