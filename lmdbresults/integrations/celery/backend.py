"""The Celery result backend in one LMDB file.

``result_backend = "lmdb:///var/lib/app/results.lmdb"`` is enough; Celery finds the class by its entry point.
"""

import os
from collections.abc import Mapping
from typing import Any

from celery.exceptions import ImproperlyConfigured

from lmdbresults.errors import ConfigurationError
from lmdbresults.integrations.celery.effects import Effects
from lmdbresults.integrations.celery.store_backend import StoreBackend
from lmdbresults.integrations.kombu import identity_of
from lmdbresults.integrations.transport_options import STORE_OPTIONS
from lmdbresults.store import LMDBStore
from lmdbresults.store.lmdb import open_store

__all__ = ["LMDBBackend"]


class LMDBBackend(StoreBackend):
    """Task results in one LMDB file that every process on the machine opens.

    ``url`` is ``lmdb:///absolute/path`` or ``lmdb://relative/path``, with options such as ``?durability=none``; see
    `lmdbresults.options.Options`. Raises ``ImproperlyConfigured`` for a bad URL, an `OpenError` if the file cannot be
    opened: when the backend is made, not when the first result is lost.
    """

    store_options = tuple(name for name in STORE_OPTIONS if name != "global_keyprefix")
    effects_class = Effects
    store: LMDBStore

    def __init__(self, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(url=url, **kwargs)
        self.identity = identity_of(self.store)

    def _open(self, url: str | None, options: Mapping[str, Any]) -> LMDBStore:
        if not url:
            raise ImproperlyConfigured('The LMDB result backend needs a file: result_backend = "lmdb:///path/to/file".')
        try:
            return open_store(url, **options)
        except ConfigurationError as error:
            raise ImproperlyConfigured(str(error)) from error

    def cleanup(self) -> None:
        """Delete expired results, for a file that is not written to: writing does so as well."""
        self.store.sweep()
        super().cleanup()

    def flush(self) -> None:
        """Return once everything stored so far survives a power failure."""
        self.store.flush()

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a copy of the store to a file, while others go on; see `lmdbresults.store.base.Store.backup`."""
        self.store.backup(path, overwrite=overwrite)
