"""The examination of a file and of its surroundings: what could go wrong here, and the cure."""

from lmdbresults.store.lmdb.doctor.examination import examine
from lmdbresults.store.lmdb.doctor.finding import ERROR, OK, WARNING, Finding

__all__ = ["ERROR", "OK", "WARNING", "Finding", "examine"]
