"""JSON for many small values: an encoder and a decoder that are made once."""

import json
from collections.abc import Callable
from typing import Any, Final

__all__ = ["json_decoder", "json_encoder"]

#: Bytes from which on it pays to look whether a body is one string without an escape.
_LONG: Final = 4096


def json_encoder(default: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    """Return a function that encodes as ``json.dumps(value, default=default)`` does, in a third of the time.

    Raises RecursionError for a value that contains itself, because the ids of containers are not noted.
    """
    plain = json.JSONEncoder(default=default).encode
    try:  # a class private to CPython, of which JSONEncoder makes an instance for every value
        encode = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, default, json.encoder.encode_basestring_ascii, None, ": ", ", ", False, False, True
        )
    except (AttributeError, TypeError):
        return lambda value: plain(value).encode()
    return lambda value: "".join(encode(value, 0)).encode()


def json_decoder(object_hook: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], Any]:
    """Return a function that decodes as ``json.loads(body, object_hook=object_hook)`` does.

    The hook is for tagged values and is called only where there is a ``__type__``, because no encoder escapes letters.
    A long string without escapes is copied, in a twentieth of the time; control characters in it, which every encoder
    escapes, are not refused.
    """
    hooked, plain = json.JSONDecoder(object_hook=object_hook), json.JSONDecoder()
    # What raw_decode() calls, in one step less.
    scan_hooked: Callable[..., Any] = hooked.scan_once  # type: ignore[attr-defined]
    scan_plain: Callable[..., Any] = plain.scan_once  # type: ignore[attr-defined]

    def decode(body: bytes) -> Any:
        if len(body) > _LONG and body[:1] == b'"' and b"\\" not in body and body.find(b'"', 1) == len(body) - 1:
            return str(memoryview(body)[1:-1], "utf-8")
        text = body.decode()
        is_plain = text[:1] == '"' or "__type__" not in text  # a string may be long, and holds no objects
        try:
            value, end = scan_plain(text, 0) if is_plain else scan_hooked(text, 0)
        except (ValueError, StopIteration):  # leading white space, or not JSON: decode() distinguishes them
            end = -1
        return value if end == len(text) else (plain if is_plain else hooked).decode(text)

    return decode
