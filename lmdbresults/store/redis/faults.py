"""Errors of the server and of its connections: which of them pass by themselves, and what they mean to a caller."""

from typing import Any, Final

from lmdbresults.errors import AccessDenied, ConfigurationError, DiskFailed, StoreError, StoreFull, StoreUnavailable
from lmdbresults.store.redis.driver import load_driver
from lmdbresults.store.redis.options import RedisOptions

__all__ = ["is_transient", "is_try_again", "redirection", "translated"]

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


def redirection(error: BaseException) -> tuple[str, str] | None:
    """Return "MOVED" or "ASK" and the address that has the slot, if an error says so.

    Some versions of the client library have classes for these errors here, and some keep them for their own Cluster.
    """
    exceptions, (word, _, rest) = load_driver().exceptions, str(error).partition(" ")
    if word in ("MOVED", "ASK"):
        return word, rest.rpartition(" ")[2]
    if isinstance(error, exceptions.AskError):
        place: Any = error
        return "MOVED" if isinstance(error, exceptions.MovedError) else "ASK", f"{place.host}:{place.port}"
    return None


def is_try_again(error: BaseException) -> bool:
    """Return whether a server refuses keys because some of them have moved to another one, and some have not."""
    return isinstance(error, load_driver().exceptions.TryAgainError) or str(error).startswith("TRYAGAIN")


def translated(error: BaseException, options: RedisOptions) -> Exception:
    """Return the error of this package for one of the server or of a connection."""
    exceptions, text, place = load_driver().exceptions, str(error), options.address()
    if isinstance(error, exceptions.AuthenticationError) or _is_denied(error):
        return AccessDenied(f"{place} refuses access: {text}. Check username and password, and what the user may do.")
    if isinstance(error, exceptions.OutOfMemoryError) or text.startswith("OOM"):
        return StoreFull(f"{place} is full: {text} Raise its maxmemory, or let results expire earlier.")
    if isinstance(error, exceptions.ClusterCrossSlotError) or text.startswith("CROSSSLOT"):
        return ConfigurationError(f"{place} is a node of a Cluster: use redis+cluster:// instead of redis://")
    if "cluster support disabled" in text:
        return ConfigurationError(f"{place} is not a Cluster: use redis:// instead of redis+cluster://")
    if "unknown command 'SENTINEL'" in text:
        return ConfigurationError(f"{place} is not a sentinel: use redis:// instead of redis+sentinel://")
    if text.startswith("MISCONF"):
        return DiskFailed(f"{place} cannot write to its disk, so it refuses writes: {text}")
    if _is_tls(error):
        return StoreUnavailable(
            f"{place} cannot be reached by TLS: {text} Check that the server speaks TLS at this port (rediss://) and "
            f"that ssl_ca_certs names the certificate that has signed the server's."
        )
    if is_transient(error):
        tls = ", and speaks TLS at this port" if options.tls else ""
        return StoreUnavailable(
            f"{place} does not serve: {text.rstrip('.') or type(error).__name__}. Tried for {options.retry_timeout:g} "
            f"seconds (retry_timeout). Check that the server runs and can be reached from here{tls}."
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
