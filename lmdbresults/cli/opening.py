"""Opening the store that a command works on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from lmdbresults.errors import ConfigurationError, FolderMissing
from lmdbresults.monitoring import Monitor
from lmdbresults.options import Options, options_from_url
from lmdbresults.store import LMDBStore

__all__ = ["existing", "monitored", "opened"]


def existing(path_or_url: str | Options) -> Options:
    """Return the options of an existing store. Raises `FolderMissing`: commands never create a store."""
    options = path_or_url if isinstance(path_or_url, Options) else options_from_url(path_or_url)
    if not os.path.lexists(options.path):
        raise FolderMissing(f"{options.path} does not exist. Check the spelling of the path.")
    return options


def opened(options: Options) -> LMDBStore:
    """Open a store with the durability that other processes use for it."""
    try:
        return LMDBStore(options)
    except ConfigurationError:
        return LMDBStore(replace(options, durability="none"))


@contextmanager
def monitored(path_or_url: str | Options) -> Iterator[Monitor]:
    """Open a store and show it."""
    with opened(existing(path_or_url)) as store:
        yield Monitor(store)
