"""JSON for many small values: an encoder and a decoder that are made once."""

import json
from collections.abc import Callable
from typing import Any

__all__ = ["json_decoder", "json_encoder"]


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
    """
    hooked, plain = json.JSONDecoder(object_hook=object_hook), json.JSONDecoder()

    def decode(body: bytes) -> Any:
        text = body.decode()
        decoder = hooked if "__type__" in text else plain
        try:
            value, end = decoder.raw_decode(text)
        except ValueError:  # leading white space, or not JSON: decode() distinguishes them
            end = -1
        return value if end == len(text) else decoder.decode(text)

    return decode
