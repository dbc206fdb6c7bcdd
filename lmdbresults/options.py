"""The settings of a store, and the only place that parses them."""

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from numbers import Real
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote

from lmdbresults.errors import ConfigurationError, UnknownOption

__all__ = ["DURABILITIES", "MIN_SIZE", "ON_DAMAGE", "SCHEME", "Options", "options_from_url", "require_expiry"]

SCHEME: Final = "lmdb"

DURABILITIES: Final = ("checkpoint", "commit", "none")
ON_DAMAGE: Final = ("error", "fresh")

#: A map below this leaves LMDB no room to copy the pages that a delete has to touch.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a store is opened. Frozen: two stores with equal options behave alike.

    Raises `ConfigurationError` for a value that is out of range.
    """

    path: str
    """The data file, absolute. Beside it lies ``<path>-lock``, LMDB's own."""

    max_size: int = 64 << 30
    """Bytes that the file may grow to, at least 1 MiB. Only address space is taken up front, so the default of
    64 GiB costs nothing; it is lowered by itself where ``RLIMIT_AS`` is tighter. One eighth (at most 64 MiB) is
    kept for deleting and sweeping when the rest is full."""

    durability: str = "checkpoint"
    """What an acknowledged write survives, besides kill -9. ``checkpoint``: a loss of power goes back to the last
    checkpoint, which is about a second old at most. ``commit``: a loss of power too, at the price of waiting for the
    disk, shared by all who wait at the same time. ``none``: a loss of power may destroy the file."""

    checkpoint_interval: float = 1.0
    """Seconds after the first write that no checkpoint covers until one is begun."""

    checkpoint_bytes: int = 64 << 20
    """Bytes that may be written until one is begun, about, whatever the time. At four times as much, whoever writes
    waits for it."""

    on_damage: str = "error"
    """What to do with a file that a loss of power has damaged, as under durability ``none`` it may. ``error``: leave it
    as it is and raise `FileDamaged`. ``fresh``: rename it and begin anew."""

    mode: int = 0o600
    """Permission bits of the files when they are created. Anything beyond the owner, such as 0o660, also says that
    files of another owner may be opened."""

    max_readers: int = 1024
    """Slots in LMDB's reader table: transactions that may read at the same moment, over all processes. Fixed by
    whoever opens the file first."""

    lock_timeout: float | None = None
    """Seconds that a write waits while other threads and processes write; then it raises `StoreBusy`. None: for ever,
    with a warning in the log after 5 seconds. Signal handlers run meanwhile."""

    global_keyprefix: str = ""
    """Put before every key, so that applications can share a file. As in Celery, a "_" follows unless the prefix
    ends in one of ``:_-.``."""

    clock: Callable[[], float] = field(default=time.time, compare=False)
    """Seconds since the epoch; deadlines are measured by it. A parameter so that tests need not sleep."""

    def __post_init__(self) -> None:
        _require(isinstance(self.path, str) and os.path.isabs(self.path), "path", self.path, "an absolute path")
        _require("\0" not in self.path, "path", self.path, "a path without NUL bytes")
        _require(_is_encodable(self.path, os.fsencode), "path", self.path, "a name that the file system can have")
        _require(_is_int(self.max_size, MIN_SIZE, MAX_SIZE), "max_size", self.max_size, "from 1 MiB to 64 TiB")
        _require(self.durability in DURABILITIES, "durability", self.durability, f"one of {', '.join(DURABILITIES)}")
        interval = self.checkpoint_interval
        is_seconds = isinstance(interval, int | float) and not isinstance(interval, bool) and 0.001 <= interval <= 3600
        _require(is_seconds, "checkpoint_interval", interval, "seconds, from 0.001 to 3600")
        _require(
            _is_int(self.checkpoint_bytes, MIN_SIZE, MAX_SIZE),
            "checkpoint_bytes",
            self.checkpoint_bytes,
            "from 1 MiB to 64 TiB",
        )
        _require(self.on_damage in ON_DAMAGE, "on_damage", self.on_damage, f"one of {', '.join(ON_DAMAGE)}")
        _require(
            _is_int(self.mode, 0, 0o777) and self.mode & ~0o666 == 0 and self.mode & 0o600 == 0o600,
            "mode",
            oct(self.mode) if isinstance(self.mode, int) else self.mode,
            "octal permission bits with at least 0600 and nothing beyond 0666",
        )
        _require(_is_int(self.max_readers, 1, MAX_READERS), "max_readers", self.max_readers, "from 1 to a million")
        timeout = self.lock_timeout
        is_seconds = isinstance(timeout, int | float) and not isinstance(timeout, bool) and 0 <= timeout <= 86_400
        _require(timeout is None or is_seconds, "lock_timeout", timeout, "seconds, from 0 to 86400, or None")
        _require(_is_encodable(self.global_keyprefix, str.encode), "global_keyprefix", self.global_keyprefix, "text")
        if self.global_keyprefix and self.global_keyprefix[-1] not in ":_-.":
            object.__setattr__(self, "global_keyprefix", self.global_keyprefix + "_")


def options_from_url(path_or_url: str | os.PathLike[str], **overrides: Any) -> Options:
    """Return the `Options` for a path or an ``lmdb://`` URL; keyword arguments win over the URL.

    Absolute: ``lmdb:///abs/path`` (as with ``file://``) and ``lmdb:////abs/path`` (as with SQLAlchemy). Relative to
    the present folder: ``lmdb://results.lmdb``. Options follow after ``?``, sizes with units (``8GiB``, ``500MB``),
    ``mode`` in octal. In a URL ``%xx`` is decoded; a bare path is taken as it is. A leading ``~`` is expanded.

    Raises `UnknownOption`, or `ConfigurationError` for anything else that cannot be understood.
    """
    text = os.fspath(path_or_url)
    _require(isinstance(text, str), "path", text, "text, not bytes")
    path, query = _split(text)
    given = {**_query_options(query, text), **overrides}
    _reject_unknown(given, {f.name for f in fields(Options)} - {"path"})
    values = {name: _parse(name, value) for name, value in given.items()}
    return Options(path=_absolute(path), **values)


def require_expiry(name: str, seconds: object) -> None:
    """Raise `ConfigurationError`, with the name of a setting, unless results can expire in so many seconds, or None."""
    if seconds is not None and not (isinstance(seconds, Real) and float(seconds) >= 0):
        raise ConfigurationError(
            f"{name} is {seconds!r}: give a number of seconds or a timedelta, or None or 0 for results that stay."
        )


def _split(text: str) -> tuple[str, str]:
    scheme, separator, rest = text.partition("://")
    if not separator or "/" in scheme:
        _require(not text.startswith(f"{SCHEME}:"), "URL", text, f"{SCHEME}:///absolute/path or {SCHEME}://relative")
        path, query = text, ""
    elif scheme.lower() != SCHEME:
        raise ConfigurationError(f"{text!r} is not ours: the URL of a store begins with {SCHEME}://, not {scheme}://")
    else:
        path, _, query = rest.partition("?")
        path = _decode(path, text)
        if path.startswith("//"):  # SQLAlchemy's spelling of an absolute path
            path = path[1:]
        if path.startswith("/~"):  # nobody has such a folder, and whoever writes this means another one
            raise ConfigurationError(
                f"{text!r} would begin at a folder {path.split('/')[1]} of the root, not at a home: "
                f"write {SCHEME}:/{quote(path)}, the absolute path, or open_store(os.path.expanduser({path[1:]!r}))."
            )
    _require(path.strip("/") != "", "URL" if separator else "path", text, "the path of a file, not just a folder")
    _require(not path.endswith("/"), "path", text, 'the path of a file: it must not end in "/"')
    return path, query


def _absolute(path: str) -> str:
    _require("\0" not in path, "path", path, "a path without NUL bytes")
    expanded = os.path.expanduser(path)
    _require(not expanded.startswith("~"), "path", path, "in the home of a user who exists (for a file ~x write ./~x)")
    return os.path.abspath(expanded)


def _decode(path: str, url: str) -> str:
    try:
        return unquote(path, errors="strict")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{url!r} holds a %xx sequence that is not UTF-8: {error}") from error


def _query_options(query: str, url: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict") if query else []
    except ValueError as error:
        raise ConfigurationError(f"The options of {url!r} should read name=value&name=value: {error}") from error
    found = dict(pairs)
    _require(len(found) == len(pairs), "URL", url, "a URL that gives each option once")
    return found


def _reject_unknown(given: Mapping[str, object], known: set[str]) -> None:
    unknown = sorted(given.keys() - known)
    if unknown:
        raise UnknownOption(f"Unknown option {', '.join(unknown)}; there are: {', '.join(sorted(known))}.")


def _parse(name: str, value: Any) -> Any:
    """Turn the text of a URL into a value; what is not text was given in code and passes."""
    if not isinstance(value, str) or name in ("durability", "global_keyprefix", "on_damage"):
        return value
    parsers: dict[str, Callable[[str], Any]] = {
        "max_size": _size,
        "mode": _mode,
        "max_readers": int,
        "checkpoint_interval": float,
        "lock_timeout": float,
        "checkpoint_bytes": _size,
    }
    _require(name in parsers, name, value, "a value that is given in code, not in the URL")
    try:
        return parsers[name](value)
    except ValueError as error:
        raise ConfigurationError(f"{name}={value!r} cannot be understood: {error}") from error


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"a size is a number with one of the units {', '.join(u for u in _UNITS if u)}, as in 8GiB")
    return int(Decimal(match[1]) * unit)


def _mode(text: str) -> int:
    if not re.fullmatch(r"(0o)?[0-7]+", text):
        raise ValueError("permission bits are octal, as in 0660")
    return int(text, 8)


def _is_int(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_encodable(text: Any, encode: Callable[[str], bytes]) -> bool:
    try:
        encode(text)
    except (UnicodeEncodeError, TypeError):
        return False
    return isinstance(text, str)


def _require(condition: bool, name: str, value: object, wanted: str) -> None:
    if not condition:
        raise ConfigurationError(f"{name} {value!r} will not do: it has to be {wanted}.")
