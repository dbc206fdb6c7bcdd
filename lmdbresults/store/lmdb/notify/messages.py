"""Messages: what a writer sends to a subscriber after a commit, in a datagram.

    kind, moment of the commit, deadline, bytes of the place, bytes of the value, place, value

A place (layout.py) stands for the key. Several messages may share a datagram. A short value is sent along, so that the
subscriber need not open the file, which takes half of the time from the commit until it has the value. There is no
checksum: the value comes from memory, and a process that can send it could as well write to the file.
"""

from struct import Struct
from typing import Final, TypeAlias

__all__ = ["DATAGRAM_BYTES", "Message", "messages_in", "pack"]

_HEAD: Final = Struct(">BQdHH")
#: As the length of a value: none was sent.
_NO_VALUE: Final = 0xFFFF
#: Bytes of a datagram at most: a page less what the kernel notes with it.
DATAGRAM_BYTES: Final = 3584


#: What happened to one key: its place, the kind of change, the moment, the deadline, and the value or None.
Message: TypeAlias = tuple[bytes, int, int, float, bytes | None]


def pack(place: bytes, kind: int, moment: int, deadline: float = 0.0, value: bytes | None = None) -> bytes:
    """Return the bytes of a message about a change by the transaction whose id is ``moment``."""
    length = _NO_VALUE if value is None else len(value)
    return _HEAD.pack(kind, moment, deadline, len(place), length) + place + (value or b"")


def messages_in(datagram: bytes) -> list[Message]:
    """Return the messages in a datagram, up to the first that is not well-formed."""
    messages, start = list[Message](), 0
    while len(datagram) - start >= _HEAD.size:
        kind, moment, deadline, place_bytes, length = _HEAD.unpack_from(datagram, start)
        middle = start + _HEAD.size + place_bytes
        start = middle if length == _NO_VALUE else middle + length
        if start > len(datagram):
            break
        value = None if length == _NO_VALUE else datagram[middle:start]
        messages.append((datagram[middle - place_bytes : middle], kind, moment, deadline, value))
    return messages
