"""All that is examined, in the order in which a reader needs it."""

import os
import time
from collections.abc import Iterator

from lmdbresults.errors import StoreError
from lmdbresults.options import Options
from lmdbresults.store.findings import ERROR, Finding
from lmdbresults.store.lmdb.doctor import machine, place, processes, state
from lmdbresults.store.lmdb.file import paths

__all__ = ["examine"]


def examine(options: Options) -> Iterator[Finding]:
    """Yield what there is to say about a file, which may be missing, and about its surroundings. Changes nothing.

    Only for a process that does not have the file open: reading the lock file would drop the locks of this process.
    """
    yield from place.file_system(options)
    yield from place.cleaners(options)
    allowed = list(place.permissions(options))
    yield from allowed
    yield from place.space(options)
    refused = any(one.level == ERROR for one in allowed) and not os.access(options.path, os.R_OK | os.W_OK)
    if not refused:
        said = {one.text for one in allowed}
        yield from (one for one in _examine_file(options) if one.text not in said)
    yield from machine.limits(options)
    yield from machine.versions()


def _examine_file(options: Options) -> Iterator[Finding]:
    now = time.time()
    try:
        found = paths.examine(options.path, options.mode)
        seen = state.look(options.path) if found.has_file and found.has_sidecar else None
    except OSError as error:  # a `StoreError` is one
        refusal = error if isinstance(error, StoreError) else paths.translate_os_error(error, options.path)
        yield Finding("file", ERROR, str(refusal))
        return
    yield from state.content(options, found, seen)
    if seen is None:
        return
    yield from state.namespace(seen)
    yield from state.durability(options, seen, now)
    yield from processes.holders(options, seen)
    if not seen.is_elsewhere:
        yield from processes.readers(options, seen, now)
    yield from processes.sockets(options)
