"""Chords: parts that are counted by identity, and one claim to run the body.

Every function is a step of one transaction over the port, so that a task's result is stored in the same one as its
part, and any store can do it. Beside the head, under the chord's key, lie

    <key>.<run>.part.<place>.<id>   a part: its number, its id, its value
    <key>.<run>.body                what the opener wants to be remembered of the body
    <key>.<run>.header              and of the header
    <key>.<run>.more.<id>           what was added while it ran: its number, how many parts, the id of the result
    <key>.<run>.renewed             nothing; its deadline says when those of the others have to be put off

A chord that is opened again is a new run; what is left of the former one is in nobody's way.
Which claims stand is written under one key for all chords, so that looking for orphaned ones is a single read.
"""

import math
import os
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgpack

from lmdbresults.process.identity import NOBODY, Owner, present_owner
from lmdbresults.store.base import ReadTransaction, WriteTransaction

__all__ = [
    "Claim",
    "Head",
    "Part",
    "Progress",
    "Run",
    "add_more",
    "clear",
    "end",
    "head_of",
    "leftovers",
    "open_chord",
    "orphans",
    "read_run",
    "release",
    "return_part",
    "set_size",
    "take_over",
    "unpack_head",
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
    added: int
    """Parts more, of the results that were added while it ran."""
    additions: int
    """How many of those results there are. They lie under keys of their own: every part reads and writes the head."""
    returned: int
    """Parts that have returned."""
    token: str
    """Of the claim."""
    owner: Owner

    def is_complete(self) -> bool:
        return self.size is not None and self.returned >= self.size + self.added

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


class Run(NamedTuple):
    """All that belongs to a chord that is complete."""

    parts: list[Part]
    """In the order of their places; what was added while it ran comes last, in that order."""
    body: bytes | None
    """What the opener had remembered of the body; None: nothing."""
    header: bytes | None
    names: list[bytes]
    """The keys of all of it."""


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


def set_size(
    txn: WriteTransaction, key: bytes, size: int, ttl: float | None, claims_key: bytes, *, at_least: bool = False
) -> Claim | None:
    """Say how many parts a chord waits for, or ``at_least`` how many; return the claim if they are there already.

    Said of a chord that has been completed, it begins a new run.
    """
    head = head_of(txn, key)
    if head is None or head.state != _OPEN:
        head = _new_head(size)
    else:
        head = head._replace(size=max(size, head.size or 0) if at_least else size)
    return _kept(txn, key, head, ttl, claims_key)


def add_more(txn: WriteTransaction, key: bytes, id_: str, count: int, ttl: float | None) -> bool:
    """Have a chord that runs wait for the parts of one more result; return whether there is such a chord."""
    head = head_of(txn, key)
    if head is None or head.state != _OPEN:
        return False
    name, number = _name(key, head.run, f"more.{id_}"), head.additions
    former = txn.get(name)
    if former is not None:  # it was added before: what is said last holds
        number, less, _ = msgpack.unpackb(former)
        head = head._replace(added=head.added - less, additions=head.additions - 1)
    txn.set(name, msgpack.packb((number, count, id_)), _long(ttl))
    _renew(txn, key, head, ttl)
    txn.set(key, head._replace(added=head.added + count, additions=head.additions + 1).pack(), ttl)
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
        for name in [name for name, _ in txn.scan(_name(key, head.run, ""))]:  # of which the values may be large
            txn.expire(name, _long(ttl))


def _long(ttl: float | None) -> float | None:
    """Return for how long what belongs to a chord is kept, whose head is kept for ``ttl`` seconds from each part."""
    return ttl and 2 * ttl


def read_run(txn: ReadTransaction, claim: Claim) -> Run:
    """Return all that belongs to a chord, which takes one scan."""
    beginning = _name(claim.key, claim.run, "")
    added, found, names, rest = {}, [], [], {}
    for name, value in txn.scan(beginning):
        names.append(name)
        what = name[len(beginning) :]
        if what.startswith(b"part."):
            found.append(msgpack.unpackb(value))
        elif what.startswith(b"more."):
            number, _, id_ = msgpack.unpackb(value)
            added[id_] = number
        else:
            rest[what] = value
    found.sort(key=lambda entry: (added.get(entry[2], -1), _order(entry[1]), entry[0]))
    return Run([Part(*entry[1:]) for entry in found], rest.get(b"body"), rest.get(b"header"), names)


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


def end(
    txn: WriteTransaction, claim: Claim, ttl: float | None, claims_key: bytes, names: Iterable[bytes], *, is_last: bool
) -> bool:
    """End a chord: what comes late does nothing. Return False if the claim was taken over.

    The head stays for ``ttl`` seconds. What belongs to it is deleted by its ``names``, in as many transactions as that
    takes, and with the last of it the claim is given up.
    """
    head = _held_head(txn, claim)
    if head is None:
        return False
    txn.set(claim.key, head._replace(state=_ENDED).pack(), ttl)
    for name in names:
        txn.delete(name)
    if is_last:
        _write_claims(txn, claims_key, _claims(txn, claims_key) - {claim.key})
    return True


def clear(txn: WriteTransaction, claim: Claim, names: Iterable[bytes]) -> bool:
    """Delete what belonged to a run for which nobody counts parts any more: it has expired, or was opened again.

    Return whether that is so.
    """
    head = head_of(txn, claim.key)
    is_over = head is None or head.run != claim.run
    for name in names if is_over else ():
        txn.delete(name)
    return is_over


def leftovers(txn: ReadTransaction, claim: Claim) -> list[bytes]:
    """Return the keys of all that still belongs to a chord that has ended."""
    return [name for name, _ in txn.scan(_name(claim.key, claim.run, ""))]


# -- the head ----------------------------------------------------------------------------------------------------------


def head_of(txn: ReadTransaction, key: bytes) -> Head | None:
    """Return what is known of a chord, or None."""
    data = txn.get(key)
    return None if data is None else unpack_head(data)


def unpack_head(data: bytes) -> Head:
    """Return the head in a value."""
    *known, owner = msgpack.unpackb(data)
    return Head._make((*known, Owner(*owner)))


def _new_head(size: int | None) -> Head:
    return Head(os.urandom(4).hex(), _OPEN, size, 0, 0, 0, "", NOBODY)


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
