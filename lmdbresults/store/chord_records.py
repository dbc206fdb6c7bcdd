"""The records of chords: what lies in the store for one, and under which keys.

Beside the head, under the chord's key, lie

    <key>.<run>.part.<place>.<id>   a part: its number, its id, its value
    <key>.<run>.body                what the opener wants to be remembered of the body
    <key>.<run>.header              and of the header
    <key>.<run>.more.<id>           an addition to the running chord: its number, how many parts, the id of the result
    <key>.<run>.renewed             when the chord was opened; it expires when the deadlines of the others must be put
                                    off, and is empty afterwards

Opening a chord again starts a new run. All records of a chord have a deadline, so that what an abandoned run leaves
behind expires. The chords that are claimed are listed under one key, so that finding orphaned claims is one read.
"""

import math
import os
from struct import Struct
from typing import Final, NamedTuple

import msgpack

from lmdbresults.process.identity import NO_OWNER, Owner
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = [
    "CLAIMED",
    "ENDED",
    "HEAD_BYTES",
    "OPEN",
    "Head",
    "Part",
    "add_claim",
    "head_ttl",
    "is_head",
    "name_of",
    "new_head",
    "order_of",
    "pack_time",
    "part_name",
    "read_claims",
    "read_head",
    "read_time",
    "record_ttl",
    "remove_claim",
    "write_head",
]

OPEN, CLAIMED, ENDED = "open", "claimed", "ended"
_TIME: Final = Struct(">d")
#: Sorts parts without a place behind all others.
_NO_PLACE: Final = 1 << 63
#: Seconds after the last sign of life until a chord is dropped whose results never expire: a year.
_LONGEST_TTL: Final = 365 * 86400.0


class Part(NamedTuple):
    """A part of a chord."""

    place: int | None
    """Its place in the header; parts without one come last, in the order in which they returned."""
    id: str
    value: bytes
    has_failed: bool = False
    """A failed part is replaced by one with the same identity that has succeeded."""


class Head(NamedTuple):
    """The state of a chord, under its key."""

    run: str
    state: str
    size: int | None
    """How many parts it waits for, additions aside; None: not known yet."""
    added: int
    """How many more parts, of the results that were added while it ran."""
    additions: int
    """How many such results. They have records of their own, because each part reads and writes the head."""
    returned: int
    """How many parts have returned."""
    token: str
    """The token of the claim."""
    owner: Owner

    def is_complete(self) -> bool:
        """Return whether all parts have returned."""
        return self.size is not None and self.returned >= self.size + self.added

    def has_ended(self) -> bool:
        """Return whether late parts do nothing."""
        return self.state == ENDED

    def pack(self) -> bytes:
        """Return the head as the value of a record."""
        packed: bytes = msgpack.packb(self)
        return packed


def read_head(txn: ReadTransaction, key: bytes) -> Head | None:
    """Return the state of a chord, or None if there is no such chord."""
    data = txn.get(key)
    if data is None:
        return None
    *known, owner = msgpack.unpackb(data)
    return Head._make((*known, Owner(*owner)))


#: How many bytes `is_head` needs.
HEAD_BYTES: Final = 2
#: How a packed head begins: so many fields, of which the first is text of eight letters. No other record does.
_HEAD_BEGINS: Final = bytes((0x90 + len(Head._fields), 0xA0 + 8))


def is_head(beginning: bytes) -> bool:
    """Return whether a record of a chord is its head, by its first bytes."""
    return beginning[:HEAD_BYTES] == _HEAD_BEGINS


def write_head(txn: WriteTransaction, key: bytes, head: Head, ttl: float | None) -> None:
    """Store the state of a chord."""
    txn.set(key, head.pack(), head_ttl(ttl))


def new_head(size: int | None) -> Head:
    """Return the state of a new run."""
    return Head(os.urandom(4).hex(), OPEN, size, 0, 0, 0, "", NO_OWNER)


def head_ttl(ttl: float | None) -> float:
    """Return the seconds for which a head is kept: as long as results, but not for ever."""
    return _LONGEST_TTL if not ttl or ttl == math.inf else ttl


def record_ttl(ttl: float | None) -> float:
    """Return the seconds for which the other records of a chord are kept, which must outlive the head."""
    return 2 * head_ttl(ttl)


def read_claims(txn: ReadTransaction, claims_key: bytes) -> set[bytes]:
    """Return the keys of the claimed chords."""
    return set(msgpack.unpackb(txn.get(claims_key) or b"\x90"))


def add_claim(txn: WriteTransaction, claims_key: bytes, key: bytes) -> None:
    """Add a chord to the claimed ones."""
    _write_claims(txn, claims_key, read_claims(txn, claims_key) | {key})


def remove_claim(txn: WriteTransaction, claims_key: bytes, key: bytes) -> None:
    """Remove a chord from the claimed ones."""
    _write_claims(txn, claims_key, read_claims(txn, claims_key) - {key})


def _write_claims(txn: WriteTransaction, claims_key: bytes, keys: set[bytes]) -> None:
    if keys:
        txn.set(claims_key, msgpack.packb(sorted(keys)))
    else:
        txn.delete(claims_key)


def part_name(key: bytes, run: str, part: Part) -> bytes:
    """Return the key of a part."""
    return name_of(key, run, f"part.{order_of(part.place):016x}.{part.id}")


def order_of(place: int | None) -> int:
    """Return a number by which places sort; parts without a place come last."""
    return _NO_PLACE if place is None else place


def name_of(key: bytes, run: str, what: str) -> bytes:
    """Return the key of a record that belongs to a run."""
    return b"%b.%b.%b" % (key, run.encode(), what.encode())


def pack_time(moment: float) -> bytes:
    """Return a time as the value of a record."""
    return _TIME.pack(moment)


def read_time(data: bytes | None) -> float | None:
    """Return the time that `pack_time` packed; None if there is none."""
    moment: float | None = _TIME.unpack(data)[0] if data is not None and len(data) == _TIME.size else None
    return moment
