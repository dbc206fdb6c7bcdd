"""Result backends that need no Celery: they do what Celery's base classes do, over a `Store`."""

from lmdbresults.backends.backend import Backend
from lmdbresults.backends.base import BaseBackend, DisabledBackend
from lmdbresults.backends.keyvalue import KeyValueStoreBackend
from lmdbresults.backends.lmdb import LMDBBackend, open_backend
from lmdbresults.backends.store import StoreBackend

__all__ = [
    "Backend",
    "BaseBackend",
    "DisabledBackend",
    "KeyValueStoreBackend",
    "LMDBBackend",
    "StoreBackend",
    "open_backend",
]
