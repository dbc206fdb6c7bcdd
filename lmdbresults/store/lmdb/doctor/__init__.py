"""The examination of a file and of its surroundings: what could go wrong here, and the cure."""

from lmdbresults.store.lmdb.doctor.examination import examine

__all__ = ["examine"]
