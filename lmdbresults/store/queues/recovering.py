"""Recovery: what dead processes held returns to its queues, and queues that are no longer used go."""

from collections.abc import Callable
from typing import NamedTuple

import msgpack

from lmdbresults.process.identity import Owner
from lmdbresults.store.queues.delivering import FIRST_NUMBER, lives
from lmdbresults.store.queues.heads import Heads, read_head, sound
from lmdbresults.store.queues.records import DOOMED, OWNED, OWNER, UNACKED, UNUSED, number_in, owner_id
from lmdbresults.store.queues.settling import give_back
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = ["Orphans", "find_orphans", "is_unused", "owned_queues", "owners", "release_some"]


class Orphans(NamedTuple):
    """What is left behind."""

    owners: list[bytes]
    """Dead owners."""
    has_former: bool
    """Whether there are deliveries of a program that ran in this process before, and called exec."""
    unused: list[str]
    """Queues that have expired."""
    doomed: list[bytes]
    """Ids of deleted queues whose messages are not all deleted."""


def find_orphans(txn: ReadTransaction, here: Owner, is_alive: Callable[[Owner], bool]) -> Orphans:
    """Return what dead processes have left behind, and programs before the one that runs ``here``; what has expired."""
    dead = [id_ for id_, owner in owners(txn).items() if not is_alive(owner)]
    first = [number_in(key) for key, _ in sound(txn.range(UNACKED + owner_id(here), limit=1, head=0))]
    names = [key[len(UNUSED) :].decode() for key, _ in txn.range(UNUSED)]
    doomed = [key[len(DOOMED) :] for key, _ in txn.range(DOOMED)]
    return Orphans(
        dead,
        bool(first) and first[0] < FIRST_NUMBER,
        [name for name in names if is_unused(txn, name, is_alive)],
        doomed,
    )


def owners(txn: ReadTransaction) -> dict[bytes, Owner]:
    """Return the processes that may hold messages or own queues, by their ids."""
    return {key[len(OWNER) :]: Owner(*msgpack.unpackb(value)) for key, value in sound(txn.range(OWNER))}


def is_unused(txn: ReadTransaction, queue: str, is_alive: Callable[[Owner], bool]) -> bool:
    """Return whether a queue has expired because it was not used.

    While the process lives that owns it, or the last one that has taken from it, it is in use: it may be busy.
    """
    head = read_head(txn, queue)
    if head is None or (expires := head.arguments.expires) is None or txn.now() < head.used + expires:
        return False
    return not any(lives(txn, id_, is_alive) for id_ in (head.owner, head.user))


def release_some(txn: WriteTransaction, owner: bytes, limit: int, *, former: bool = False) -> tuple[int, bool]:
    """Return up to so many messages of a dead owner to their queues; return how many, and whether there may be more.

    Works in a full store. Once there are no more, and no queues that it owns, the owner itself is removed. ``former``:
    this process is the owner, and only what a program before this one has taken is returned.
    """
    heads = Heads(txn)
    pairs = list(sound(txn.range(UNACKED + owner, limit=limit)))
    if former:
        pairs = [pair for pair in pairs if number_in(pair[0]) < FIRST_NUMBER]
    for key, data in pairs:
        give_back(heads, key, data, counted=True)
    heads.write()
    if former:
        return len(pairs), len(pairs) == limit
    if len(pairs) == limit:
        return limit, True
    if not owned_queues(txn, owner):
        txn.delete(OWNER + owner)
    return len(pairs), False


def owned_queues(txn: ReadTransaction, owner: bytes) -> list[str]:
    """Return the queues that die with an owner."""
    start = len(OWNED) + len(owner)
    return [key[start:].decode() for key, _ in txn.range(OWNED + owner)]
