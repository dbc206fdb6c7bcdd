"""Messages: what a writer tells whoever waits for a record, in a datagram.

    topic (waiters.py), kind, moment of the commit, deadline, length, as many bytes of the value

Several may stand in one datagram. The value is in it if it is small, and what was waited for: so whoever waits need not
open the file, which takes half of the time from the commit until he has it. It has no checksum: it comes from memory,
and who can send it could as well write to the file.
"""

from struct import Struct
from typing import Final

__all__ = ["DATAGRAM_BYTES", "HEAD_BYTES", "INTERIM", "LAST", "TOPIC_BYTES", "VALUE", "head_at", "message"]

TOPIC_BYTES: Final = 16
_HEAD: Final = Struct(">16sBQdH")
HEAD_BYTES: Final = _HEAD.size
#: Return topic, kind, moment, deadline and length of the message at a position of a datagram. Raises ``struct.error``.
head_at = _HEAD.unpack_from

#: Kinds: the registration stays; it has been used up; that, and here is the value.
INTERIM, LAST, VALUE = 0, 1, 2

#: Longer values are left to be read in the file: there that costs the same, and a queue of ten would take pages here.
_LONGEST_VALUE: Final = 2048
#: What a datagram holds at most: a page less what the kernel notes with it.
DATAGRAM_BYTES: Final = 3584


def message(topic: bytes, interim: bool, moment: int, value: bytes | None = None, deadline: float = 0.0) -> bytes:
    """Return the bytes of a message about a change by the transaction whose id is ``moment``.

    ``value`` is what it left under the key, until the ``deadline`` (0: for ever). None, or one that is too long, has it
    looked for in the file.
    """
    if interim or value is None or len(value) > _LONGEST_VALUE:
        return _HEAD.pack(topic, INTERIM if interim else LAST, moment, 0.0, 0)
    return _HEAD.pack(topic, VALUE, moment, deadline, len(value)) + value
