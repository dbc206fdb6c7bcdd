"""The records of queues: what lies in the store, and under which keys.

    queue-head-<queue>                          the head: id, next sequence, counts, arguments
    queue-ready-<id><order><sequence>           a message that can be taken
    queue-delayed-<id><due><order><sequence>    a message that is not due yet
    queue-unacked-<owner><number><flags>        a message that was taken: its place in the queue, its queue, the message
    queue-body-<id><sequence>                   a large body, so that moving its message is cheap: named after the place
                                                where it was published, which the message says, wherever it is now;
                                                of a unique message, any body, named after what is unique
    queue-owner-<owner>                         a process that holds messages or owns queues
    queue-owned-<owner><queue>                  a queue that dies with its owner; no value
    queue-unused-<queue>                        a queue that expires when it is not used; no value
    queue-doomed-<id>                           a deleted queue whose messages are not all deleted yet; no value
    queue-exchange-<exchange>                   its kind and bindings
    queue-bound-<queue>                         the exchanges that a queue is bound to
    queue-ids                                   counter: the last id of a queue

Numbers in keys have a fixed width, so that keys sort by them. A queue that is deleted and declared again has a new id.
No record expires by itself: the heads count the messages, so each message that goes is counted.
"""

from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

import msgpack

from lmdbresults.process.identity import Owner
from lmdbresults.store.queues.values import NO_ARGUMENTS, Arguments, Death

__all__ = [
    "BODY",
    "BODY_ID",
    "BOUND",
    "DELAYED",
    "DOOMED",
    "DUE",
    "EXCHANGE",
    "HEAD",
    "IDS",
    "LARGE",
    "LARGEST_INLINE",
    "MESSAGE",
    "NO_ID",
    "NOTED",
    "OWNED",
    "OWNER",
    "OWNERS_TOPIC",
    "PLACE",
    "QUEUE_ID",
    "READY",
    "REDELIVERED",
    "UNACKED",
    "UNUSED",
    "Head",
    "Stored",
    "body_id",
    "body_key",
    "is_unique",
    "number_in",
    "owner_id",
    "pack_message",
    "pack_unacked",
    "place_in",
    "read_message",
    "read_unacked",
    "topic",
    "unacked_key",
    "unique_body_id",
]

HEAD, READY, DELAYED, UNACKED, BODY = (
    b"queue-head-",
    b"queue-ready-",
    b"queue-delayed-",
    b"queue-unacked-",
    b"queue-body-",
)
OWNER, OWNED, UNUSED, DOOMED = b"queue-owner-", b"queue-owned-", b"queue-unused-", b"queue-doomed-"
EXCHANGE, BOUND, IDS = b"queue-exchange-", b"queue-bound-", b"queue-ids"
_TOPIC: Final = b"queue-topic-"
#: The topic on which a new owner is announced.
OWNERS_TOPIC: Final = b"queue-owners"

#: Bytes of the id of a large body.
BODY_ID: Final = 12
#: A larger body has a record of its own.
LARGEST_INLINE: Final = 8192

#: The bit that tells the id of the body of a unique message.
_UNIQUE: Final = 0x80
#: Flags of a message: the body has a record of its own; it came back once; notes stand before the body.
LARGE, REDELIVERED, NOTED = 1, 2, 4

#: Id, next sequence, ready messages, their bytes, delayed messages, when the first of them is due, when last used,
#: the owner, the last process that has taken from a queue that expires; then the arguments.
_HEAD: Final = Struct(">IQQQQdd8s8s")
QUEUE_ID: Final = Struct(">I")
#: Id of the queue, order (9 less the priority), sequence.
PLACE: Final = Struct(">IBQ")
DUE: Final = Struct(">d")
#: When it expires (0: never), when it was published, deliveries, bytes of the body, flags.
MESSAGE: Final = Struct(">ddHIB")
_NOTES: Final = Struct(">I")
#: Number of the delivery, and whether the body has a record of its own.
_NUMBER: Final = Struct(">QB")
#: When it was taken, bytes of the name of its queue.
_TAKEN: Final = Struct(">dB")
#: Instead of the id of an owner: there is none.
NO_ID: Final = bytes(8)


# -- heads -------------------------------------------------------------------------------------------------------------


class Head:
    """The state of a queue."""

    __slots__ = ("_arguments", "delayed", "due", "id", "next", "owner", "ready", "size", "stored", "used", "user")

    def __init__(self, data: bytes) -> None:
        #: The value of the record, to see whether it must be written.
        self.stored = data
        self.owner: bytes
        counts = _HEAD.unpack_from(data)
        (self.id, self.next, self.ready, self.size, self.delayed, self.due, self.used, self.owner, self.user) = counts
        self._arguments = data[_HEAD.size :]

    @classmethod
    def new(cls, id_: int) -> "Head":
        """Return the head of an empty queue."""
        return cls(_HEAD.pack(id_, 0, 0, 0, 0, 0.0, 0.0, NO_ID, NO_ID))

    def pack(self) -> bytes:
        """Return the value of the record."""
        counts = (self.id, self.next, self.ready, self.size, self.delayed, self.due, self.used, self.owner, self.user)
        return _HEAD.pack(*counts) + self._arguments

    @property
    def arguments(self) -> Arguments:
        """How the queue behaves."""
        return _arguments(self._arguments) if self._arguments else NO_ARGUMENTS

    @arguments.setter
    def arguments(self, arguments: Arguments) -> None:
        self._arguments = b"" if arguments == NO_ARGUMENTS else msgpack.packb(arguments)

    @property
    def is_plain(self) -> bool:
        """Whether the queue has no arguments and no owner."""
        return not self._arguments and self.owner == NO_ID

    @property
    def is_temporary(self) -> bool:
        """Whether the queue dies with a process, or when it is not used."""
        return self.owner != NO_ID or self.arguments.expires is not None

    @property
    def is_owned(self) -> bool:
        """Whether the queue dies with a process."""
        return self.owner != NO_ID


@lru_cache(256)
def _arguments(data: bytes) -> Arguments:
    return Arguments(*msgpack.unpackb(data))


def topic(queue: str) -> bytes:
    """Return the topic that a consumer of a queue follows while it is idle."""
    return _TOPIC + queue.encode()


@lru_cache(16)
def owner_id(owner: Owner) -> bytes:
    """Return what an owner is called in keys."""
    return blake2b(msgpack.packb(owner), digest_size=8).digest()


# -- messages ----------------------------------------------------------------------------------------------------------


class Stored(NamedTuple):
    """A message as it is stored, its body apart."""

    expires: float
    published: float
    deliveries: int
    size: int
    flags: int


def pack_message(stored: Stored, deaths: tuple[Death, ...], body: bytes) -> bytes:
    """Return the record of a message. ``body`` is its id if it has a record of its own."""
    if not deaths:
        return MESSAGE.pack(*stored) + body
    notes = msgpack.packb(deaths)
    head = MESSAGE.pack(*stored[:-1], stored.flags | NOTED)
    return b"".join((head, _NOTES.pack(len(notes)), notes, body))


def read_message(record: bytes) -> tuple[Stored, tuple[Death, ...], bytes]:
    """Return what a record says, its deaths, and the body, or its id if it has a record of its own."""
    stored = Stored._make(MESSAGE.unpack_from(record))
    start = MESSAGE.size
    if not stored.flags & NOTED:
        return stored, (), record[start:]
    (length,) = _NOTES.unpack_from(record, start)
    start += _NOTES.size
    notes = msgpack.unpackb(record[start : start + length])
    return stored, tuple(Death(*death) for death in notes), record[start + length :]


def body_id(place: bytes) -> bytes:
    """Return what the large body of a message is called that is published at a place: `BODY_ID` bytes."""
    return place[:4] + place[5:]  # whatever its priority


def unique_body_id(queue: int, unique: str) -> bytes:
    """Return what the body of a unique message is called: as long as, and unlike, any `body_id` of 2**31 queues."""
    digest = blake2b(unique.encode(errors="surrogatepass"), digest_size=BODY_ID, key=QUEUE_ID.pack(queue)).digest()
    return bytes([digest[0] | _UNIQUE]) + digest[1:]


def is_unique(body: bytes) -> bool:
    """Return whether the id of a large body is that of a unique message."""
    return body[0] >= _UNIQUE


def body_key(message: bytes) -> bytes:
    """Return the key of the large body of a message, which ends with its id, as do deliveries of it."""
    return BODY + message[-BODY_ID:]


def place_in(key: bytes) -> bytes:
    """Return the place of a waiting message, from its key: id of the queue, order, sequence."""
    start = len(READY) if key.startswith(READY) else len(DELAYED)
    return key[start : start + 4] + key[4 - PLACE.size :]


def unacked_key(owner: bytes, number: int, flags: int) -> bytes:
    """Return the key of a delivery. Its tag is the key without the prefix."""
    return UNACKED + owner + _NUMBER.pack(number, flags & LARGE)


def number_in(key: bytes) -> int:
    """Return the number of a delivery, from its key."""
    number: int = _NUMBER.unpack_from(key, len(UNACKED) + len(NO_ID))[0]
    return number


def pack_unacked(place: bytes, taken: float, name: bytes, record: bytes) -> bytes:
    """Return the record of a message that was taken."""
    return b"".join((place, _TAKEN.pack(taken, len(name)), name, record))


def read_unacked(data: bytes) -> tuple[bytes, float, str, bytes]:
    """Return the place of a message that was taken, when it was, its queue, and the record of the message."""
    taken, length = _TAKEN.unpack_from(data, PLACE.size)
    start = PLACE.size + _TAKEN.size
    return data[: PLACE.size], taken, data[start : start + length].decode(), data[start + length :]
