"""Who waits for which key: the registrations, in the same tree as the records.

    w <BLAKE2b of the record's place> <box>    "f" or "e", then the place

A box is the random id of a mailbox (mailbox.py); "f" waits for a final value, "e" for every change. The record of the
key carries a flag that says that somebody waits, and where there is no record yet a vacant one stands in for it. So a
write of a key that nobody waits for, the usual case, costs nothing more than it would without all this.

Functions take a raw transaction, like those of records.py, which decides when to call them.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final, NamedTuple

from lmdbresults.store.lmdb.notify.messages import TOPIC_BYTES, message
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["BOX_BYTES", "REGION", "News", "enter", "is_sound", "leave", "page", "take", "topic_of"]

#: The first byte of the keys of registrations.
REGION: Final = b"w"
BOX_BYTES: Final = 8

_FINAL, _EVERY = b"f", b"e"
_PREFIX_BYTES: Final = len(REGION) + TOPIC_BYTES


class News(NamedTuple):
    """A message (messages.py) to send to a box once the transaction is committed."""

    box: bytes
    message: bytes


def topic_of(place: bytes) -> bytes:
    """Return what stands for a record's place in registrations and messages."""
    return blake2b(place, digest_size=TOPIC_BYTES).digest()


def enter(txn: Transaction, place: bytes, box: bytes, every_change: bool) -> None:
    """Register a box for a record. Who has asked for every change already is left with that."""
    txn.put(REGION + topic_of(place) + box, (_EVERY if every_change else _FINAL) + place, overwrite=every_change)


def leave(txn: Transaction, place: bytes, box: bytes) -> bool:
    """Take a registration back; return whether others are left for the same record."""
    topic = topic_of(place)
    txn.delete(REGION + topic + box)
    return any(True for _ in _entries(txn, REGION + topic))


def take(
    txn: Transaction, place: bytes, interim: bool, value: bytes | None = None, deadline: float = 0.0
) -> list[News]:
    """Return the news for those who wait for a record.

    An interim value is news for those who asked for every change, and leaves all registered. Any other is for all,
    and uses their registrations up; the messages bring ``value``, which expires at the deadline, if it is given.
    """
    topic = topic_of(place)
    found = list(_entries(txn, REGION + topic))
    if not interim:
        for key, _ in found:
            txn.delete(key)
    sound = [(key[_PREFIX_BYTES:], entry) for key, entry in found if is_sound(key, entry)]
    text = message(topic, interim, txn.id(), value, deadline)
    return [News(box, text) for box, entry in sound if not interim or entry.startswith(_EVERY)]


def page(txn: Transaction, start: bytes, limit: int) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """Return place and box of up to ``limit`` registrations, and where to go on (None: at the end). Begin with b""."""
    found: list[tuple[bytes, bytes]] = []
    for key, entry in _entries(txn, REGION, start):
        if len(found) >= limit:
            return found, key
        if is_sound(key, entry):
            found.append((entry[1:], key[_PREFIX_BYTES:]))
    return found, None


def is_sound(key: bytes, entry: bytes) -> bool:
    """Return whether this is a registration, and nothing that damage has made of one."""
    place = entry[1:]
    return (
        len(key) == _PREFIX_BYTES + BOX_BYTES
        and entry[:1] in (_FINAL, _EVERY)
        and place != b""
        and key[len(REGION) : _PREFIX_BYTES] == topic_of(place)
    )


def _entries(txn: Transaction, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    cursor = txn.cursor()
    if cursor.set_range(start or prefix):
        for key, entry in cursor:
            if not key.startswith(prefix):
                break
            yield key, entry
