"""Where keys lie: the name of a key on the server, its slot, and the channel on which its changes are published.

A Cluster spreads keys over 16384 slots by what stands in braces, and one step can change keys of one slot only. So a
task's, group's or chord's key carries its id in braces: ``celery-task-meta-{id}``. All other keys share one slot,
``{store}key``, so that they can be changed together.
"""

import binascii
import re
from typing import Final

__all__ = ["SLOTS", "Layout", "slot_of"]

SLOTS: Final = 16384
#: What stands before the id in the keys that are spread. A prefix of Celery's own may come before it.
_KINDS: Final = (b"celery-task-meta-", b"celery-taskset-meta-", b"chord-unlock-")
_KIND: Final = re.compile(b"|".join(_KINDS))
_SHARED: Final = b"{store}"
#: What must be escaped in a pattern of the command SCAN.
_SPECIAL: Final = re.compile(rb"([*?\[\]\\^])")


def slot_of(name: bytes) -> int:
    """Return the slot of a name on the server."""
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return binascii.crc_hqx(name, 0) % SLOTS


class Layout:
    """The names of the keys of one store."""

    def __init__(self, prefix: str, db: int) -> None:
        self._prefix = prefix.encode()
        self._channel = b"lmdbresults:%d:" % db

    def name(self, key: bytes) -> bytes:
        """Return the name of a key on the server."""
        kind = _KIND.search(key)
        if kind is None:
            return self._prefix + _SHARED + key
        end = kind.end()
        return b"%b%b{%b}" % (self._prefix, key[:end], key[end:])

    def key(self, name: bytes) -> bytes | None:
        """Return the key with a name on the server; None if it is none of this store."""
        if not name.startswith(self._prefix):
            return None
        name = name[len(self._prefix) :]
        kind = _KIND.search(name)
        if kind is None:
            return name[len(_SHARED) :] if name.startswith(_SHARED) else None
        end = kind.end()
        return name[:end] + name[end + 1 : -1] if name[end : end + 1] == b"{" and name[-1:] == b"}" else None

    def channel(self, name: bytes) -> bytes:
        """Return the channel of a name, in the same slot. Databases share channels, so it names the database."""
        return self._channel + name

    @property
    def channel_prefix(self) -> bytes:
        """What comes before a name in its channel."""
        return self._channel

    def special(self, what: bytes) -> bytes:
        """Return the name of something that is not a record."""
        return self._prefix + _SHARED + b"lmdbresults." + what

    def pattern(self, prefix: bytes) -> bytes:
        """Return a pattern that matches the names of all keys with a prefix; it may match others."""
        kind = _KIND.search(prefix)
        start = b"" if kind is None else prefix[: kind.end()] + b"{" + prefix[kind.end() :]
        return _SPECIAL.sub(rb"\\\1", self._prefix + start) + b"*"
