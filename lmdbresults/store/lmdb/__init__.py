from lmdbresults.store.lmdb.store import LMDBStore, Stats, open_store

__all__ = ["LMDBStore", "Stats", "open_store"]
