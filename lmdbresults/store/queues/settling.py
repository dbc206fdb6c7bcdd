"""Settling: the owner of a delivery acknowledges it, rejects it, or returns it to its queue.

A tag is the key of a delivery. If it no longer belongs to its owner, because it was settled or the owner was taken for
dead, there is no record under that key. Then settling it changes nothing and returns False.
"""

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from lmdbresults.store.queues.heads import Heads
from lmdbresults.store.queues.publishing import bury, forget
from lmdbresults.store.queues.records import (
    LARGE,
    MESSAGE,
    READY,
    REDELIVERED,
    UNACKED,
    body_key,
    read_unacked,
)
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = [
    "ACKNOWLEDGE",
    "REJECT",
    "REQUEUE",
    "REQUEUE_UNCOUNTED",
    "Settlement",
    "acknowledge",
    "give_back",
    "is_held",
    "reject",
    "requeue",
    "settle",
    "settle_in",
    "size",
]

Action: TypeAlias = Literal["acknowledge", "reject", "requeue", "requeue uncounted"]
#: What to do, and the tag of the delivery.
Settlement: TypeAlias = tuple[Action, str]

ACKNOWLEDGE: Final[Action] = "acknowledge"
REJECT: Final[Action] = "reject"
REQUEUE: Final[Action] = "requeue"
#: Requeue without counting towards `Arguments.max_deliveries`: the message was not tried.
REQUEUE_UNCOUNTED: Final[Action] = "requeue uncounted"


def acknowledge(txn: WriteTransaction, tag: str) -> bool:
    """Delete a message that was taken; return False, and change nothing, if its owner no longer has it."""
    key = _key(tag)
    if key[-1] & LARGE:
        data = txn.get(key)
        if data is not None:
            txn.delete(body_key(data))
    return txn.delete(key)


def reject(txn: WriteTransaction, tag: str) -> bool:
    """Move a message that was taken to the dead letters, or delete it. Returns like `acknowledge`."""
    return settle(txn, [(REJECT, tag)]) == [True]


def requeue(txn: WriteTransaction, tag: str, *, counted: bool = True) -> bool:
    """Return a message that was taken to its old place. Returns like `acknowledge`.

    ``counted``: whether this counts towards `Arguments.max_deliveries`.
    """
    return settle(txn, [(REQUEUE if counted else REQUEUE_UNCOUNTED, tag)]) == [True]


def is_held(txn: ReadTransaction, tag: str) -> bool:
    """Return whether a delivery still belongs to its owner."""
    return txn.get(_key(tag)) is not None


def size(txn: ReadTransaction, tag: str) -> int:
    """Return about how many bytes settling a delivery frees, its large body aside; 0 if it is no longer its owner's."""
    return len(txn.get(_key(tag)) or b"")


def settle(txn: WriteTransaction, settlements: Iterable[Settlement]) -> list[bool]:
    """Settle several deliveries; return for each what `acknowledge` returns."""
    heads = Heads(txn)
    done = settle_in(heads, settlements)
    heads.write()
    return done


def settle_in(heads: Heads, settlements: Iterable[Settlement]) -> list[bool]:
    """Settle as `settle` does, as a part of a step: the caller writes the heads."""
    return [
        acknowledge(heads.txn, tag) if action == ACKNOWLEDGE else _settle(heads, action, _key(tag))
        for action, tag in settlements
    ]


def _settle(heads: Heads, action: Action, key: bytes) -> bool:
    data = heads.txn.get(key)
    if data is None:
        return False
    if action == REJECT:
        place, _, queue, record = read_unacked(data)
        bury(heads, key, place, queue, heads.get(queue), record, "rejected")
    else:
        give_back(heads, key, data, counted=action == REQUEUE)
    return True


def give_back(heads: Heads, key: bytes, data: bytes, *, counted: bool) -> None:
    """Return a message that was taken, and lies under ``key``, to its old place. Works in a full store."""
    place, _, queue, record = read_unacked(data)
    head = heads.get(queue)
    expires, published, deliveries, size, flags = MESSAGE.unpack_from(record)
    if head is None or not place.startswith(head.id.to_bytes(4, "big")):  # the queue was deleted
        forget(heads.txn, key, record)
        return
    deliveries += counted
    most = head.arguments.max_deliveries
    if most is not None and deliveries > most:
        bury(heads, key, place, queue, head, record, "delivery_limit")
        return
    changed = MESSAGE.pack(expires, published, min(deliveries, 0xFFFF), size, flags | REDELIVERED)
    heads.txn.move(key, READY + place, changed + record[MESSAGE.size :])
    head.ready += 1
    head.size += size
    heads.wake(queue)


def _key(tag: str) -> bytes:
    try:
        return UNACKED + bytes.fromhex(tag)
    except ValueError:
        return UNACKED  # not a tag of ours, so it leads to nothing
