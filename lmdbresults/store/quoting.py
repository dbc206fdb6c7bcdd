"""How messages quote a key, which may be as long as anybody likes."""

from typing import Final

__all__ = ["quoted"]

#: Characters of a key in a message. An id with its prefix fits, and the message fits a screen.
_MOST: Final = 100
#: How many of them are the last ones of a longer key, where an id tells it from others.
_LAST: Final = 30


def quoted(key: bytes) -> str:
    """Return a key as messages quote it: a long one by its beginning, an ellipsis, its end and its length."""
    text = repr(key)
    return text if len(text) <= _MOST else f"{text[: _MOST - _LAST]}...{text[-_LAST:]} ({len(key)} bytes)"
