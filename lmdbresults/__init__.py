"""Task results in one LMDB file, without a server: a store, and a result backend for Celery."""

from lmdbresults import errors, states
from lmdbresults.errors import (
    ConfigurationError,
    OpenError,
    RecordDamaged,
    ResultError,
    SerializationError,
    StoreError,
    StoreFull,
)
from lmdbresults.options import Options
from lmdbresults.store import LMDBStore, Store, open_store

__all__ = [
    # stores
    "LMDBStore",
    "Options",
    "Store",
    "open_store",
    # states and errors
    "ConfigurationError",
    "OpenError",
    "RecordDamaged",
    "ResultError",
    "SerializationError",
    "StoreError",
    "StoreFull",
    "errors",
    "states",
]
