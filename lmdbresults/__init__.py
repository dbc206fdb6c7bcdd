"""Celery without a server: broker and results in one LMDB file, and a plain store for everything else."""

from lmdbresults import errors, states
from lmdbresults.app import App
from lmdbresults.backends import DisabledBackend, LMDBBackend, open_backend
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
from lmdbresults.results import AsyncResult, GroupResult, ResultSet
from lmdbresults.store import LMDBStore, Store, open_store

__version__ = "0.2.0"

__all__ = [
    # stores
    "LMDBStore",
    "Options",
    "Store",
    "open_store",
    # backends
    "App",
    "AsyncResult",
    "DisabledBackend",
    "GroupResult",
    "LMDBBackend",
    "ResultSet",
    "open_backend",
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
