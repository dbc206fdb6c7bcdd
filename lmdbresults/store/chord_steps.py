"""The steps of a chord: each is one step of a transaction over the port, so that any transactional engine can run them.

Parts are counted by identity, and one claim allows to run the body. Beside the head, under the chord's key, lie

    <key>.<run>.part.<place>.<id>   a part: its number, its id, its value
    <key>.<run>.body                what the opener wants to be remembered of the body
    <key>.<run>.header              and of the header
    <key>.<run>.more.<id>           an addition to the running chord: its number, how many parts, the id of the result
    <key>.<run>.renewed             empty; it expires when the deadlines of the others must be put off

Opening a chord again starts a new run. All records of a chord have a deadline, so that what an abandoned run leaves
behind expires. The chords that are claimed are listed under one key, so that finding orphaned claims is one read.
"""

import math
import os
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from lmdbresults.process.identity import NO_OWNER, Owner
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = [
    "Claim",
    "Head",
    "Liveness",
    "Part",
    "PartOutcome",
    "ResultRecord",
    "Run",
    "add_more",
    "clear",
    "end",
    "has_ended",
    "leftovers",
    "open_chord",
    "orphans",
    "read_head",
    "read_run",
    "release",
    "return_part",
    "set_size",
    "take_over",
]

_OPEN, _CLAIMED, _ENDED = "open", "claimed", "ended"
#: The place of a part that has none: behind all others.
_NO_PLACE: Final = 1 << 63
#: Seconds after the last sign of life until a chord is dropped whose results never expire: a year.
_LONGEST_TTL: Final = 365 * 86400.0


class Liveness(Protocol):
    """What a step asks of the store: who claims, and which owners still run."""

    def owner(self) -> Owner:
        """Return the owner of claims that are taken here."""

    def is_alive(self, owner: Owner) -> bool:
        """Return whether an owner still runs; `NO_OWNER` never does."""


class Part(NamedTuple):
    """A part of a chord."""

    place: int | None
    """Its place in the header; parts without one come last, in the order in which they returned."""
    id: str
    value: bytes
    has_failed: bool = False
    """A failed part is replaced by one with the same identity that has succeeded."""


class ResultRecord(NamedTuple):
    """The arguments of `WriteTransaction.set` for the result that is stored in the transaction that counts its part."""

    key: bytes
    value: bytes
    ttl: float | None
    keep_prefix: bytes = b""


class Claim(NamedTuple):
    """The right and the duty to run the body of a chord."""

    key: bytes
    run: str
    token: str
    is_inherited: bool = False
    """Whether a former owner died with it, which may have sent the body."""
    has_ended: bool = False
    """Whether the body was run, and only records are left to be deleted."""


class PartOutcome(NamedTuple):
    """What became of a returned part."""

    counts: bool
    """Whether the part is new, and its chord was open."""
    claim: Claim | None
    """Set if the part has completed the chord, or the claim on the chord was orphaned."""


class Run(NamedTuple):
    """All records of a complete chord."""

    parts: list[Part]
    """In the order of their places; parts of additions come last, in the order of the additions."""
    body: bytes | None
    """What the opener had remembered of the body; None: nothing."""
    header: bytes | None
    names: list[bytes]
    """The keys of the records."""


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
        return self.state == _ENDED

    def pack(self) -> bytes:
        """Return the head as the value of a record."""
        packed: bytes = msgpack.packb(self)
        return packed


# -- opening -----------------------------------------------------------------------------------------------------------


def open_chord(
    txn: WriteTransaction,
    store: Liveness,
    key: bytes,
    ttl: float | None,
    *,
    size: int | None = None,
    body: bytes | None = None,
    header: bytes | None = None,
) -> None:
    """Start a new run of a chord, whatever was under its key before."""
    former, head = read_head(txn, key), _new_head(size)
    if former is not None and (former.state == _OPEN or not store.is_alive(former.owner)):  # else its owner needs it
        for name, _ in list(txn.scan(_name(key, former.run, ""), head=0)):
            txn.delete(name)
    _write_head(txn, key, head, ttl)
    for what, value in (("body", body), ("header", header), ("renewed", b"")):
        if value is not None:
            txn.set(_name(key, head.run, what), value, _record_ttl(ttl))


def set_size(
    txn: WriteTransaction,
    store: Liveness,
    key: bytes,
    size: int,
    ttl: float | None,
    claims_key: bytes,
    *,
    at_least: bool = False,
) -> Claim | None:
    """Set how many parts a chord waits for, or ``at_least`` how many; return the claim if they have returned.

    If the chord has been completed before, start a new run.
    """
    head = read_head(txn, key)
    if head is None or head.state != _OPEN:
        head = _new_head(size)
    else:
        head = head._replace(size=max(size, head.size or 0) if at_least else size)
    return _write_or_claim(txn, store, key, head, ttl, claims_key)


def add_more(txn: WriteTransaction, key: bytes, id_: str, count: int, ttl: float | None) -> bool:
    """Let an open chord wait for the parts of one more result; return whether there is such a chord."""
    head = read_head(txn, key)
    if head is None or head.state != _OPEN:
        return False
    name, number = _name(key, head.run, f"more.{id_}"), head.additions
    former = txn.get(name)
    if former is not None:  # added before: the last count holds
        number, less, _ = msgpack.unpackb(former)
        head = head._replace(added=head.added - less, additions=head.additions - 1)
    txn.set(name, msgpack.packb((number, count, id_)), _record_ttl(ttl))
    _renew(txn, key, head, ttl)
    _write_head(txn, key, head._replace(added=head.added + count, additions=head.additions + 1), ttl)
    return True


# -- parts -------------------------------------------------------------------------------------------------------------


def return_part(
    txn: WriteTransaction,
    store: Liveness,
    key: bytes,
    part: Part,
    ttl: float | None,
    claims_key: bytes,
    *,
    size: int | None = None,
    result: ResultRecord | None = None,
) -> PartOutcome | None:
    """Store a part and count it once, with the ``result`` of its task; the part that completes the chord claims it.

    ``size`` is used if none was set. Returns None if neither the chord nor its size is known: the chord has expired, or
    it ended so long ago that nothing is left of it. The result is stored in any case.
    """
    if result is not None:
        txn.set(result.key, result.value, result.ttl, keep_prefix=result.keep_prefix)
    head = read_head(txn, key)
    if head is None:
        if size is None:
            return None
        head = _new_head(size)
    if head.has_ended():
        return PartOutcome(False, None)
    if head.state == _CLAIMED:
        is_owned = store.is_alive(head.owner)
        return PartOutcome(False, None if is_owned else _claim(txn, store, key, head, ttl, claims_key))
    if head.size is None:
        head = head._replace(size=size)
    counts = _keep_part(txn, _part_key(key, head.run, part), part, head.returned, _record_ttl(ttl))
    head = head._replace(returned=head.returned + counts)
    _renew(txn, key, head, ttl)
    return PartOutcome(counts, _write_or_claim(txn, store, key, head, ttl, claims_key))


def _keep_part(txn: WriteTransaction, name: bytes, part: Part, number: int, ttl: float) -> bool:
    """Store a part; return whether it is new."""
    if txn.add(name, msgpack.packb((number, *part)), ttl):
        return True
    former_number, *former = msgpack.unpackb(txn.get(name) or b"")
    if Part(*former).has_failed and not part.has_failed:
        txn.set(name, msgpack.packb((former_number, *part)), ttl)
    return False


def _renew(txn: WriteTransaction, key: bytes, head: Head, ttl: float | None) -> None:
    """Put off the deadlines of a run once in a ``ttl``, so that a chord lives as long as a part returns in each."""
    left = txn.ttl(_name(key, head.run, "renewed"))
    if left is None or left < _head_ttl(ttl):
        txn.add(_name(key, head.run, "renewed"), b"", _record_ttl(ttl))
        for name in [name for name, _ in txn.scan(_name(key, head.run, ""), head=0)]:
            txn.expire(name, _record_ttl(ttl))


def read_run(txn: ReadTransaction, claim: Claim) -> Run:
    """Return the records of a complete chord, by one scan."""
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


def _claim(
    txn: WriteTransaction, store: Liveness, key: bytes, head: Head, ttl: float | None, claims_key: bytes
) -> Claim:
    is_inherited = head.state != _OPEN
    state = _ENDED if head.state == _ENDED else _CLAIMED
    head = head._replace(state=state, token=os.urandom(8).hex(), owner=store.owner())
    _write_head(txn, key, head, ttl)
    _write_claims(txn, claims_key, _claims(txn, claims_key) | {key})
    return Claim(key, head.run, head.token, is_inherited, state == _ENDED)


def release(txn: WriteTransaction, claim: Claim) -> None:
    """Release a claim, so that any process can take it over."""
    head = _claimed_head(txn, claim)
    if head is not None:
        _write_head(txn, claim.key, head._replace(owner=NO_OWNER), txn.ttl(claim.key))


def orphans(txn: ReadTransaction, store: Liveness, claims_key: bytes) -> list[bytes]:
    """Return the keys of chords whose claim was released, or belongs to a dead owner."""
    heads = ((key, read_head(txn, key)) for key in _claims(txn, claims_key))
    return [key for key, head in heads if head is None or not store.is_alive(head.owner)]


def take_over(txn: WriteTransaction, store: Liveness, key: bytes, claims_key: bytes) -> Claim | None:
    """Take the claim on a chord if it is orphaned. The deadline stays: a body that no process can run expires."""
    head = read_head(txn, key)
    if head is None or head.state == _OPEN:  # it has expired, or was opened again
        _write_claims(txn, claims_key, _claims(txn, claims_key) - {key})
        return None
    return None if store.is_alive(head.owner) else _claim(txn, store, key, head, txn.ttl(key), claims_key)


def end(
    txn: WriteTransaction, claim: Claim, ttl: float | None, claims_key: bytes, names: Iterable[bytes], *, is_last: bool
) -> bool:
    """End a chord, so that late parts do nothing; return False if the claim was taken over.

    The head stays for ``ttl`` seconds. The records of the run are deleted by their ``names``, in as many transactions
    as that takes; the one that ``is_last`` releases the claim.
    """
    head = _claimed_head(txn, claim)
    if head is None:
        return False
    _write_head(txn, claim.key, head._replace(state=_ENDED), ttl)
    for name in names:
        txn.delete(name)
    if is_last:
        _write_claims(txn, claims_key, _claims(txn, claims_key) - {claim.key})
    return True


def clear(txn: WriteTransaction, claim: Claim, names: Iterable[bytes]) -> bool:
    """Delete records of a run that has expired or was replaced by a new one; return whether that is so."""
    head = read_head(txn, claim.key)
    is_over = head is None or head.run != claim.run
    for name in names if is_over else ():
        txn.delete(name)
    return is_over


def leftovers(txn: ReadTransaction, claim: Claim) -> list[bytes]:
    """Return the keys of all records that an ended chord still has."""
    return [name for name, _ in txn.scan(_name(claim.key, claim.run, ""), head=0)]


def has_ended(txn: ReadTransaction, key: bytes) -> bool:
    """Return whether a chord has ended, and its head has not expired since."""
    head = read_head(txn, key)
    return head is not None and head.has_ended()


# -- the head ----------------------------------------------------------------------------------------------------------


def read_head(txn: ReadTransaction, key: bytes) -> Head | None:
    """Return the state of a chord, or None if there is no such chord."""
    data = txn.get(key)
    if data is None:
        return None
    *known, owner = msgpack.unpackb(data)
    return Head._make((*known, Owner(*owner)))


def _write_head(txn: WriteTransaction, key: bytes, head: Head, ttl: float | None) -> None:
    txn.set(key, head.pack(), _head_ttl(ttl))


def _new_head(size: int | None) -> Head:
    return Head(os.urandom(4).hex(), _OPEN, size, 0, 0, 0, "", NO_OWNER)


def _write_or_claim(
    txn: WriteTransaction, store: Liveness, key: bytes, head: Head, ttl: float | None, claims_key: bytes
) -> Claim | None:
    """Write the head of an open chord; claim the chord if it is complete."""
    if head.returned and head.is_complete():
        return _claim(txn, store, key, head, ttl, claims_key)
    _write_head(txn, key, head, ttl)
    return None


def _claimed_head(txn: ReadTransaction, claim: Claim) -> Head | None:
    """Return the head of a chord if the claim on it still holds."""
    head = read_head(txn, claim.key)
    return head if head is not None and head.token == claim.token else None


def _head_ttl(ttl: float | None) -> float:
    """Return the seconds for which a head is kept: as long as results, but not for ever."""
    return _LONGEST_TTL if not ttl or ttl == math.inf else ttl


def _record_ttl(ttl: float | None) -> float:
    """Return the seconds for which the other records of a chord are kept: they must outlive the head."""
    return 2 * _head_ttl(ttl)


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
