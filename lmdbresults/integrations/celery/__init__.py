from lmdbresults.integrations.celery.backend import LMDBBackend

__all__ = ["LMDBBackend"]
