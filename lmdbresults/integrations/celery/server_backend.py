"""The Celery result backend on a server: Redis or Valkey, one server, Sentinel or Cluster.

``result_backend = "lmdbresults+redis://host:6379/0"``; Celery finds the class by the word before the ``+``. The rest is
the URL of the store. Chords survive the death of workers, as in a file; only the end of a task is not one commit.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from celery.exceptions import ImproperlyConfigured

from lmdbresults.errors import ConfigurationError, StoreUnavailable
from lmdbresults.integrations.celery.store_backend import StoreBackend
from lmdbresults.store import Store, open_store
from lmdbresults.store.opening import FALLBACK, is_on_server
from lmdbresults.store.redis import SCHEMES, RedisOptions

__all__ = ["ServerBackend"]

_PREFIX: Final = "lmdbresults+"
#: Celery's settings for its own Redis backend, and our options for the same. Celery has defaults for some of them,
#: so they count only where the application has set them.
_TIMEOUTS: Final = {
    "redis_socket_timeout": "socket_timeout",
    "redis_socket_connect_timeout": "socket_connect_timeout",
}
_SETTINGS: Final = {**_TIMEOUTS, "redis_username": "username", "redis_password": "password"}
#: Options of Celery's own Redis backend by other names.
_RENAMED: Final = {"master_name": "service_name"}
#: Where the store is comes from the URL alone.
_OPTIONS: Final = tuple(
    field.name for field in fields(RedisOptions) if field.name not in ("kind", "hosts", "path", "tls")
)
_TLS: Final = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")


class ServerBackend(StoreBackend):
    """Task results on a server that many machines use.

    ``url`` is what `lmdbresults.open_store` takes: ``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://``,
    ``redis+sentinel://``, or the same with ``valkey``. Raises ``ImproperlyConfigured`` for a bad URL. The server is
    connected when it is first used.
    """

    store_options = (*_OPTIONS, FALLBACK)

    def _add_global_keyprefix(self) -> None:
        """Leave the prefix to the store, which spreads keys over a Cluster by the task in them."""

    def _given(self, setting: str) -> Mapping[str, Any]:
        """Return the transport options, those of Celery's own backend translated, and its settings below them."""
        conf = self.app.conf
        names = _SETTINGS if "@" not in (self.url or "") else _TIMEOUTS  # the URL has the credentials
        found = {names[name]: conf.get(name) for name in names if conf.value_set_for(name)}
        found.update(_tls(conf.get("redis_backend_use_ssl")))
        options = dict(conf.get(setting) or {})
        found.update({ours: options.pop(name) for name, ours in _RENAMED.items() if name in options})
        found.update(_retries(options.get("retry_policy") or {}))
        return {name: value for name, value in {**found, **options}.items() if value is not None}

    def _open(self, url: str | None, options: Mapping[str, Any]) -> Store:
        try:
            if not url or not is_on_server(url):
                raise ConfigurationError(
                    f"result_backend = {_PREFIX + (url or '')!r} does not name a server: after {_PREFIX!r} comes a URL "
                    f"with one of {', '.join(SCHEMES)}; for a file, write lmdb:///path alone"
                )
            store: Store = open_store(url, **options)
            return store
        except ConfigurationError as error:
            raise ImproperlyConfigured(str(error)) from error

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL, without user, password and options unless ``include_password``."""
        store: Any = getattr(self.store, "new", self.store)
        url: str = self.url if include_password else store.options.address()
        return _PREFIX + url

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Return whether waiting may help: for the server, for room, or for another transaction."""
        return isinstance(exc, StoreUnavailable) or super().exception_safe_to_retry(exc)


def _retries(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return our option for Celery's ``retry_policy``."""
    if policy.get("max_retries") == 0:
        return {"retry_timeout": 0.0}
    return {"retry_timeout": policy["timeout"]} if "timeout" in policy else {}


def _tls(given: Any) -> dict[str, Any]:
    """Return our options for Celery's ``redis_backend_use_ssl``, whose constants are those of the module `ssl`."""
    if not isinstance(given, Mapping):
        return {}
    found = {name: given[name] for name in _TLS if name in given}
    if "ssl_cert_reqs" in found:
        text = str(getattr(found["ssl_cert_reqs"], "name", found["ssl_cert_reqs"]))
        found["ssl_cert_reqs"] = text.lower().removeprefix("cert_")
    return found
