"""Storage: the port that backends use, and the store that keeps everything in one LMDB file."""

from lmdbresults.options import Options
from lmdbresults.store.base import KEEP, ReadTransaction, Store, WriteTransaction
from lmdbresults.store.lmdb.store import LMDBStore, Stats, open_store

__all__ = ["KEEP", "LMDBStore", "Options", "ReadTransaction", "Stats", "Store", "WriteTransaction", "open_store"]
