"""Figures about the data file of a store."""

import os
import time

from lmdbresults.monitoring.values import FileFigures
from lmdbresults.store.base import Measurable, Store

__all__ = ["read_file"]


def read_file(store: Store) -> FileFigures | None:
    """Return figures about the data file; None if the store is not a file."""
    if not isinstance(store, Measurable):
        return None
    stats = store.stats()
    if not hasattr(stats, "live_size"):
        return None
    made_at = stats.checkpoint_at
    return FileFigures(
        path=os.fspath(stats.path),
        file_size=stats.file_size,
        live_size=stats.live_size,
        free_size=max(stats.file_size - stats.live_size, 0),
        max_size=stats.max_size,
        records=stats.records,
        readers=stats.readers,
        oldest_reader=None if stats.oldest_reader is None else str(stats.oldest_reader),
        checkpoint_age=None if made_at is None else max(time.time() - made_at, 0.0),
        waiters=stats.waiters,
    )
