"""Looking into queues: what waits and what is not acknowledged, without taking anything."""

from collections.abc import Iterator
from itertools import islice

from lmdbresults.process.identity import NO_OWNER, Owner
from lmdbresults.store.queues.heads import Heads, drop, read_head, sound
from lmdbresults.store.queues.records import (
    DELAYED,
    DUE,
    LARGE,
    QUEUE_ID,
    READY,
    UNACKED,
    body_key,
    place_in,
    read_message,
    read_unacked,
)
from lmdbresults.store.queues.recovering import owners
from lmdbresults.store.queues.values import PRIORITIES, Unacknowledged, Waiting
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = ["peek", "remove", "unacknowledged"]

#: Bytes of a key up to the place, or to the due time before it.
_READY, _DELAYED = len(READY), len(DELAYED)


def peek(txn: ReadTransaction, queue: str, limit: int | None = 100, *, after: str = "") -> list[Waiting]:
    """Return the messages that wait in a queue, in the order in which they will be taken; then the delayed ones.

    ``after`` is the tag of the last message of an earlier call, to go on there.
    """
    head = read_head(txn, queue)
    if head is None:
        return []
    return list(islice(_waiting(txn, QUEUE_ID.pack(head.id), after), limit))


def _waiting(txn: ReadTransaction, id_: bytes, after: str) -> Iterator[Waiting]:
    last = _key(after)
    for prefix in (READY, DELAYED):
        if last.startswith(DELAYED) and prefix == READY:
            continue
        start = last + b"\0" if last.startswith(prefix) else b""
        for key, record in sound(txn.range(prefix + id_, start)):
            stored, _, body = read_message(record)
            place = place_in(key)
            if stored.flags & LARGE:
                body = txn.get(body_key(record)) or b""
            due = DUE.unpack_from(key, _DELAYED + 4)[0] if prefix == DELAYED else None
            priority = PRIORITIES - 1 - place[4]
            yield Waiting(_tag(key), body, priority, stored.published, due, stored.deliveries)


def remove(txn: WriteTransaction, queue: str, tag: str) -> bool:
    """Delete one waiting message by its tag; return False if it no longer waits in the queue."""
    heads = Heads(txn)
    head, key = heads.get(queue), _key(tag)
    data = None if head is None or place_in(key)[:4] != QUEUE_ID.pack(head.id) else txn.get(key)
    if head is None or data is None:
        return False
    drop(txn, head, key, data)  # if it was the first delayed one, a consumer looks once in vain
    heads.write()
    return True


def unacknowledged(txn: ReadTransaction, queue: str | None = None) -> Iterator[Unacknowledged]:
    """Yield the messages that were taken and are not settled, those of each owner in the order of their taking.

    ``queue``: only those of this queue.
    """
    known = owners(txn)
    for key, data in sound(txn.range(UNACKED)):
        _, taken, name, record = read_unacked(data)
        if queue is not None and name != queue:
            continue
        stored, _, body = read_message(record)
        if stored.flags & LARGE:
            body = txn.get(body_key(record)) or b""
        owner: Owner = known.get(key[len(UNACKED) :][:8], NO_OWNER)
        yield Unacknowledged(key[len(UNACKED) :].hex(), name, owner, body, taken, stored.published)


# -- tags --------------------------------------------------------------------------------------------------------------


def _tag(key: bytes) -> str:
    """Return the tag of a waiting message: a letter for where it waits, and the rest of its key."""
    return f"r{key[_READY:].hex()}" if key.startswith(READY) else f"d{key[_DELAYED:].hex()}"


def _key(tag: str) -> bytes:
    try:
        return {"r": READY, "d": DELAYED}[tag[:1]] + bytes.fromhex(tag[1:])
    except (KeyError, ValueError):
        return b""
