"""Opening the store that a command is about."""

import os
from dataclasses import replace

from lmdbresults.errors import ConfigurationError, FolderMissing
from lmdbresults.options import Options, options_from_url
from lmdbresults.store import LMDBStore

__all__ = ["existing", "opened"]


def existing(path_or_url: str) -> Options:
    """Return the options of a store that exists. Raises `FolderMissing`, as nothing is to be created here."""
    options = options_from_url(path_or_url)
    if not os.path.lexists(options.path):
        raise FolderMissing(f"{options.path} does not exist. Check the path for a typing error.")
    return options


def opened(options: Options) -> LMDBStore:
    """Open a store as it is open elsewhere: without checkpoints if others use it so."""
    try:
        return LMDBStore(options)
    except ConfigurationError:
        return LMDBStore(replace(options, durability="none"))
