"""Payload serializers and compressions, on the wire the same as Celery's.

A payload names its own encoding, so a reader needs no matching configuration; it only must accept the content type.
Pickle runs code when it is read: it is written and read only where the user names it.
"""

import base64
import functools
import pickle
import sys
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NamedTuple, TypeVar

import msgpack

from lmdbresults.errors import ContentDisallowed, DecodeError, EncodeError, UnknownSerializer, described, text_of
from lmdbresults.fast_json import json_decoder, json_encoder
from lmdbresults.record import Payload, new_payload

__all__ = [
    "DEFAULT_ACCEPT",
    "MAX_DECODED_BYTES",
    "Compression",
    "Serializer",
    "accepted_types",
    "compressions",
    "decompress",
    "dumps",
    "loads",
    "serializers",
]

#: Serializers whose decoding runs no code; what a reader accepts by default.
DEFAULT_ACCEPT: Final = ("json", "msgpack", "yaml")
#: Bytes that a payload may have by default once it is decompressed.
MAX_DECODED_BYTES: Final = 256 << 20


class Serializer(NamedTuple):
    """A way to turn a value into bytes and back."""

    content_type: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    content_encoding: str = "binary"


class Compression(NamedTuple):
    """A way to compress bytes. ``decompress(body, limit)`` stops behind ``limit`` bytes."""

    content_type: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], bytes]


def dumps(value: Any, serializer: str = "json", compression: str | None = None) -> Payload:
    """Return ``value`` as a `Payload`.

    Raises `UnknownSerializer` for a name that is unknown or not installed, `EncodeError` if the serializer has no
    form for the value, or none that it could read.
    """
    chosen = _by_name(serializers(), serializer, "serializer")
    squeeze = _by_name(compressions(), compression, "compression") if compression else None
    try:
        body = chosen.encode(value)
    except RecursionError as error:
        raise EncodeError(f"{serializer} cannot encode a value that contains itself or is nested too deep") from error
    except Exception as error:  # each serializer has its own errors, and a value's own hooks may raise anything
        raise EncodeError(
            f"{serializer} cannot encode this {type(value).__name__}: {text_of(error)}. "
            f"Return simpler types, or choose another serializer of {', '.join(serializers())}."
        ) from error
    if squeeze is None:
        return new_payload((chosen.content_type, chosen.content_encoding, None, body, None))
    return Payload(chosen.content_type, chosen.content_encoding, squeeze.content_type, squeeze.compress(body))


def loads(payload: Payload, accept: Iterable[str] = DEFAULT_ACCEPT, max_bytes: int = MAX_DECODED_BYTES) -> Any:
    """Return the value in ``payload``.

    ``accept`` holds names of serializers or content types. Raises `ContentDisallowed` if the payload's is not among
    them, `UnknownSerializer` if it is not installed here, `DecodeError` if the bytes are not of that type, or more than
    ``max_bytes`` once they are decompressed.
    """
    content_type, _, compression, body, _ = payload
    decode = _decoder(content_type, frozenset(accept))
    if compression:
        body = decompress(body, compression, max_bytes)
    try:
        return decode(body)
    except Exception as error:  # damaged bytes make each serializer fail in its own ways
        raise DecodeError(f"The bytes are not valid {content_type}: {described(error)}") from error


def decompress(body: bytes, content_type: str, max_bytes: int = MAX_DECODED_BYTES) -> bytes:
    """Return the decompressed ``body``. Raises `DecodeError` if it is damaged, or has more than ``max_bytes`` then."""
    compression = _by_type(compressions(), content_type, "compression")
    try:
        found = compression.decompress(body, max_bytes)
    except Exception as error:  # each compression has its own errors, too
        raise DecodeError(f"The bytes are not valid {content_type}: {described(error)}") from error
    if len(found) > max_bytes:
        raise DecodeError(
            f"The payload has more than {max_bytes} bytes once it is decompressed. "
            "If that is right, raise max_decoded_bytes where it is read."
        )
    return found


@functools.lru_cache(maxsize=64)
def _decoder(content_type: str, accept: frozenset[str]) -> Callable[[bytes], Any]:
    if content_type not in accept and content_type not in accepted_types(accept):
        raise ContentDisallowed(
            f"The result is {content_type}, and only {', '.join(sorted(accept))} is accepted here. "
            "If you trust every process that can write to the file, add it to the accepted content."
        )
    return _by_type(serializers(), content_type, "serializer").decode


def accepted_types(accept: Iterable[str]) -> frozenset[str]:
    """Return the content types of serializers given by name; a content type stays as it is."""
    known = serializers()
    return frozenset(known[name].content_type if name in known else name for name in accept)


# -- json, with the types that Celery's json gives back ------------------------------------------------------------

#: The keys of a value with its type.
_TAGGED: Final = {"__type__", "__value__"}


def _to_json(value: Any) -> bytes:
    body = _encode_json(value)
    if b'"__type__"' in body and _looks_tagged(value):
        raise ValueError("a dict with the keys __type__ and __value__ and no others would be read as something else")
    return body


def _looks_tagged(value: Any) -> bool:
    """Return whether there is a dict in a value that the decoder would take for a value with its type."""
    if isinstance(value, dict):
        return value.keys() == _TAGGED or any(map(_looks_tagged, value.values()))
    return isinstance(value, list | tuple) and any(map(_looks_tagged, value))


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
    if "__type__" not in mapping or mapping.keys() != _TAGGED:
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
_encode_json = json_encoder(_json_default)
_from_json = json_decoder(_json_object)


# -- msgpack and yaml, with keys of any type -----------------------------------------------------------------------


def _from_msgpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body, strict_map_key=False)
    except TypeError:  # a key was a tuple, of which msgpack makes a list
        return msgpack.unpackb(body, strict_map_key=False, object_pairs_hook=_with_hashable_keys)


def _with_hashable_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_hashable(key): value for key, value in pairs}


def _hashable(key: Any) -> Any:
    return tuple(map(_hashable, key)) if isinstance(key, list) else key


def _to_yaml(value: Any) -> bytes:
    import yaml  # here, because importing it takes longer than everything else in this package

    text: str = yaml.safe_dump(value)
    return text.encode()


def _from_yaml(body: bytes) -> Any:
    import yaml

    return yaml.load(body, _yaml_loader())  # noqa: S506 - it is a safe one


@functools.cache
def _yaml_loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader, which also takes lists as keys: they were tuples."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            self.flatten_mapping(node)
            construct = self.construct_object
            return _with_hashable_keys([(construct(key, True), construct(value, deep)) for key, value in node.value])

    return Loader


# -- what is installed ---------------------------------------------------------------------------------------------


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
    import bz2  # with lzma: milliseconds of an import, rarely needed
    import lzma

    found = {
        "zlib": Compression("application/x-gzip", zlib.compress, _bounded(zlib.decompressobj)),
        "bzip2": Compression("application/x-bz2", bz2.compress, _bounded(bz2.BZ2Decompressor)),
        "lzma": Compression("application/x-lzma", lzma.compress, _bounded(lzma.LZMADecompressor)),
    }
    zstd = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    with suppress(ImportError):
        module = import_module(zstd)
        found["zstd"] = Compression("application/zstd", module.compress, _bounded(module.ZstdDecompressor))
    with suppress(ImportError):
        module = import_module("brotli")
        found["brotli"] = Compression("application/x-brotli", module.compress, functools.partial(_unbrotlied, module))
    return found


def _bounded(make_decompressor: Callable[[], Any]) -> Callable[[bytes, int], bytes]:
    """Return a function that decompresses up to one byte more than it is allowed."""

    def decompress_bounded(body: bytes, limit: int) -> bytes:
        decompressor = make_decompressor()
        found: bytes = decompressor.decompress(body, limit + 1)
        if not decompressor.eof and len(found) <= limit:
            raise EOFError("the compressed bytes end too early")
        return found

    return decompress_bounded


def _unbrotlied(brotli: Any, body: bytes, limit: int) -> bytes:
    """Decompress in small steps: not every version of the module knows a limit."""
    decompressor, found = brotli.Decompressor(), bytearray()
    for start in range(0, len(body), 256):
        found += decompressor.process(body[start : start + 256])
        if len(found) > limit:
            return bytes(found)
    if not decompressor.is_finished():
        raise EOFError("the compressed bytes end too early")
    return bytes(found)


Coder = TypeVar("Coder", Serializer, Compression)


def _by_name(known: Mapping[str, Coder], name: str, what: str) -> Coder:
    try:
        return known[name]
    except KeyError:
        raise UnknownSerializer(f"{name!r} is not an installed {what}; there are: {', '.join(known)}.") from None


def _by_type(known: Mapping[str, Coder], content_type: str, what: str) -> Coder:
    for coder in known.values():
        if coder.content_type == content_type:
            return coder
    raise UnknownSerializer(f"No {what} for {content_type} is installed here; there are: {', '.join(known)}.")
