"""Copies of a store that others may be writing to meanwhile."""

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

#: By so much a file may grow between being measured and being mapped.
_HEADROOM = 64 << 20


def backup(path: str, target: str, size: int, overwrite: bool, progress: Progress | None) -> None:
    """Copy a data file that is open in this process, without its free pages, to ``target``; see `Store.backup`.

    Another process does so: it holds up no fork of this one, and a damaged page takes nobody else down.
    """
    refuse_target(path, target, overwrite)
    draft = f"{target}.{os.urandom(6).hex()}"

    def report() -> None:
        if progress is not None:
            with suppress(FileNotFoundError):  # not begun yet
                progress(min(os.path.getsize(draft), size), size)

    order = json.dumps({"source": path, "draft": draft})
    try:
        failure = json.loads(
            run_isolated("lmdbresults.store.lmdb.maintenance.backup", [order], meanwhile=report if progress else None)
        )
        if failure is not None:
            raise paths.translate_os_error(OSError(*failure), target)
        publish(draft, target)
    except SubprocessFailed as error:
        raise FileDamaged(
            f"{path} cannot be copied: the process that read it {error}. "
            "If it is damaged, which `lmdbresults check` tells, rescue what can be read by `lmdbresults salvage`."
        ) from error
    finally:
        with suppress(OSError):  # it was renamed, or never made
            os.unlink(draft)
    if progress is not None:
        progress(size, size)


def refuse_target(source: str, target: str, overwrite: bool) -> None:
    """Raise an error if the copy of a file must not be written to ``target``. Nothing has been changed by then."""
    try:
        if os.path.exists(target) and os.path.samefile(source, target):
            raise TargetExists(f"{target} is the file that is to be copied. Give another path for the copy.")
        if os.path.lexists(target) and not overwrite:
            raise TargetExists(f"{target} exists already. Give another path, or say that it may be overwritten.")
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise paths.translate_os_error(error, target) from error
    if os.path.isdir(target):
        raise NotAFile(f"{target} is a folder. Give the path of a file, which may be new.")
    if os.path.lexists(target + paths.LOCK_SUFFIX) and _may_be_in_use(target):
        raise TargetExists(
            f"{target}{paths.LOCK_SUFFIX} exists, and processes have {target} open, or had it when it was deleted. "
            "Give another path, or end them and delete what is left."
        )


def _may_be_in_use(path: str) -> bool:
    """Return whether a process has a store open: each holds a lock on the data file. True if that is gone."""
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
    """Let a complete file appear under its name, for good. Raises a `StoreError`."""
    try:
        os.rename(draft, target)
        paths.sync_folder(os.path.dirname(target))
    except OSError as error:
        raise paths.translate_os_error(error, target) from error


def main(arguments: list[str]) -> None:
    """Copy a file in a process of its own; print number and text of the error of the file system, or null, as JSON."""
    (order,) = map(json.loads, arguments)
    failure = None
    try:
        _copy(order["source"], order["draft"])
    except (OSError, lmdb.Error) as error:
        code = error.code if isinstance(error, lmdb.Error) else error.errno
        if not code or code < 0:  # an error of LMDB itself
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
