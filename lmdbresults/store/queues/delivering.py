"""Delivering: messages move from a queue to the owner that takes them."""

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

import msgpack

from lmdbresults.process.identity import Owner
from lmdbresults.store.queues.heads import Heads, read_head, sound
from lmdbresults.store.queues.publishing import bury, forget
from lmdbresults.store.queues.records import (
    DELAYED,
    DUE,
    LARGE,
    MESSAGE,
    NO_ID,
    NOTED,
    OWNER,
    OWNERS_TOPIC,
    QUEUE_ID,
    READY,
    REDELIVERED,
    UNACKED,
    Head,
    body_key,
    owner_id,
    pack_unacked,
    place_in,
    read_message,
    unacked_key,
)
from lmdbresults.store.queues.values import PRIORITIES, Death, Delivery, Taken
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = ["FIRST_NUMBER", "lives", "must_note_use", "register", "survey", "take", "take_from"]

#: The use of a queue that expires is written down again after this part of its `Arguments.expires`.
_USE_NOTED: Final = 0.25
#: Expired messages that one take drops from a queue, and delayed ones that it moves, at most.
_MAX_MOVES: Final = 500
_START: Final = len(READY)

#: The number of the first delivery of this process, unless a program that ran in it before has called exec: the numbers
#: of that one are lower. A forked child goes on counting, as another owner.
FIRST_NUMBER: Final = time.monotonic_ns()
_numbers: Final = itertools.count(FIRST_NUMBER)


def take(txn: WriteTransaction, owner: Owner, queues: Sequence[str], limit: int) -> Taken:
    """Take up to ``limit`` messages for an owner, about as many from each queue; later queues fill what is left.

    If more are left in a queue, another consumer of it is woken.
    """
    heads = Heads(txn)
    taken = take_from(heads, owner, queues, limit)
    heads.write()
    return taken


def take_from(heads: Heads, owner: Owner, queues: Sequence[str], limit: int, settled: Collection[str] = ()) -> Taken:
    """Take as `take` does, as a part of a step: the caller writes the heads.

    What is taken from the queues ``settled`` is acknowledged at once, and its tag is empty.
    """
    found: list[Delivery] = []
    waiting: list[tuple[str, Head]] = []
    next_due = None
    for queue in queues:
        head = heads.get(queue)
        if head is None:
            continue
        _prepare(heads, head, owner)
        if head.ready:
            waiting.append((queue, head))
        if head.delayed and (next_due is None or head.due < next_due):
            next_due = head.due
    if waiting and limit > 0:
        register(heads.txn, owner)
        id_, share = owner_id(owner), limit // len(waiting) or 1
        for most in (share, limit):
            for queue, head in waiting if len(found) < limit else ():
                holder = None if queue in settled else id_
                _take_some(heads, holder, queue, head, min(most, limit - len(found)), found)
    for queue, head in waiting:
        if head.ready:
            heads.wake(queue)
    return Taken(found, next_due)


def survey(txn: ReadTransaction, queues: Iterable[str]) -> tuple[bool, float | None]:
    """Return whether a take has something to do, and when the next delayed message is due."""
    now, next_due = txn.now(), None
    for queue in queues:
        head = read_head(txn, queue)
        if head is None:
            continue
        if head.ready or must_note_use(head, now, taking=True):
            return True, None
        if head.delayed:
            if head.due <= now:
                return True, None
            next_due = head.due if next_due is None else min(next_due, head.due)
    return False, next_due


def register(txn: WriteTransaction, owner: Owner) -> None:
    """List a process as an owner of messages, so that others see when it dies. Works in a full store."""
    key = OWNER + owner_id(owner)
    if txn.get(key) is None:
        txn.move(key, key, msgpack.packb(owner))
        txn.notify(OWNERS_TOPIC)


def lives(txn: ReadTransaction, id_: bytes, is_alive: Callable[[Owner], bool]) -> bool:
    """Return whether a process is listed as an owner, and runs."""
    data = txn.get(OWNER + id_)
    return data is not None and is_alive(Owner(*msgpack.unpackb(data)))


# -- before ------------------------------------------------------------------------------------------------------------


def _prepare(heads: Heads, head: Head, owner: Owner) -> None:
    """Note that a queue is in use, and make its delayed messages ready if they are due."""
    if must_note_use(head, heads.now, taking=True):
        head.used, head.user = heads.now, owner_id(owner)
        register(heads.txn, owner)
    if head.delayed and head.due <= heads.now:
        _make_ready(heads, head)


def must_note_use(head: Head, now: float, *, taking: bool = False) -> bool:
    """Return whether the use of a queue that expires must be written down. ``taking``: also by which process.

    An owned queue lives as long as its owner, however long it is not used: an idle worker writes nothing.
    """
    expires = head.arguments.expires
    if expires is None or head.is_owned:
        return False
    return not 0 <= now - head.used < _USE_NOTED * expires or (taking and head.user == NO_ID)


def _make_ready(heads: Heads, head: Head) -> None:
    """Move delayed messages that are due among the ready ones, to the place that they had when they were published."""
    prefix = DELAYED + QUEUE_ID.pack(head.id)
    due = len(prefix)
    for count, (key, record) in enumerate(sound(heads.txn.range(prefix, limit=_MAX_MOVES + 1))):
        (when,) = DUE.unpack_from(key, due)
        if when > heads.now or count == _MAX_MOVES:
            head.due = when
            return
        heads.txn.move(key, READY + place_in(key), record)
        head.ready += 1
        head.size += MESSAGE.unpack_from(record)[3]
        head.delayed -= 1
    head.delayed, head.due = 0, 0.0


# -- taking ------------------------------------------------------------------------------------------------------------


def _take_some(heads: Heads, owner: bytes | None, queue: str, head: Head, limit: int, found: list[Delivery]) -> None:
    """Move up to ``limit`` messages to the owner, and add them to ``found``. Drop those that have expired.

    Without an owner they are deleted.
    """
    until, dropped = len(found) + limit, 0
    while head.ready and dropped < _MAX_MOVES and (wanted := until - len(found)) > 0:
        pairs = list(sound(heads.txn.range(READY + QUEUE_ID.pack(head.id), limit=wanted)))
        for key, record in pairs:
            expires, _, _, size, _ = about = MESSAGE.unpack_from(record)
            head.ready -= 1
            head.size -= size
            if 0 < expires <= heads.now:
                bury(heads, key, key[_START:], queue, head, record, "expired")
                dropped += 1
            else:
                found.append(_deliver(heads, owner, queue, key, record, about))
        if not pairs:  # the rest is damaged
            head.ready = head.size = 0


def _deliver(
    heads: Heads, owner: bytes | None, queue: str, key: bytes, record: bytes, about: tuple[Any, ...]
) -> Delivery:
    _, published, deliveries, _, flags = about
    place, tag = key[_START:], ""
    deaths: tuple[Death, ...] = ()
    if flags & NOTED:
        _, deaths, body = read_message(record)
    else:
        body = record[MESSAGE.size :]
    if flags & LARGE:
        body = heads.txn.get(body_key(record)) or b""
    if owner is None:
        forget(heads.txn, key, record)
    else:
        target = unacked_key(owner, next(_numbers), flags)
        heads.txn.move(key, target, pack_unacked(place, heads.now, queue.encode(), record))
        tag = target[len(UNACKED) :].hex()
    priority = PRIORITIES - 1 - place[4]
    return Delivery(tag, queue, body, flags & REDELIVERED != 0, deliveries, deaths, priority, published)
