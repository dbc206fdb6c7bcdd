"""Messages: what a writer tells whoever waits for a record, in a datagram.

    topic (waiters.py), kind, moment of the commit, length, as many bytes of the record

Several may stand in one datagram. The record is in it, as the commit left it, if it is small and the last thing that
was waited for: so whoever waits need not open the file, which takes half of the time from the commit until he has it.
"""

from struct import Struct, error
from typing import Final

__all__ = ["DATAGRAM_BYTES", "LONGEST_RECORD", "TOPIC_BYTES", "message", "messages_in"]

TOPIC_BYTES: Final = 16
_HEAD: Final = Struct(">16sBQH")
_HEAD_BYTES: Final = _HEAD.size
_unpack_head = _HEAD.unpack_from
#: Longer records are left to be read in the file: there that costs the same, and here a queue of ten would take pages.
LONGEST_RECORD: Final = 2048
#: What a datagram holds at most: a page less what the kernel notes with it.
DATAGRAM_BYTES: Final = 3584


def message(topic: bytes, is_last: bool, moment: int, record: bytes) -> bytes:
    """Return the bytes of a message.

    ``is_last`` says that the registration has been used up, ``moment`` is the id of the transaction that did it, and
    ``record`` what that left in the place of the record; b"", or one that is too long, has that looked for in the file.
    """
    if len(record) > LONGEST_RECORD:
        record = b""
    return _HEAD.pack(topic, is_last, moment, len(record)) + record


def messages_in(datagram: bytes) -> list[tuple[bytes, int, int, bytes]]:
    """Return what `message` was given for each message in a datagram, up to the first that does not look like one."""
    found: list[tuple[bytes, int, int, bytes]] = []
    start, end = 0, len(datagram)
    while start < end:
        try:
            topic, is_last, moment, length = _unpack_head(datagram, start)
        except error:
            break
        start += _HEAD_BYTES
        found.append((topic, is_last, moment, datagram[start : start + length]))
        start += length
    return found
