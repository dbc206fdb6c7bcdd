"""Payload serializers and compressions, on the wire the same as Celery's.

A payload says itself how it is encoded, so a reader needs no matching configuration, only the will to accept its
content type. Pickle runs code when it is read: it is written and read only by those who name it.
"""

import base64
import bz2
import functools
import inspect
import lzma
import pickle
import sys
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NamedTuple, TypeVar

import msgpack

from lmdbresults.errors import ContentDisallowed, DecodeError, EncodeError, SecurityError, TaskError, UnknownSerializer
from lmdbresults.fast_json import json_decoder, json_encoder
from lmdbresults.record import Payload, new_payload

__all__ = [
    "DEFAULT_ACCEPT",
    "accepted_types",
    "compressions",
    "dumps",
    "exception_from_portable",
    "exception_to_picklable",
    "exception_to_portable",
    "loads",
    "serializers",
]

#: Serializers whose decoding runs no code; what a reader accepts unless told otherwise.
DEFAULT_ACCEPT: Final = ("json", "msgpack", "yaml")


class Serializer(NamedTuple):
    """One way to turn a value into bytes and back."""

    content_type: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    content_encoding: str = "binary"


class Compression(NamedTuple):
    """One way to make bytes fewer, and back."""

    content_type: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]


def dumps(value: Any, serializer: str = "json", compression: str | None = None) -> Payload:
    """Return ``value`` as a `Payload`.

    Raises `UnknownSerializer` for a name that is unknown or not installed, `EncodeError` if the serializer has no
    form for the value.
    """
    chosen = _by_name(serializers(), serializer, "serializer")
    squeeze = _by_name(compressions(), compression, "compression") if compression else None
    try:
        body = chosen.encode(value)
    except RecursionError as error:
        raise EncodeError(f"{serializer} cannot encode a value that contains itself, or is nested too deep") from error
    except Exception as error:  # each serializer has its own errors, and a value's own hooks may raise anything
        raise EncodeError(
            f"{serializer} cannot encode this {type(value).__name__}: {error}. "
            f"Return simpler types, or choose another serializer of {', '.join(serializers())}."
        ) from error
    if squeeze is None:
        return new_payload((chosen.content_type, chosen.content_encoding, None, body, None))
    return Payload(chosen.content_type, chosen.content_encoding, squeeze.content_type, squeeze.compress(body))


def loads(payload: Payload, accept: Iterable[str] = DEFAULT_ACCEPT) -> Any:
    """Return the value in ``payload``.

    ``accept`` holds names of serializers or content types. Raises `ContentDisallowed` if the payload's is not among
    them, `UnknownSerializer` if it is not installed here, `DecodeError` if the bytes are not what they claim to be.
    """
    content_type, _, compression, body, _ = payload
    decode = _decoder(content_type, frozenset(accept))
    squeeze = _by_type(compressions(), compression, "compression") if compression else None
    try:
        return decode(body if squeeze is None else squeeze.decompress(body))
    except Exception as error:  # damaged bytes make each serializer fail in its own ways
        raise DecodeError(f"The bytes are no {content_type}: {error!r}") from error


@functools.lru_cache(maxsize=64)
def _decoder(content_type: str, accept: frozenset[str]) -> Callable[[bytes], Any]:
    if content_type not in accept and content_type not in accepted_types(accept):
        raise ContentDisallowed(
            f"The result is {content_type}, and only {', '.join(sorted(accept))} is accepted here. "
            "If you trust whoever can write to the file, add it to the accepted content."
        )
    return _by_type(serializers(), content_type, "serializer").decode


def accepted_types(accept: Iterable[str]) -> frozenset[str]:
    """Return the content types behind names of serializers; what is a content type already passes."""
    known = serializers()
    return frozenset(known[name].content_type if name in known else name for name in accept)


# -- json, with the types that Celery's json gives back ------------------------------------------------------------


def _json_default(value: Any) -> Any:
    reduce = getattr(value, "__json__", None)
    if reduce is not None:
        return reduce()
    for kind, (tag, encode, _) in _JSON_TYPES.items():
        if isinstance(value, kind):
            return {"__type__": tag, "__value__": encode(value)}
    if isinstance(value, bytes):
        try:
            return {"__type__": "bytes", "__value__": value.decode()}
        except UnicodeDecodeError:
            return {"__type__": "base64", "__value__": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _json_object(mapping: dict[str, Any]) -> Any:
    if "__type__" not in mapping or mapping.keys() != {"__type__", "__value__"}:
        return mapping
    decode = _JSON_DECODERS.get(mapping["__type__"])
    if decode is None:
        raise ValueError(f"unknown __type__ {mapping['__type__']!r}")
    return decode(mapping["__value__"])


#: datetime stands before date, of which it is a subclass.
_JSON_TYPES: Final[dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]] = {
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("date", date.isoformat, lambda text: datetime.fromisoformat(text).date()),
    time: ("time", time.isoformat, time.fromisoformat),
    Decimal: ("decimal", str, Decimal),
    uuid.UUID: ("uuid", lambda value: {"hex": value.hex}, lambda value: uuid.UUID(**value)),
}
_JSON_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "bytes": str.encode,
    "base64": base64.b64decode,
    **{tag: decode for tag, _, decode in _JSON_TYPES.values()},
}


_to_json = json_encoder(_json_default)
_from_json = json_decoder(_json_object)


# -- exceptions, in a form that every serializer can write ----------------------------------------------------------


def exception_to_portable(error: BaseException, serializer: str = "json") -> dict[str, Any]:
    """Return ``{exc_type, exc_message, exc_module}``. What the serializer has no form for becomes its repr."""
    kind = type(error)
    return {
        "exc_type": kind.__qualname__,
        "exc_message": [argument if _can_encode(argument, serializer) else repr(argument) for argument in error.args],
        "exc_module": kind.__module__,
    }


def exception_from_portable(portable: Mapping[str, Any]) -> BaseException:
    """Return an instance of the class that is named, if it is imported and an exception; else of a `TaskError`.

    Nothing is ever imported or called because a stored name says so (CVE-2021-23727). Raises `SecurityError` if the
    name belongs to something else than an exception class, `DecodeError` if ``portable`` describes no exception.
    """
    try:
        name, module, message = str(portable["exc_type"]), portable.get("exc_module"), portable.get("exc_message", "")
    except (TypeError, KeyError, AttributeError) as error:
        raise DecodeError(f"A stored exception is a mapping with exc_type, not {portable!r}") from error
    kind = _imported_class(name, str(module)) if module else None
    if kind is None:
        kind = _made_up_class(name.rpartition(".")[2], str(module or TaskError.__module__))
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise SecurityError(f"The stored result names {module}.{name} as its exception, which is no exception class.")
    arguments = message if isinstance(message, list | tuple) else (message,)
    try:
        return kind(*arguments)
    except Exception:  # a class may ask for other arguments than it keeps in .args
        return TaskError(f"{module}.{name}: {', '.join(map(str, arguments))}")


def exception_to_picklable(error: BaseException) -> BaseException:
    """Return the exception itself if it survives pickling, else a `TaskError` that says what it was."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # whatever a class's own hooks raise
        return TaskError(f"{type(error).__module__}.{type(error).__qualname__}: {error}")
    return error


def _can_encode(value: Any, serializer: str) -> bool:
    try:
        dumps(value, serializer)
    except EncodeError:
        return False
    return True


def _made_up_class(name: str, module: str) -> type[TaskError]:
    return type(name, (TaskError,), {"__module__": module}) if name.isidentifier() else TaskError


def _imported_class(qualified_name: str, module: str) -> Any:
    found: Any = sys.modules.get(module)
    for name in qualified_name.split("."):
        found = inspect.getattr_static(found, name, None)  # runs no __getattr__, which may import and do anything
    return found


# -- what there is -------------------------------------------------------------------------------------------------


@functools.cache
def serializers() -> Mapping[str, Serializer]:
    """Return the serializers by name: json, msgpack, pickle, and yaml where PyYAML is installed."""
    found = {
        "json": Serializer("application/json", _to_json, _from_json, "utf-8"),
        "msgpack": Serializer("application/x-msgpack", msgpack.packb, _from_msgpack),
        "pickle": Serializer("application/x-python-serialize", pickle.dumps, pickle.loads),
    }
    if find_spec("yaml"):
        found["yaml"] = Serializer("application/x-yaml", _to_yaml, _from_yaml, "utf-8")
    return found


@functools.cache
def compressions() -> Mapping[str, Compression]:
    """Return the compressions by name: zlib, bzip2, lzma, and brotli or zstd where their module is installed."""
    found = {
        "zlib": Compression("application/x-gzip", zlib.compress, zlib.decompress),
        "bzip2": Compression("application/x-bz2", bz2.compress, bz2.decompress),
        "lzma": Compression("application/x-lzma", lzma.compress, lzma.decompress),
    }
    optional = {"brotli": "brotli", "zstd": "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"}
    for name, module_name in optional.items():
        try:
            module = import_module(module_name)
        except ImportError:
            continue
        content_type = {"brotli": "application/x-brotli", "zstd": "application/zstd"}[name]
        found[name] = Compression(content_type, module.compress, module.decompress)
    return found


def _from_msgpack(body: bytes) -> Any:
    return msgpack.unpackb(body, strict_map_key=False)  # what was written with keys of other types is to come back


def _to_yaml(value: Any) -> bytes:
    import yaml  # here, because importing it takes longer than everything else in this package

    text: str = yaml.safe_dump(value)
    return text.encode()


def _from_yaml(body: bytes) -> Any:
    import yaml

    return yaml.safe_load(body)


Coder = TypeVar("Coder", Serializer, Compression)


def _by_name(known: Mapping[str, Coder], name: str, what: str) -> Coder:
    try:
        return known[name]
    except KeyError:
        raise UnknownSerializer(f"There is no {what} {name!r} here; there are: {', '.join(known)}.") from None


def _by_type(known: Mapping[str, Coder], content_type: str, what: str) -> Coder:
    for coder in known.values():
        if coder.content_type == content_type:
            return coder
    raise UnknownSerializer(f"No {what} for {content_type} is installed here; there are: {', '.join(known)}.")
