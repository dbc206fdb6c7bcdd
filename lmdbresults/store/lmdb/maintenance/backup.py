"""Backup: a copy of a store, as of one moment, while other processes use it."""

import fcntl
import json
import os
import sys
from contextlib import suppress

import lmdb

from lmdbresults.errors import FileDamaged, NotAFile, StoreError, TargetExists
from lmdbresults.process.isolated import SubprocessFailed, run_isolated
from lmdbresults.store.base import Progress
from lmdbresults.store.lmdb.file import paths

__all__ = ["backup", "main", "publish", "refuse_target"]

#: Bytes by which the file may grow between two system calls.
_HEADROOM = 64 << 20


def backup(path: str, target: str, size: int, overwrite: bool, progress: Progress | None) -> None:
    """Copy a data file that is open in this process, without its free pages, to ``target``; see `LMDBStore.backup`.

    A subprocess copies, so that forks of this process need not wait, and a damaged page can only crash the subprocess.
    """
    refuse_target(path, target, overwrite)
    draft = f"{target}.{os.urandom(6).hex()}"

    def report() -> None:
        if progress is not None:
            with suppress(FileNotFoundError):  # the subprocess has not created it yet
                progress(min(os.path.getsize(draft), size), size)

    order = json.dumps({"source": path, "draft": draft})
    try:
        failure = json.loads(run_isolated(__name__, [order], meanwhile=report if progress else None))
        if failure is not None:
            raise paths.translate_os_error(OSError(*failure), target)
        publish(draft, target)
    except SubprocessFailed as error:
        raise FileDamaged(
            f"{path} cannot be copied: the process that read it {error}. "
            "Run `lmdbresults check` to see whether it is damaged, and `lmdbresults salvage` if so."
        ) from error
    finally:
        with suppress(OSError):  # it was renamed, or never created
            os.unlink(draft)
    if progress is not None:
        progress(size, size)


def refuse_target(source: str, target: str, overwrite: bool | None) -> None:
    """Raise `TargetExists` or `NotAFile` if a copy of ``source`` must not be written to ``target``.

    ``overwrite`` is None where the caller cannot replace a file.
    """
    try:
        if os.path.exists(target) and os.path.samefile(source, target):
            raise TargetExists(f"{target} is the file to copy. Choose another path for the copy.")
        if os.path.lexists(target) and not overwrite:
            cure = "delete it" if overwrite is None else "replace it with --overwrite (overwrite=True)"
            raise TargetExists(f"{target} exists already. Choose another path, or {cure}.")
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise paths.translate_os_error(error, target) from error
    if os.path.isdir(target):
        raise NotAFile(f"{target} is a folder. Choose the path of a file.")
    if os.path.lexists(target + paths.LOCK_SUFFIX) and _may_be_in_use(target):
        raise TargetExists(
            f"{target} is open in a process, or was open when it was deleted ({target}{paths.LOCK_SUFFIX} exists). "
            "Choose another path, or stop the process and delete both files."
        )


def _may_be_in_use(path: str) -> bool:
    """Return whether a process may have a store open: each one locks the data file. True if the file is missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def publish(draft: str, target: str) -> None:
    """Rename a complete file to its final name, durably. Raises a `StoreError`."""
    try:
        os.rename(draft, target)
        paths.sync_folder(os.path.dirname(target))
    except OSError as error:
        raise paths.translate_os_error(error, target) from error


def main(arguments: list[str]) -> None:
    """Copy a file; print the number and text of an error of the file system as JSON, or null."""
    (order,) = map(json.loads, arguments)
    failure = None
    try:
        _copy(order["source"], order["draft"])
    except (OSError, lmdb.Error) as error:
        code = error.code if isinstance(error, lmdb.Error) else error.errno
        if not code or code < 0:  # LMDB's own error
            raise
        failure = (code, os.strerror(code))
    sys.stdout.write(json.dumps(failure))


def _copy(source: str, draft: str) -> None:
    size = os.path.getsize(source) + _HEADROOM
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with lmdb.open(os.fsencode(source), map_size=size, subdir=False, readonly=True, create=False) as handle:
            handle.copyfd(descriptor, compact=True)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
