"""Storage: the port that backends use, the store that keeps everything in one LMDB file, and the one on a server."""

from lmdbresults.options import Options
from lmdbresults.store.base import KEEP, ReadTransaction, Store, WriteTransaction
from lmdbresults.store.lmdb.store import LMDBStore, Stats
from lmdbresults.store.opening import open_existing, open_store

__all__ = [
    "KEEP",
    "LMDBStore",
    "Options",
    "ReadTransaction",
    "Stats",
    "Store",
    "WriteTransaction",
    "open_existing",
    "open_store",
]
