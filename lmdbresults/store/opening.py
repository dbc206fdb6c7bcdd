"""Which engine keeps a store, by its URL: the one place that knows all schemes."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, overload
from urllib.parse import parse_qsl, urlencode

from lmdbresults.errors import ConfigurationError, FolderMissing
from lmdbresults.options import SCHEME, Options, options_from_url
from lmdbresults.store.base import Store
from lmdbresults.store.lmdb.store import LMDBStore

__all__ = ["FALLBACK", "is_on_server", "open_as_it_is", "open_existing", "open_store"]

#: The option of a store on a server that names the store which it replaces; see `FallbackStore`.
FALLBACK: Final = "fallback"


@overload
def open_store(path_or_url: os.PathLike[str], **options: Any) -> LMDBStore: ...


@overload
def open_store(path_or_url: str, **options: Any) -> Any: ...


def open_store(path_or_url: str | os.PathLike[str], **options: Any) -> Any:
    """Open the store at a path or URL: a file, which is created if it does not exist, or a database on a server.

    A path or ``lmdb://`` gives an `LMDBStore`, with the options of `lmdbresults.options.Options`, such as
    ``durability="none"``. ``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://``, ``redis+sentinel://`` and the
    same with ``valkey`` give a `RedisStore`, with those of `lmdbresults.store.redis.RedisOptions`, and ``fallback``:
    the file in which reads also look; see `FallbackStore`. Options win over the URL's.

    Raises `ConfigurationError` for a bad URL or option, or an `OpenError` if the file cannot or must not be opened. A
    server is connected when it is first used.
    """
    if not is_on_server(path_or_url):
        return LMDBStore(options_from_url(path_or_url, **options))
    from lmdbresults.store.redis import RedisStore, redis_options_from_url

    url, fallback = _split_fallback(os.fspath(path_or_url), options)
    if fallback and is_on_server(fallback):
        raise ConfigurationError("fallback must be a file: a path or an lmdb:// URL")
    store = RedisStore(redis_options_from_url(url, **{name: options[name] for name in options if name != FALLBACK}))
    if not fallback:
        return store
    from lmdbresults.store.fallback import FallbackStore

    return FallbackStore(store, open_existing(fallback))


def open_existing(path_or_url: str | os.PathLike[str]) -> Store:
    """Open a store that must exist already, a file with the durability that other processes use for it.

    Raises `FolderMissing` if there is no file; nothing is created.
    """
    if is_on_server(path_or_url):
        store: Store = open_store(path_or_url)
        return store
    options = options_from_url(path_or_url)
    if not os.path.lexists(options.path):
        raise FolderMissing(f"{options.path} does not exist. Check the spelling of the path.")
    return open_as_it_is(options)


def open_as_it_is(options: Options) -> LMDBStore:
    """Open a file with the durability that other processes use for it."""
    try:
        return LMDBStore(options)
    except ConfigurationError:
        return LMDBStore(replace(options, durability="none"))


def is_on_server(path_or_url: str | os.PathLike[str]) -> bool:
    """Return whether a URL is that of a server; False for a file. Raises `ConfigurationError` for an unknown scheme."""
    text = os.fspath(path_or_url)
    scheme, separator, _ = text.partition("://") if isinstance(text, str) else ("", "", "")
    if not separator or "/" in scheme or scheme.lower() == SCHEME:
        return False
    from lmdbresults.store.redis import SCHEMES

    if scheme.lower() in SCHEMES:
        return True
    known = (SCHEME, *SCHEMES)
    nearly = difflib.get_close_matches(scheme.lower(), known, n=1)
    meant = f"; is {nearly[0]}:// meant?" if nearly else ""
    raise ConfigurationError(f"unsupported URL scheme {scheme!r}: must be one of {', '.join(known)}{meant}")


def _split_fallback(url: str, options: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return a URL without the option ``fallback``, and that option; one that is given in code wins."""
    address, separator, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    fallback = dict(pairs).get(FALLBACK)
    if fallback is not None:
        rest = urlencode([pair for pair in pairs if pair[0] != FALLBACK])
        url = address + separator * bool(rest) + rest
    return url, options.get(FALLBACK, fallback)
