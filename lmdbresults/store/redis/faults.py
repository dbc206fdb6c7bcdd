"""Errors of the server and of its connections: which of them pass by themselves, and what they mean to a caller."""

from typing import Any, Final

from lmdbresults.errors import AccessDenied, DiskFailed, StoreError, StoreFull, StoreUnavailable
from lmdbresults.store.redis.driver import load_driver
from lmdbresults.store.redis.options import RedisOptions

__all__ = ["is_transient", "translated"]

#: First words of errors that pass when a server has loaded its data, or another one has become master.
_TRANSIENT: Final = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY", "UNBLOCKED")
_DENIED: Final = ("NOAUTH", "WRONGPASS", "NOPERM")


def is_transient(error: BaseException) -> bool:
    """Return whether an operation that has failed may succeed if it is run again."""
    exceptions = load_driver().exceptions
    if isinstance(error, exceptions.AuthenticationError) or _is_denied(error) or _is_tls(error):
        return False
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError):
        return True
    read_only = (exceptions.ReadOnlyError, exceptions.ClusterDownError, exceptions.TryAgainError)
    return isinstance(error, read_only) or str(error).startswith(_TRANSIENT)


def translated(error: BaseException, options: RedisOptions) -> Exception:
    """Return the error of this package for one of the server or of a connection."""
    exceptions, text, place = load_driver().exceptions, str(error), options.address()
    if isinstance(error, exceptions.AuthenticationError) or _is_denied(error):
        return AccessDenied(f"{place} refuses access: {text}. Check username and password, and what the user may do.")
    if isinstance(error, exceptions.OutOfMemoryError) or text.startswith("OOM"):
        return StoreFull(f"{place} is full: {text} Raise its maxmemory, or let results expire earlier.")
    if text.startswith("MISCONF"):
        return DiskFailed(f"{place} cannot write to its disk, so it refuses writes: {text}")
    if _is_tls(error):
        return StoreUnavailable(
            f"{place} cannot be reached by TLS: {text} Check that the server speaks TLS at this port (rediss://) and "
            f"that ssl_ca_certs names the certificate that has signed the server's."
        )
    if is_transient(error):
        return StoreUnavailable(
            f"{place} does not serve: {text or type(error).__name__}. Tried for {options.retry_timeout:g} seconds "
            f"(retry_timeout). Check that the server runs and can be reached from here."
        )
    if text.startswith("WRONGTYPE"):
        return StoreError(f"A key at {place} holds a value of another program: {text} Use a global_keyprefix or a db.")
    return StoreError(f"{place}: {text}")


def _is_denied(error: BaseException) -> bool:
    return str(error).startswith(_DENIED) or isinstance(error, load_driver().exceptions.NoPermissionError)


def _is_tls(error: BaseException) -> bool:
    seen: Any = error
    while seen is not None:
        if type(seen).__module__ == "ssl" or "SSL" in str(seen)[:200]:
            return True
        seen = seen.__cause__ or seen.__context__
    return False
