"""The backend in one LMDB file."""

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from typing import Any, Final, Literal, overload

from lmdbresults.app import App
from lmdbresults.backends.base import DisabledBackend
from lmdbresults.backends.store import StoreBackend
from lmdbresults.errors import UnknownOption
from lmdbresults.options import Options, options_from_url
from lmdbresults.store import LMDBStore, open_store
from lmdbresults.store.opening import is_on_server

__all__ = ["LMDBBackend", "open_backend"]


class LMDBBackend(StoreBackend):
    """The backend in one LMDB file. Usable from threads, across forks, and in another process after pickling."""

    def __init__(
        self, url: str | os.PathLike[str], *, options: Options | Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        #: With an absolute path: a relative one, or ``~``, leads elsewhere once the process changes its folder or user.
        self._options = options if isinstance(options, Options) else options_from_url(url, **(options or {}))
        super().__init__(store=LMDBStore(self._options), url=os.fspath(url), **kwargs)

    @cached_property
    def store(self) -> LMDBStore:
        """The open store. Reading this after the store was closed opens it again."""
        return LMDBStore(self._options)

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        del settings["store"]  # the other process opens it by these options
        return {**settings, "options": self._options}


#: What `open_backend` takes besides the options of the store.
_BACKEND_OPTIONS: Final = (
    "serializer",
    "max_cached_results",
    "accept",
    "expires",
    "expires_type",
    "max_decoded_bytes",
)
_STORE_OPTIONS: Final = tuple(field.name for field in fields(Options) if field.name != "path")


@overload
def open_backend(path_or_url: Literal["disabled://"], app: Any = None, **options: Any) -> DisabledBackend: ...


@overload
def open_backend(path_or_url: os.PathLike[str], app: Any = None, **options: Any) -> LMDBBackend: ...


@overload
def open_backend(path_or_url: str, app: Any = None, **options: Any) -> Any: ...


def open_backend(path_or_url: str | os.PathLike[str], app: Any = None, **options: Any) -> Any:
    """Open the backend at a path or URL, of a file or on a server; ``disabled://`` gives one that stores nothing.

    Options are those of `open_store` for that URL and of a backend: ``serializer``, ``accept``, ``expires``,
    ``max_cached_results``, ``max_decoded_bytes``. The app, if it has no backend yet, gets this one. Raises what
    `open_store` raises.
    """
    if path_or_url != "disabled://" and is_on_server(path_or_url):
        settings = {name: options.pop(name) for name in _BACKEND_OPTIONS if name in options}
        store = open_store(path_or_url, **options)
        return StoreBackend(store=store, url=path_or_url, app=App() if app is None else app, **settings)
    unknown = sorted(options.keys() - {*_BACKEND_OPTIONS, *_STORE_OPTIONS})
    if unknown:
        known = ", ".join((*_BACKEND_OPTIONS, *_STORE_OPTIONS))
        raise UnknownOption(f"Unknown option {', '.join(unknown)}; there are: {known}.")
    app = App() if app is None else app
    settings = {name: options[name] for name in _BACKEND_OPTIONS if name in options}
    if path_or_url == "disabled://":
        return DisabledBackend(app, **settings)
    store_options = {name: options[name] for name in _STORE_OPTIONS if name in options}
    return LMDBBackend(path_or_url, app=app, options=store_options, **settings)
