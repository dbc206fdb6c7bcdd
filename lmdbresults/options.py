"""The settings of a store, and the only place that parses them."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from decimal import Decimal
from numbers import Real
from typing import Any, Final, cast
from urllib.parse import parse_qsl, quote, unquote

from lmdbresults.errors import ConfigurationError, UnknownOption

__all__ = [
    "DEDUPE",
    "DURABILITIES",
    "MIN_SIZE",
    "ON_DAMAGE",
    "SCHEME",
    "Options",
    "is_deduplicating",
    "options_from_url",
    "parse_size",
    "require_expiry",
]

SCHEME: Final = "lmdb"
#: The option of the broker that `is_deduplicating` reads.
DEDUPE: Final = "dedupe"

DURABILITIES: Final = ("checkpoint", "commit", "none")
ON_DAMAGE: Final = ("error", "fresh")

#: A map below this leaves LMDB no room to copy the pages that a delete touches.
MIN_SIZE: Final = 1 << 20
#: Half of what a process can address.
MAX_SIZE: Final = 64 << 40
#: At 64 bytes each, a lock file of 64 MB.
MAX_READERS: Final = 1_000_000

_UNITS: Final[dict[str, int]] = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_BOOLEANS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
#: What can only be the host of a URL: a name or address with user or port, an address, or this machine.
_HOST: Final = re.compile(r"localhost|.*@.*|.*:\d*|\d+(\.\d+){3}|\[.*\]", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a store: frozen, so that two stores with equal options behave alike.

    Raises `ConfigurationError` for a value that is out of range.
    """

    path: str
    """The data file, as an absolute path. Beside it are ``<path>-lock``, ``<path>-checkpoint`` and ``<path>-wake``, and
    with durability ``commit`` ``<path>-log``."""

    max_size: int = 64 << 30
    """Bytes that the file may grow to, at least 1 MiB. Only address space is reserved up front, so the default of
    64 GiB costs nothing; where ``RLIMIT_AS`` allows less, less is used. One eighth (at most 64 MiB) is kept for
    deleting and sweeping when the rest is full."""

    durability: str = "checkpoint"
    """What an acknowledged write survives, besides kill -9. ``checkpoint``: a power failure rolls the file back to the
    last checkpoint, made about a second earlier (up to four intervals, if the process that makes the checkpoints was
    killed). ``commit``: nothing is lost, but each write waits for the disk, together with the writes of other threads
    and processes. ``none``: a power failure may destroy the file."""

    checkpoint_interval: float = 1.0
    """Seconds from the first write after a checkpoint until the next checkpoint starts."""

    checkpoint_bytes: int = 64 << 20
    """About how many bytes may be written until the next checkpoint starts, whatever the time. At three times as many,
    writers wait for it."""

    on_damage: str = "error"
    """What to do with a file that a power failure has damaged, as it may under durability ``none``. ``error``: leave it
    as it is and raise `FileDamaged`. ``fresh``: rename it and start with an empty one."""

    mode: int = 0o600
    """Permission bits of new files. Any bit beyond those of the owner, as in 0o660, also allows opening files of
    another owner."""

    max_readers: int = 1024
    """Slots in LMDB's reader table: transactions that may read at the same moment, over all processes. The first
    process that opens the file fixes the number."""

    create_folder: bool = False
    """Whether to create the folder of the file, with mode 0700, if it is missing, and the folders above it."""

    lock_timeout: float | None = None
    """Seconds that a write waits while other threads and processes write; then it raises `StoreBusy`. None: for ever,
    with a warning in the log after 5 seconds. Signal handlers run meanwhile."""

    global_keyprefix: str = ""
    """Prefix of every key, so that applications can share a file. As in Celery, a "_" is appended unless the prefix
    ends in one of ``:_-.``."""

    clock: Callable[[], float] = field(default=time.time, compare=False)
    """Returns seconds since the epoch, by which records expire. A parameter so that tests need not sleep."""

    def __post_init__(self) -> None:
        for name, is_valid, wanted in _RULES:
            value = getattr(self, name)
            if not is_valid(value):
                raise _invalid(name, value, wanted)
        if self.global_keyprefix and self.global_keyprefix[-1] not in ":_-.":
            object.__setattr__(self, "global_keyprefix", self.global_keyprefix + "_")


def options_from_url(path_or_url: str | os.PathLike[str], **overrides: Any) -> Options:
    """Return the `Options` for a path or an ``lmdb://`` URL; keyword arguments win over the URL.

    Absolute: ``lmdb:///abs/path`` (as with ``file://``) and ``lmdb:////abs/path`` (as with SQLAlchemy). Relative to
    the working directory: ``lmdb://results.lmdb``. Options follow after ``?``, sizes with units (``8GiB``, ``500MB``),
    ``mode`` in octal. In a URL ``%xx`` is decoded; a path is taken as it is. A leading ``~`` is expanded.

    Raises `UnknownOption`, or `ConfigurationError` for anything else that is invalid.
    """
    text = os.fspath(path_or_url)
    if not isinstance(text, str):
        raise _invalid("path", text, "text, not bytes")
    path, query = _split(text)
    in_url = _query_options(query, text)
    in_url.pop(DEDUPE, None)  # broker and results have one URL
    given = {**in_url, **overrides}
    unknown = sorted(given.keys() - _NAMES)
    if unknown:
        raise UnknownOption(f"unknown option {', '.join(unknown)}: must be one of {', '.join(sorted(_NAMES))}")
    for name, value in given.items():
        if isinstance(value, str) and name not in _TEXTS:
            given[name] = _parse(name, value)
    return Options(path=_absolute(path), **given)


def is_deduplicating(url: str, default: object = False) -> bool:
    """Return whether a broker's URL says ``dedupe=1``; ``default`` if it does not say. A store ignores it.

    Raises `ConfigurationError` for another value than 1 or 0.
    """
    given = _query_options(url.partition("?")[2], url).get(DEDUPE, default)
    return given if isinstance(given, bool) else bool(_parse(DEDUPE, str(given)))


def require_expiry(name: str, seconds: object) -> None:
    """Raise `ConfigurationError`, with the name of a setting, unless results can expire after so many seconds."""
    if seconds is not None and not (isinstance(seconds, Real) and float(seconds) >= 0):
        raise ConfigurationError(
            f"invalid {name}={seconds!r}: must be a number of seconds or a timedelta; None or 0 for results that stay"
        )


_NAMES: Final = {field.name for field in fields(Options)} - {"path"}
_TEXTS: Final = ("durability", "global_keyprefix", "on_damage")


def _split(text: str) -> tuple[str, str]:
    """Return path and query of a path or URL."""
    scheme, separator, rest = text.partition("://")
    if not separator or "/" in scheme:
        if text.startswith(f"{SCHEME}:"):
            raise _invalid("URL", text, f"{SCHEME}:///absolute/path or {SCHEME}://relative/path")
        path, query = text, ""
    elif scheme.lower() != SCHEME:
        raise ConfigurationError(f"unsupported URL scheme {scheme!r} (expected {SCHEME}://) in {text!r}")
    else:
        path, _, query = rest.partition("?")
        path = _path_of_url(path, text)
    if path.endswith("/") or not path:
        raise _invalid("path", text, 'the path of a file: it must not be empty or end in "/"')
    return path, query


def _path_of_url(quoted: str, url: str) -> str:
    try:
        path = unquote(quoted, errors="strict")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{url!r} has a %xx sequence that is not UTF-8: {error}") from error
    if path.startswith("//"):  # SQLAlchemy's spelling of an absolute path
        path = path[1:]
    if path.startswith("/~"):
        raise ConfigurationError(
            f"{url!r} would be a file in the folder {path.split('/')[1]!r} of the root folder, not in a home: write "
            f"{SCHEME}:/{quote(path)}, the absolute path, or open_store(os.path.expanduser({path[1:]!r}))"
        )
    host, _, rest = path.partition("/")
    if _HOST.fullmatch(host):
        raise ConfigurationError(
            f"{url!r} names a host, but a store is a local file: write {SCHEME}:///{quote(rest) or 'path'} for an "
            f"absolute path, or {SCHEME}://./{quote(path)} for one relative to the working directory"
        )
    return path


def _absolute(path: str) -> str:
    if "\0" in path:
        raise _invalid("path", path, "a path without NUL bytes")
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise _invalid("path", path, "in the home of an existing user; a file named ~x is ./~x")
    return os.path.abspath(expanded)


def _query_options(query: str, url: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict") if query else []
    except ValueError as error:
        raise ConfigurationError(f"invalid options in {url!r}: must be name=value&name=value ({error})") from error
    found: dict[str, Any] = dict(pairs)
    if len(found) != len(pairs):
        raise _invalid("URL", url, "a URL that gives each option once")
    return found


def _parse(name: str, text: str) -> Any:
    """Return the value of an option that was given as text."""
    if name not in _PARSERS:
        raise _invalid(name, text, "given in code, not in the URL")
    try:
        return _PARSERS[name](text)
    except ValueError as error:
        raise _invalid(name, text, str(error)) from error


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``8GiB``. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"bytes, or a number with a unit ({', '.join(u for u in _UNITS if u)}), as in 8GiB")
    return int(Decimal(match[1]) * unit)


def _mode(text: str) -> int:
    if not re.fullmatch(r"(0o)?[0-7]+", text):
        raise ValueError("octal permission bits, such as 0660")
    return int(text, 8)


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError("1 or 0")
    return _BOOLEANS[text.lower()]


def _number(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return kind(text)
        except ValueError:
            raise ValueError("a number") from None

    return parse


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "max_size": parse_size,
    "checkpoint_bytes": parse_size,
    "mode": _mode,
    "create_folder": _boolean,
    DEDUPE: _boolean,
    "max_readers": _number(int),
    "checkpoint_interval": _number(float),
    "lock_timeout": _number(float),
}


def _is_path(value: object) -> bool:
    return isinstance(value, str) and os.path.isabs(value) and "\0" not in value and _is_encodable(value, os.fsencode)


def _is_encodable(value: object, encode: Callable[[str], bytes]) -> bool:
    try:
        return isinstance(value, str) and encode(value) is not None
    except UnicodeEncodeError:
        return False


def _is_size(value: object) -> bool:
    return type(value) is int and MIN_SIZE <= value <= MAX_SIZE


def _is_seconds(value: object, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= cast(float, value) <= most


def _is_mode(value: object) -> bool:
    return type(value) is int and value & ~0o666 == 0 and value & 0o600 == 0o600


_A_SIZE: Final = "bytes from 1 MiB to 64 TiB, or text such as 500MB or 8GiB"
#: Name, test and description of what each option may be.
_RULES: Final[tuple[tuple[str, Callable[[Any], bool], str], ...]] = (
    ("path", _is_path, "an absolute path that can be encoded, without NUL bytes"),
    ("max_size", _is_size, _A_SIZE),
    ("durability", DURABILITIES.__contains__, f"one of {', '.join(DURABILITIES)}"),
    ("checkpoint_interval", lambda value: _is_seconds(value, 0.001, 3600), "0.001 to 3600 seconds"),
    ("checkpoint_bytes", _is_size, _A_SIZE),
    ("on_damage", ON_DAMAGE.__contains__, f"one of {', '.join(ON_DAMAGE)}"),
    ("mode", _is_mode, "octal permission bits with at least 0600 and nothing beyond 0666, such as 0o660 or '0660'"),
    ("max_readers", lambda value: type(value) is int and 1 <= value <= MAX_READERS, f"from 1 to {MAX_READERS}"),
    ("lock_timeout", lambda value: value is None or _is_seconds(value, 0, 86_400), "0 to 86400 seconds, or None"),
    ("create_folder", lambda value: type(value) is bool, "True or False"),
    ("global_keyprefix", lambda value: _is_encodable(value, str.encode), "text that can be encoded"),
)


def _invalid(name: str, value: object, wanted: str) -> ConfigurationError:
    given = f"{value} ({value:#o})" if name == "mode" and isinstance(value, int) else repr(value)
    return ConfigurationError(f"invalid {name}={given}: must be {wanted}")
