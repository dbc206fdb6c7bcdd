"""Opening the store that a command works on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lmdbresults.errors import ConfigurationError, FolderMissing
from lmdbresults.monitoring import Monitor
from lmdbresults.options import Options, options_from_url
from lmdbresults.store import Store, open_store
from lmdbresults.store.opening import is_on_server, open_as_it_is

__all__ = ["existing", "monitored", "opened", "opened_anywhere"]


def existing(path_or_url: str | Options) -> Options:
    """Return the options of an existing store. Raises `FolderMissing`: commands never create a store."""
    if isinstance(path_or_url, str) and is_on_server(path_or_url):
        raise ConfigurationError("This command is for files, and the URL is that of a server.")
    options = path_or_url if isinstance(path_or_url, Options) else options_from_url(path_or_url)
    if not os.path.lexists(options.path):
        raise FolderMissing(f"{options.path} does not exist. Check the spelling of the path.")
    return options


#: Seconds in which a server must answer a command, unless the URL has a ``retry_timeout``.
_REACH: Final = 3.0

#: Opens a file with the durability that other processes use for it.
opened: Final = open_as_it_is


def opened_anywhere(path_or_url: str | Options) -> Store:
    """Open an existing store, of a file or on a server. Raises `StoreUnavailable` if the server does not answer."""
    if isinstance(path_or_url, str) and is_on_server(path_or_url):
        if "retry_timeout=" not in path_or_url:
            with open_store(path_or_url, retry_timeout=_REACH) as probe:
                probe.now()
        store: Store = open_store(path_or_url)
        return store
    return opened(existing(path_or_url))


@contextmanager
def monitored(path_or_url: str | Options) -> Iterator[Monitor]:
    """Open a store, of a file or on a server, and show it."""
    with opened_anywhere(path_or_url) as store:
        yield Monitor(store)
