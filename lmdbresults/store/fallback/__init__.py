"""Two stores as one while results move from the old one to the new one."""

from lmdbresults.store.fallback.store import FallbackStore

__all__ = ["FallbackStore"]
