"""Chords: parts that are counted by identity, and one claim to run the body.

Every function is a step of one transaction over the port, so that a task's result is stored in the same one as its
part, and any store can do it. Beside the head, under the chord's key, lie

    <key>.<run>.part.<place>.<id>   a part: its number, its id, its value
    <key>.<run>.body                what the opener wants to be remembered of the body
    <key>.<run>.header              and of the header
    <key>.<run>.renewed             nothing; its deadline says when those of the others have to be put off

A chord that is opened again is a new run; what is left of the former one is in nobody's way.
Which claims stand is written under one key for all chords, so that looking for orphaned ones is a single read.
"""

import math
import os
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgpack

from lmdbresults.store.base import ReadTransaction, WriteTransaction
from lmdbresults.store.owner import NOBODY, Owner, present_owner

__all__ = [
    "Claim",
    "Head",
    "Part",
    "Progress",
    "add_more",
    "end",
    "head_of",
    "is_over",
    "leftovers",
    "open_chord",
    "orphans",
    "part_keys",
    "parts",
    "release",
    "remembered",
    "return_part",
    "set_size",
    "settle",
    "take_over",
]

_OPEN, _CLAIMED, _ENDED = "open", "claimed", "ended"
#: Behind every place that there is.
_NO_PLACE: Final = 1 << 63


class Head(NamedTuple):
    """What is known of a chord."""

    run: str
    state: str
    size: int | None
    """Parts that it waits for; None: nobody has said."""
    added: dict[str, int]
    """What was added while it ran: so many parts more, by the id of the result."""
    returned: int
    """Parts that have returned."""
    token: str
    """Of the claim."""
    owner: Owner

    def is_complete(self) -> bool:
        return self.size is not None and self.returned >= self.size + sum(self.added.values())

    def has_ended(self) -> bool:
        """Return whether nothing counts any more."""
        return self.state == _ENDED

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb(self)
        return packed


class Claim(NamedTuple):
    """The right to run the body of a chord, and the duty."""

    key: bytes
    run: str
    token: str
    is_inherited: bool = False
    """Whether it was somebody else's before, who died with it: the body may have been sent."""
    has_ended: bool = False
    """Whether the body was run, and there is only something to delete."""


class Part(NamedTuple):
    """A part of a chord."""

    place: int | None
    """Its place in the header; those without one come last, in the order in which they returned."""
    id: str
    value: bytes
    has_failed: bool = False
    """A part that has failed is replaced by one that comes again and has not."""


class Progress(NamedTuple):
    """What has come of a part."""

    head: Head
    counts: bool
    """Whether the part is a new one of a chord that runs."""
    claim: Claim | None
    """Set for whoever has completed the chord, or found the claim of a dead process on it."""


# -- opening -----------------------------------------------------------------------------------------------------------


def open_chord(
    txn: WriteTransaction,
    key: bytes,
    ttl: float | None,
    *,
    size: int | None = None,
    body: bytes | None = None,
    header: bytes | None = None,
) -> None:
    """Begin a chord anew, whatever there was under its key before."""
    former, head = head_of(txn, key), _new_head(size)
    if former is not None and (former.state == _OPEN or not former.owner.is_alive()):  # or its claimer needs the parts
        for left, _ in list(txn.scan(_name(key, former.run, ""))):
            txn.delete(left)
    txn.set(key, head.pack(), ttl)
    for name, value in (("body", body), ("header", header), ("renewed", b"")):
        if value is not None:
            txn.set(_name(key, head.run, name), value, _long(ttl))


def set_size(txn: WriteTransaction, key: bytes, size: int, ttl: float | None, claims_key: bytes) -> Claim | None:
    """Say how many parts a chord waits for; return the claim if they are there already.

    Said of a chord that has been completed, it begins a new run.
    """
    head = head_of(txn, key)
    head = _new_head(size) if head is None or head.state != _OPEN else head._replace(size=size)
    return _kept(txn, key, head, ttl, claims_key)


def add_more(txn: WriteTransaction, key: bytes, id_: str, count: int, ttl: float | None) -> bool:
    """Have a chord that runs wait for the parts of one more result; return whether there is such a chord."""
    head = head_of(txn, key)
    if head is None or head.state != _OPEN:
        return False
    txn.set(key, head._replace(added={**head.added, id_: count}).pack(), ttl)
    return True


# -- parts -------------------------------------------------------------------------------------------------------------


def return_part(
    txn: WriteTransaction, key: bytes, part: Part, ttl: float | None, claims_key: bytes, size: int | None = None
) -> Progress | None:
    """Keep a part and count it, once; whoever completes the chord gets the claim.

    ``size`` is used if nobody has set one. Returns None if the chord is unknown and so is its size: it has expired, or
    ended so long ago that nothing is left of it.
    """
    head = head_of(txn, key)
    if head is None:
        if size is None:
            return None
        head = _new_head(size)
    if head.state == _ENDED:
        return Progress(head, False, None)
    if head.state == _CLAIMED:
        claim = None if head.owner.is_alive() else _claim(txn, key, head, ttl, claims_key)
        return Progress(head, False, claim)
    if head.size is None:
        head = head._replace(size=size)
    counts = _keep_part(txn, _part_key(key, head.run, part), part, head.returned, _long(ttl))
    head = head._replace(returned=head.returned + counts)
    _renew(txn, key, head, ttl)
    return Progress(head, counts, _kept(txn, key, head, ttl, claims_key))


def _keep_part(txn: WriteTransaction, name: bytes, part: Part, number: int, ttl: float | None) -> bool:
    """Keep a part; return whether it is a new one."""
    if txn.add(name, msgpack.packb((number, *part)), ttl):
        return True
    former_number, *former = msgpack.unpackb(txn.get(name) or b"")
    if Part(*former).has_failed and not part.has_failed:
        txn.set(name, msgpack.packb((former_number, *part)), ttl)
    return False


def _renew(txn: WriteTransaction, key: bytes, head: Head, ttl: float | None) -> None:
    """Put the deadlines of a run off, once in a ``ttl``: so a chord lives as long as there is a part in each."""
    left = txn.ttl(_name(key, head.run, "renewed"))
    if ttl and (left is None or left < ttl):
        txn.add(_name(key, head.run, "renewed"), b"", _long(ttl))
        for name, _ in list(txn.scan(_name(key, head.run, ""))):
            txn.expire(name, _long(ttl))


def _long(ttl: float | None) -> float | None:
    """Return for how long what belongs to a chord is kept, whose head is kept for ``ttl`` seconds from each part."""
    return ttl and 2 * ttl


def parts(txn: ReadTransaction, claim: Claim) -> list[Part]:
    """Return the parts in the order of their places; what was added while the chord ran comes last, in that order."""
    head = head_of(txn, claim.key)
    added = {id_: number for number, id_ in enumerate(head.added if head is not None else (), start=1)}
    found = [msgpack.unpackb(value) for _, value in txn.scan(_name(claim.key, claim.run, "part."))]
    found.sort(key=lambda entry: (added.get(entry[2], 0), _order(entry[1]), entry[0]))
    return [Part(*entry[1:]) for entry in found]


def remembered(txn: ReadTransaction, claim: Claim, what: str) -> bytes | None:
    """Return what the opener had remembered: ``body`` or ``header``."""
    return txn.get(_name(claim.key, claim.run, what))


# -- the claim ---------------------------------------------------------------------------------------------------------


def _claim(txn: WriteTransaction, key: bytes, head: Head, ttl: float | None, claims_key: bytes) -> Claim:
    is_inherited = head.state != _OPEN
    head = head._replace(
        state=_ENDED if head.state == _ENDED else _CLAIMED, token=os.urandom(8).hex(), owner=present_owner()
    )
    txn.set(key, head.pack(), ttl)
    _write_claims(txn, claims_key, _claims(txn, claims_key) | {key})
    return Claim(key, head.run, head.token, is_inherited, head.state == _ENDED)


def release(txn: WriteTransaction, claim: Claim) -> None:
    """Give a claim up, for anybody to take over."""
    head = _held_head(txn, claim)
    if head is not None:
        txn.set(claim.key, head._replace(owner=NOBODY).pack(), _left(txn, claim.key))


def orphans(txn: ReadTransaction, claims_key: bytes) -> list[bytes]:
    """Return the keys of chords whose claim belongs to a dead process, or to nobody."""
    heads = ((key, head_of(txn, key)) for key in _claims(txn, claims_key))
    return [key for key, head in heads if head is None or not head.owner.is_alive()]


def take_over(txn: WriteTransaction, key: bytes, claims_key: bytes) -> Claim | None:
    """Take the claim on a chord if its owner is dead. It does not live longer for that: a body that nobody can run."""
    head = head_of(txn, key)
    if head is None or head.state == _OPEN:  # it has expired, or was opened again
        _write_claims(txn, claims_key, _claims(txn, claims_key) - {key})
        return None
    return None if head.owner.is_alive() else _claim(txn, key, head, _left(txn, key), claims_key)


def end(txn: WriteTransaction, claim: Claim, ttl: float | None) -> bool:
    """End a chord: what comes late does nothing. Return False if the claim was taken over.

    The head stays for ``ttl`` seconds. What belongs to it is deleted afterwards, in as many transactions as that takes,
    and then the claim is given up by `settle`.
    """
    head = _held_head(txn, claim)
    if head is not None:
        txn.set(claim.key, head._replace(state=_ENDED).pack(), ttl)
    return head is not None


def is_over(txn: ReadTransaction, claim: Claim) -> bool:
    """Return whether nobody counts parts for the run any more: it has expired, or was opened again meanwhile."""
    head = head_of(txn, claim.key)
    return head is None or head.run != claim.run


def settle(txn: WriteTransaction, claim: Claim, claims_key: bytes) -> None:
    """Give up the claim on a chord that has ended, and of which nothing is left but its head."""
    if _held_head(txn, claim) is not None:
        _write_claims(txn, claims_key, _claims(txn, claims_key) - {claim.key})


def part_keys(claim: Claim, those: Iterable[Part]) -> list[bytes]:
    """Return the keys of all that belongs to a chord whose parts are known."""
    names = [_name(claim.key, claim.run, name) for name in ("body", "header", "renewed")]
    return names + [_part_key(claim.key, claim.run, part) for part in those]


def leftovers(txn: ReadTransaction, claim: Claim) -> list[bytes]:
    """Return the keys of all that belongs to a chord whose parts are not known."""
    return [name for name, _ in txn.scan(_name(claim.key, claim.run, ""))]


# -- the head ----------------------------------------------------------------------------------------------------------


def head_of(txn: ReadTransaction, key: bytes) -> Head | None:
    """Return what is known of a chord, or None."""
    data = txn.get(key)
    if data is None:
        return None
    head = Head(*msgpack.unpackb(data))
    return head._replace(owner=Owner(*head.owner))


def _new_head(size: int | None) -> Head:
    return Head(os.urandom(4).hex(), _OPEN, size, {}, 0, "", NOBODY)


def _kept(txn: WriteTransaction, key: bytes, head: Head, ttl: float | None, claims_key: bytes) -> Claim | None:
    """Keep the head of an open chord; return the claim if it is complete."""
    if head.returned and head.is_complete():
        return _claim(txn, key, head, ttl, claims_key)
    txn.set(key, head.pack(), ttl)
    return None


def _held_head(txn: ReadTransaction, claim: Claim) -> Head | None:
    """Return the head of a chord if the claim on it still holds."""
    head = head_of(txn, claim.key)
    return head if head is not None and head.token == claim.token else None


def _left(txn: ReadTransaction, key: bytes) -> float | None:
    left = txn.ttl(key)
    return None if left == math.inf else left


def _claims(txn: ReadTransaction, claims_key: bytes) -> set[bytes]:
    return set(msgpack.unpackb(txn.get(claims_key) or b"\x90"))


def _write_claims(txn: WriteTransaction, claims_key: bytes, claims: Iterable[bytes]) -> None:
    keys: list[Any] = sorted(claims)
    if keys:
        txn.set(claims_key, msgpack.packb(keys))
    else:
        txn.delete(claims_key)


def _part_key(key: bytes, run: str, part: Part) -> bytes:
    return _name(key, run, f"part.{_order(part.place):016x}.{part.id}")


def _order(place: int | None) -> int:
    return _NO_PLACE if place is None else place


def _name(key: bytes, run: str, name: str) -> bytes:
    return b"%b.%b.%b" % (key, run.encode(), name.encode())
