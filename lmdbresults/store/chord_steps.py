"""The steps of a chord over the port. Each runs in a transaction of the caller, which can add changes of its own.

Each part counts once, by its identity. Only the holder of the claim may publish the body. Records: chord_records.py.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import msgpack

from lmdbresults.process.identity import NO_OWNER, Owner
from lmdbresults.store.chord_records import (
    CLAIMED,
    ENDED,
    OPEN,
    Head,
    Part,
    add_claim,
    head_ttl,
    name_of,
    new_head,
    order_of,
    pack_time,
    part_name,
    read_claims,
    read_head,
    record_ttl,
    remove_claim,
    write_head,
)
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = [
    "Claim",
    "Liveness",
    "PartOutcome",
    "ResultRecord",
    "Run",
    "add_more",
    "adopt",
    "clear",
    "end",
    "has_ended",
    "leftovers",
    "open_chord",
    "orphans",
    "read_run",
    "release",
    "return_part",
    "set_size",
    "take_over",
]


class Liveness(Protocol):
    """What a step asks of the store: the owner of new claims, and whether an owner is alive."""

    def owner(self) -> Owner:
        """Return the owner for claims of the calling process."""

    def is_alive(self, owner: Owner) -> bool:
        """Return whether the process of an owner still runs; False for `NO_OWNER`."""


class ResultRecord(NamedTuple):
    """The result of a part, as arguments of `WriteTransaction.set`: stored in the transaction that counts the part."""

    key: bytes
    value: bytes
    ttl: float | None
    keep_prefix: bytes = b""


class Claim(NamedTuple):
    """The right and the duty to publish the body of a chord."""

    key: bytes
    run: str
    token: str
    is_inherited: bool = False
    """Whether it was taken over from another owner, which may have published the body before."""
    has_ended: bool = False
    """Whether the body was published, and only records remain to be deleted."""


class PartOutcome(NamedTuple):
    """The effect of a returned part."""

    counts: bool
    """Whether the part is new, and its chord was open."""
    claim: Claim | None
    """Set if the part completed the chord, or took over an orphaned claim."""


class Run(NamedTuple):
    """All records of a complete chord."""

    parts: list[Part]
    """In the order of the header; added parts follow, in the order in which they were added."""
    body: bytes | None
    """The body as given to `open_chord`; None if none was given."""
    header: bytes | None
    names: list[bytes]
    """The keys of the records."""


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
    """Start a new run of a chord. It replaces an earlier run under the same key."""
    former, head = read_head(txn, key), new_head(size)
    if former is not None and (
        former.state == OPEN or not store.is_alive(former.owner)
    ):  # else the owner of its claim still needs the records
        for name, _ in list(txn.scan(name_of(key, former.run, ""), head=0)):
            txn.delete(name)
    write_head(txn, key, head, ttl)
    for what, value in (("body", body), ("header", header), ("renewed", pack_time(txn.now()))):
        if value is not None:
            txn.set(name_of(key, head.run, what), value, record_ttl(ttl))


def adopt(
    txn: WriteTransaction,
    store: Liveness,
    key: bytes,
    ttl: float | None,
    *,
    size: int | None = None,
    body: bytes | None = None,
    header: bytes | None = None,
) -> bool:
    """Open a chord unless it is there; return whether it was not. Complete one that a part has opened."""
    head = read_head(txn, key)
    if head is None:
        open_chord(txn, store, key, ttl, size=size, body=body, header=header)
        return True
    if head.state == OPEN:
        write_head(txn, key, head._replace(size=max(size or 0, head.size or 0) or None), ttl)
        for what, value in (("body", body), ("header", header)):
            if value is not None:
                txn.add(name_of(key, head.run, what), value, record_ttl(ttl))
    return False


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
    """Set the number of parts that a chord waits for; return the claim if that many have returned.

    With ``at_least``, a larger size that was set before stays. If the chord was completed before, start a new run.
    """
    head = read_head(txn, key)
    if head is None or head.state != OPEN:
        head = new_head(size)
    else:
        head = head._replace(size=max(size, head.size or 0) if at_least else size)
    return _write_or_claim(txn, store, key, head, ttl, claims_key)


def add_more(txn: WriteTransaction, key: bytes, id_: str, count: int, ttl: float | None) -> bool:
    """Let an open chord wait for ``count`` more parts, of the result ``id_``; return False if no chord is open."""
    head = read_head(txn, key)
    if head is None or head.state != OPEN:
        return False
    name, number = name_of(key, head.run, f"more.{id_}"), head.additions
    former = txn.get(name)
    if former is not None:  # added before: the new count replaces the former one
        number, less, _ = msgpack.unpackb(former)
        head = head._replace(added=head.added - less, additions=head.additions - 1)
    txn.set(name, msgpack.packb((number, count, id_)), record_ttl(ttl))
    _renew(txn, key, head, ttl)
    write_head(txn, key, head._replace(added=head.added + count, additions=head.additions + 1), ttl)
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
    """Store a part and count it once; claim the chord if the part completes it. Store the ``result`` of its task.

    ``size`` applies if none was set. Returns None if neither the chord nor its size is known: the chord has
    expired, before or after its end. The result is stored in any case.
    """
    if result is not None:
        txn.set(result.key, result.value, result.ttl, keep_prefix=result.keep_prefix)
    head = read_head(txn, key)
    if head is None:
        if size is None:
            return None
        head = new_head(size)
    if head.has_ended():
        return PartOutcome(False, None)
    if head.state == CLAIMED:
        is_owned = store.is_alive(head.owner)
        return PartOutcome(False, None if is_owned else _claim(txn, store, key, head, ttl, claims_key))
    if head.size is None:
        head = head._replace(size=size)
    counts = _store_part(txn, part_name(key, head.run, part), part, head.returned, record_ttl(ttl))
    head = head._replace(returned=head.returned + counts)
    _renew(txn, key, head, ttl)
    return PartOutcome(counts, _write_or_claim(txn, store, key, head, ttl, claims_key))


def _store_part(txn: WriteTransaction, name: bytes, part: Part, number: int, ttl: float) -> bool:
    """Store a part; return whether it is new. A success replaces a failure, but not the reverse."""
    if txn.add(name, msgpack.packb((number, *part)), ttl):
        return True
    former_number, *former = msgpack.unpackb(txn.get(name) or b"")
    if Part(*former).has_failed and not part.has_failed:
        txn.set(name, msgpack.packb((former_number, *part)), ttl)
    return False


def _renew(txn: WriteTransaction, key: bytes, head: Head, ttl: float | None) -> None:
    """Extend the deadlines of a run, at most once per ``ttl``: a chord lives while a part returns in each ``ttl``."""
    left = txn.ttl(name_of(key, head.run, "renewed"))
    if left is None or left < head_ttl(ttl):
        txn.add(name_of(key, head.run, "renewed"), b"", record_ttl(ttl))
        for name in [name for name, _ in txn.scan(name_of(key, head.run, ""), head=0)]:
            txn.expire(name, record_ttl(ttl))


def read_run(txn: ReadTransaction, claim: Claim) -> Run:
    """Return the records of a complete chord, with one scan."""
    beginning = name_of(claim.key, claim.run, "")
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
    found.sort(key=lambda entry: (added.get(entry[2], -1), order_of(entry[1]), entry[0]))
    return Run([Part(*entry[1:]) for entry in found], rest.get(b"body"), rest.get(b"header"), names)


# -- the claim ---------------------------------------------------------------------------------------------------------


def _claim(
    txn: WriteTransaction, store: Liveness, key: bytes, head: Head, ttl: float | None, claims_key: bytes
) -> Claim:
    is_inherited = head.state != OPEN
    state = ENDED if head.state == ENDED else CLAIMED
    head = head._replace(state=state, token=os.urandom(8).hex(), owner=store.owner())
    write_head(txn, key, head, ttl)
    add_claim(txn, claims_key, key)
    return Claim(key, head.run, head.token, is_inherited, state == ENDED)


def release(txn: WriteTransaction, claim: Claim) -> None:
    """Release a claim, so that any process can take it over."""
    head = _claimed_head(txn, claim)
    if head is not None:
        write_head(txn, claim.key, head._replace(owner=NO_OWNER), txn.ttl(claim.key))


def orphans(txn: ReadTransaction, store: Liveness, claims_key: bytes) -> list[bytes]:
    """Return the keys of chords whose claim was released, or whose owner no longer runs."""
    heads = ((key, read_head(txn, key)) for key in read_claims(txn, claims_key))
    return [key for key, head in heads if head is None or not store.is_alive(head.owner)]


def take_over(txn: WriteTransaction, store: Liveness, key: bytes, claims_key: bytes) -> Claim | None:
    """Take over an orphaned claim. The deadline stays, so a body that no process can publish expires."""
    head = read_head(txn, key)
    if head is None or head.state == OPEN:  # the chord has expired, or a new run was opened
        remove_claim(txn, claims_key, key)
        return None
    return None if store.is_alive(head.owner) else _claim(txn, store, key, head, txn.ttl(key), claims_key)


def end(
    txn: WriteTransaction, claim: Claim, ttl: float | None, claims_key: bytes, names: Iterable[bytes], *, is_last: bool
) -> bool:
    """End a chord, so that late parts have no effect; return False if the claim was taken over.

    The head stays for ``ttl`` seconds. The records of the run are deleted by their ``names``, in as many transactions
    as that takes; the one that ``is_last`` releases the claim.
    """
    head = _claimed_head(txn, claim)
    if head is None:
        return False
    write_head(txn, claim.key, head._replace(state=ENDED), ttl)
    for name in names:
        txn.delete(name)
    if is_last:
        remove_claim(txn, claims_key, claim.key)
    return True


def clear(txn: WriteTransaction, claim: Claim, names: Iterable[bytes]) -> bool:
    """Delete records of a run that has expired or was replaced; return False, and delete nothing, if it is current."""
    head = read_head(txn, claim.key)
    is_over = head is None or head.run != claim.run
    for name in names if is_over else ():
        txn.delete(name)
    return is_over


def leftovers(txn: ReadTransaction, claim: Claim) -> list[bytes]:
    """Return the keys of the remaining records of an ended chord."""
    return [name for name, _ in txn.scan(name_of(claim.key, claim.run, ""), head=0)]


def has_ended(txn: ReadTransaction, key: bytes) -> bool:
    """Return whether a chord has ended. False again once its head has expired."""
    head = read_head(txn, key)
    return head is not None and head.has_ended()


def _write_or_claim(
    txn: WriteTransaction, store: Liveness, key: bytes, head: Head, ttl: float | None, claims_key: bytes
) -> Claim | None:
    """Write the head of an open chord; claim the chord if it is complete."""
    if head.returned and head.is_complete():
        return _claim(txn, store, key, head, ttl, claims_key)
    write_head(txn, key, head, ttl)
    return None


def _claimed_head(txn: ReadTransaction, claim: Claim) -> Head | None:
    """Return the head of a chord if the claim is still valid; None if it was taken over."""
    head = read_head(txn, claim.key)
    return head if head is not None and head.token == claim.token else None
