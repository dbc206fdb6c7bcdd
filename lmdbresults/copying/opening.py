"""The sides of a copy by their URLs and layouts."""

from collections.abc import Collection
from importlib import import_module
from typing import Any, Final

from lmdbresults import serialization
from lmdbresults.copying.celery_metas import CeleryMetas
from lmdbresults.copying.celery_others import CeleryFolder, CelerySqlite
from lmdbresults.copying.celery_redis import CeleryRedis
from lmdbresults.copying.sides import Source, Target
from lmdbresults.copying.stores import StoreSource, StoreTarget
from lmdbresults.errors import ConfigurationError
from lmdbresults.options import options_from_url
from lmdbresults.store import Store, open_existing, open_store
from lmdbresults.store.opening import is_on_server, open_as_it_is

__all__ = ["LAYOUTS", "open_source", "open_target"]

#: The layouts of a Redis database: that of lmdbresults, and that of Celery's own backend.
LAYOUTS: Final = ("lmdbresults", "celery")
#: Seconds for which Celery keeps results by default.
_EXPIRES: Final = 86400.0


def open_source(
    url: str,
    *,
    layout: str = "lmdbresults",
    accept: Collection[str] = serialization.DEFAULT_ACCEPT,
    serializer: str = "json",
    expires: float | None = _EXPIRES,
    keyprefix: str = "",
) -> Source:
    """Open a side to read from: a store of lmdbresults, or results of Celery's own backends.

    The latter are ``redis://`` with the layout ``celery``, ``file://`` and ``db+sqlite://``. ``accept`` names the
    serializers that may be decoded, ``serializer`` that of the database. ``expires``: for how many seconds results in
    files and databases, which do not say it, are kept from when they were stored. ``keyprefix`` is Celery's
    ``global_keyprefix``. Raises `ConfigurationError`, or an `OpenError` if there is nothing.
    """
    metas = CeleryMetas(accept)
    if url.startswith("file://"):
        return CeleryFolder(url.removeprefix("file://").removeprefix("localhost"), metas, expires)
    if url.startswith("db+"):
        if not url.startswith("db+sqlite:///"):
            raise ConfigurationError(f"{url!r}: of databases, only db+sqlite:///path can be read.")
        return CelerySqlite(url.removeprefix("db+sqlite:///"), metas, expires, serializer)
    if layout == "celery":
        return _celery_redis(url, metas, keyprefix)
    return StoreSource(open_existing(url))


def open_target(
    url: str,
    *,
    layout: str = "lmdbresults",
    accept: Collection[str] = serialization.DEFAULT_ACCEPT,
    serializer: str | None = None,
    keyprefix: str = "",
) -> Target:
    """Open a side to write to: a store of lmdbresults, which is created, or ``redis://`` with the layout ``celery``.

    ``serializer``: the ``result_serializer`` of those that read Celery's layout; None: each result keeps its own.
    """
    if layout == "celery":
        return _celery_redis(url, CeleryMetas(accept, serializer), keyprefix)
    if url.startswith(("file://", "db+")):
        raise ConfigurationError(f"{url!r} can be copied from, but not to: use lmdb:// or redis://.")
    return StoreTarget(_made(url))


def _celery_redis(url: str, metas: CeleryMetas, keyprefix: str) -> CeleryRedis:
    try:
        driver: Any = import_module("redis")
    except ModuleNotFoundError:
        raise ConfigurationError("Redis needs a client: pip install 'lmdbresults[redis]'") from None
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError(f"{url!r} is no database in Celery's layout: must be redis://, rediss:// or unix://.")
    return CeleryRedis(driver, url, metas, keyprefix)


def _made(url: str) -> Store:
    """Open a store, and make the file of one that does not exist."""
    store: Store = open_store(url) if is_on_server(url) else open_as_it_is(options_from_url(url))
    return store
