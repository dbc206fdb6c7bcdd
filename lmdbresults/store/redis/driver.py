"""The client library, redis or valkey: imported when a store is made, so that `import lmdbresults` loads neither.

Only their connections and exceptions are used, which have been the same in all versions since redis 5: routing, retries
and subscriptions are ours, because an operation must know whether it may be run again.
"""

import functools
import importlib
from typing import Any, Final, NamedTuple

from lmdbresults.errors import ConfigurationError

__all__ = ["Driver", "load_driver"]

_PACKAGES: Final = ("redis", "valkey")


class Driver(NamedTuple):
    """Modules of the client library."""

    connection: Any
    """Classes of connections: over TCP, TLS and Unix sockets."""
    exceptions: Any
    base_error: type[Exception]
    """The base of its exceptions."""
    no_retry: Any
    """A retry policy that never retries."""


@functools.cache
def load_driver() -> Driver:
    """Return the installed client library. Raises `ConfigurationError` with the command that installs it."""
    for package in _PACKAGES:
        try:
            modules = [importlib.import_module(f"{package}.{name}") for name in _MODULES]
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != package:
                raise
            continue
        connection, exceptions, retry, backoff = modules
        base = getattr(exceptions, f"{package.capitalize()}Error")
        return Driver(connection, exceptions, base, retry.Retry(backoff.NoBackoff(), 0))
    raise ConfigurationError(
        "a store on Redis or Valkey needs its client library: pip install 'lmdbresults[redis]' (or: pip install valkey)"
    )


_MODULES: Final = ("connection", "exceptions", "retry", "backoff")
