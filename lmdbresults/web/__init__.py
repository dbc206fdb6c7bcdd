"""A page that shows what a store holds. Needs the extra ``web``: ``pip install 'lmdbresults[web]'``."""

from lmdbresults.web.app import create_app

__all__ = ["create_app"]
