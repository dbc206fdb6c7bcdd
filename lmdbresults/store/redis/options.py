"""The settings of a store on Redis or Valkey, and its URLs."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote

from lmdbresults.errors import ConfigurationError, UnknownOption

__all__ = ["SCHEMES", "RedisOptions", "is_redis_url", "redis_options_from_url"]

#: The layout behind each scheme, and whether it is encrypted.
_KINDS: Final[dict[str, tuple[str, bool]]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("server", False),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "valkey": ("server", False),
    "valkeys": ("server", True),
    "valkey+cluster": ("cluster", False),
    "valkeys+cluster": ("cluster", True),
    "valkey+sentinel": ("sentinel", False),
    "valkeys+sentinel": ("sentinel", True),
}
SCHEMES: Final = tuple(_KINDS)

_DEFAULT_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_BOOLEANS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_CERT_REQS: Final = ("none", "optional", "required")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """The options of a store on Redis or Valkey. Raises `ConfigurationError` for a value that is out of range."""

    kind: str = "server"
    """``server``, ``cluster`` (``hosts`` are some of its nodes) or ``sentinel`` (``hosts`` are its sentinels)."""

    hosts: tuple[tuple[str, int], ...] = (("localhost", _DEFAULT_PORT),)
    """Names or addresses, and ports. With a kind other than ``cluster``, the first that answers is used."""

    path: str = ""
    """The Unix socket of a server on this machine; empty: ``hosts`` are used."""

    tls: bool = False
    """Whether connections are encrypted."""

    ssl_cert_reqs: str = "required"
    """Whether the certificate of the server is verified: ``required``, ``optional`` or ``none``."""

    ssl_ca_certs: str | None = None
    """File of the certificates that are trusted; None: those of the system."""

    ssl_certfile: str | None = None
    """File of the certificate of this client, if the server asks for one."""

    ssl_keyfile: str | None = None
    """File of the key to that certificate."""

    ssl_check_hostname: bool = True
    """Whether the certificate of the server must name its host."""

    db: int = 0
    """Number of the database. A Cluster has only 0."""

    username: str | None = None
    """User of the server's access control list; None: its default user."""

    password: str | None = None
    """Password of the user."""

    service_name: str = ""
    """Name of the master that the sentinels watch."""

    sentinel_username: str | None = None
    """User at the sentinels, which may differ."""

    sentinel_password: str | None = None
    """Password at the sentinels."""

    socket_timeout: float = 10.0
    """Seconds until a server that does not answer is taken for dead."""

    socket_connect_timeout: float = 5.0
    """Seconds that connecting may take."""

    retry_timeout: float = 30.0
    """Seconds for which an operation is run again if the server is down, loading, or failing over; 0: it is run once.
    The pauses between are random and grow to a second."""

    min_replicas: int = 0
    """How many replicas must have a write before it is acknowledged, so that a failover to one does not lose it; 0: the
    master alone. A write that fewer have confirmed in ``socket_timeout`` is run again, like any that fails."""

    owner_lease: float = 15.0
    """Seconds after the last sign of life of a process on another machine until its claims are taken over. On the same
    machine a dead process is seen at once."""

    global_keyprefix: str = ""
    """Prefix of every key, so that applications can share a database. As in Celery, a "_" is appended unless the prefix
    ends in one of ``:_-.``."""

    def __post_init__(self) -> None:
        for name, is_valid, wanted in _RULES:
            if not is_valid(getattr(self, name)):
                raise _invalid(name, getattr(self, name), wanted)
        if self.kind == "sentinel" and not self.service_name:
            raise ConfigurationError(
                "service_name is missing: name the master in the URL, redis+sentinel://host:26379/mymaster/0"
            )
        if self.kind == "cluster" and self.db:
            raise ConfigurationError(f"invalid db={self.db}: a Cluster has only database 0")
        if self.global_keyprefix and self.global_keyprefix[-1] not in ":_-.":
            object.__setattr__(self, "global_keyprefix", self.global_keyprefix + "_")

    def __repr__(self) -> str:
        return f"RedisOptions({self.address()!r})"

    def address(self) -> str:
        """Return the URL without user, password and options, for messages."""
        if self.path:
            return f"unix://{self.path}"
        scheme = f"redis{'s' * self.tls}{'' if self.kind == 'server' else f'+{self.kind}'}"
        hosts = ",".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.hosts)
        service = f"/{self.service_name}" if self.kind == "sentinel" else ""
        return f"{scheme}://{hosts}{service}" + (f"/{self.db}" if self.db else "")


def is_redis_url(url: object) -> bool:
    """Return whether a URL has one of the `SCHEMES`."""
    return isinstance(url, str) and url.partition("://")[1] != "" and url.partition("://")[0].lower() in _KINDS


def redis_options_from_url(url: str, **overrides: Any) -> RedisOptions:
    """Return the `RedisOptions` for a URL; keyword arguments win over the URL.

    ``redis://user:password@host:6379/0``, ``unix:///path/to/socket?db=0``, ``redis+cluster://host:7000,host:7001``,
    ``redis+sentinel://host:26379,host:26380/mymaster/0``; ``rediss`` for TLS, ``valkey`` and ``valkeys`` for the same.
    Options follow after ``?``. Raises `UnknownOption`, or `ConfigurationError` for anything else that is invalid.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _KINDS:
        raise ConfigurationError(f"unsupported URL scheme {scheme!r}: must be one of {', '.join(SCHEMES)}")
    kind, tls = _KINDS[scheme.lower()]
    place, _, query = rest.partition("?")
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError as error:
        raise ConfigurationError(f"invalid options {query!r}: must be name=value&name=value ({error})") from error
    credentials, _, hosts = place.rpartition("@")
    username, _, password = credentials.partition(":")
    found: dict[str, Any] = {"kind": kind, "tls": tls}
    found |= {"username": unquote(username)} if username else {}
    found |= {"password": unquote(password)} if password else {}
    found |= {"path": unquote(hosts)} if scheme.lower() == "unix" else _place(kind, hosts)
    chosen: dict[str, Any] = {**found, **_checked({**given, **overrides})}
    return RedisOptions(**chosen)


def _place(kind: str, text: str) -> dict[str, Any]:
    """Return hosts, service and database of a URL without its credentials."""
    hosts, _, path = text.partition("/")
    port = _SENTINEL_PORT if kind == "sentinel" else _DEFAULT_PORT
    found: dict[str, Any] = {"hosts": tuple(_host(host, port) for host in hosts.split(","))}
    names = [unquote(name) for name in path.split("/") if name]
    if kind == "sentinel" and names:
        found["service_name"] = names.pop(0)
    if names:
        found["db"] = _parse("db", names.pop(0))
    if names:
        raise ConfigurationError(f"invalid path {path!r} in the URL: must be the number of a database")
    return found


def _host(text: str, default_port: int) -> tuple[str, int]:
    host, separator, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not separator:
        host, port = text, ""
    if port and not port.isdigit():
        raise ConfigurationError(f"invalid port {port!r} in the URL: must be a number")
    return unquote(host.strip("[]")) or "localhost", int(port or default_port)


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """Return options with their values parsed. Raises `UnknownOption`."""
    unknown = sorted(given.keys() - _NAMES)
    if unknown:
        raise UnknownOption(f"unknown option {', '.join(unknown)}: must be one of {', '.join(sorted(_NAMES))}")
    return {name: _parse(name, value) if isinstance(value, str) else value for name, value in given.items()}


def _parse(name: str, text: str) -> Any:
    parse = _PARSERS.get(name, str)
    try:
        return parse(text)
    except ValueError as error:
        raise _invalid(name, text, str(error)) from error


def _number(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return kind(text)
        except ValueError:
            raise ValueError("a number") from None

    return parse


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError("1 or 0")
    return _BOOLEANS[text.lower()]


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "db": _number(int),
    "min_replicas": _number(int),
    "socket_timeout": _number(float),
    "socket_connect_timeout": _number(float),
    "retry_timeout": _number(float),
    "owner_lease": _number(float),
    "ssl_check_hostname": _boolean,
}
_NAMES: Final = {field.name for field in fields(RedisOptions)} - {"kind", "hosts", "tls", "path"}


def _is_seconds(value: object, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= cast(float, value) <= most


def _are_hosts(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(0 < port < 1 << 16 for _, port in value)


_RULES: Final[tuple[tuple[str, Callable[[Any], bool], str], ...]] = (
    ("kind", ("server", "cluster", "sentinel").__contains__, "server, cluster or sentinel"),
    ("hosts", _are_hosts, "at least one host, with ports between 1 and 65535"),
    ("db", lambda value: type(value) is int and value >= 0, "the number of a database, 0 or more"),
    ("min_replicas", lambda value: type(value) is int and 0 <= value <= 100, "0 to 100"),
    ("ssl_cert_reqs", _CERT_REQS.__contains__, f"one of {', '.join(_CERT_REQS)}"),
    ("socket_timeout", lambda value: _is_seconds(value, 0.01, 3600), "0.01 to 3600 seconds"),
    ("socket_connect_timeout", lambda value: _is_seconds(value, 0.01, 3600), "0.01 to 3600 seconds"),
    ("retry_timeout", lambda value: _is_seconds(value, 0, 86_400), "0 to 86400 seconds"),
    ("owner_lease", lambda value: _is_seconds(value, 0.5, 86_400), "0.5 to 86400 seconds"),
    (
        "global_keyprefix",
        lambda value: isinstance(value, str) and "{" not in value,
        'text without "{", which marks the part of a key by which a Cluster spreads keys',
    ),
)


def _invalid(name: str, value: object, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"invalid {name}={value!r}: must be {wanted}")
