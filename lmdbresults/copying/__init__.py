"""Copies live results between stores: files of lmdbresults, Redis, and the layouts of Celery's own backends."""

from lmdbresults.copying.copier import Summary, copy
from lmdbresults.copying.opening import open_source, open_target
from lmdbresults.copying.verifying import verify

__all__ = ["Summary", "copy", "open_source", "open_target", "verify"]
