"""Replay: the commits that the log has are done again, in a file that was rolled back to a checkpoint.

The pages of the checkpoint are kept from reuse meanwhile, as always: if this is cut off, it begins again from there.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import lmdb

from lmdbresults.errors import OpenError
from lmdbresults.options import MIN_SIZE, Options
from lmdbresults.store.lmdb.durability import log_file
from lmdbresults.store.lmdb.durability.log_file import Record
from lmdbresults.store.lmdb.durability.sidecar import Checkpoint, Sidecar
from lmdbresults.store.lmdb.file import paths
from lmdbresults.store.lmdb.file.lmdb_errors import translate_error

__all__ = ["logged_after", "replay"]

logger = logging.getLogger("lmdbresults")

#: What the map must hold besides the file: all pages of it once more, and what is new.
_SPARE: Final = 256 << 20


def logged_after(path: str, checkpoint: Checkpoint) -> list[Record]:
    """Return the records of the commits that follow a checkpoint, as far as the log of the data file has them.

    Raises `OpenError` if the log cannot be read.
    """
    if not (checkpoint.is_logged and checkpoint.is_pinned):
        return []
    log = path + paths.LOG_SUFFIX
    try:
        with open(log, "rb", opener=_opener) as file:
            return list(log_file.records_after(file.fileno(), checkpoint.txn, checkpoint.life, checkpoint.identity))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OpenError(
            f"{log} cannot be read ({error.strerror}), and it has what was stored after the last checkpoint. Copy all "
            "files of the store to another disk and try again there; to open the store without those commits, move the "
            "log away."
        ) from error


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def replay(sidecar: Sidecar, checkpoint: Checkpoint, options: Options) -> Checkpoint:
    """Do again what follows a checkpoint, at which the file is; return the checkpoint at which it is then.

    No process has the file open, and none can open it. Raises a `StoreError`; then the file is as it was.
    """
    records = logged_after(options.path, checkpoint)
    if not records:
        return checkpoint
    try:
        with _opened(options) as handle:
            pin = handle.begin()
            with handle.begin(write=True) as txn:
                log_file.redo(txn, records)
            handle.sync(True)
            pin.abort()
    except lmdb.Error as error:
        raise translate_error(error, options) from error
    newest = sidecar.head().newest
    assert newest is not None, "LMDB has just written it"
    logger.warning("%s: %d later commits, which its log has, were done again.", options.path, len(records))
    return checkpoint._replace(txn=newest.txn, meta=newest.data, made_at=time.time())


@contextmanager
def _opened(options: Options) -> Iterator[lmdb.Environment]:
    size = min(options.max_size, 2 * os.path.getsize(options.path) + _SPARE)
    while True:
        try:
            handle = lmdb.open(
                os.fsencode(options.path),
                map_size=size,
                subdir=False,
                sync=False,
                metasync=False,
                create=False,
                max_readers=options.max_readers,
                max_spare_txns=0,
                readahead=False,
                lib_version=0,
            )
            break
        except lmdb.MemoryError:
            size //= 2  # RLIMIT_AS leaves no address space of that size
            if size < MIN_SIZE:
                raise
    try:
        yield handle
    finally:
        handle.close()
