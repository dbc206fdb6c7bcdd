"""Publishing: messages enter queues, and dead letters move to others."""

from collections.abc import Iterable
from typing import Final

from lmdbresults.errors import QueueFull
from lmdbresults.store.queues.heads import Heads, sound
from lmdbresults.store.queues.records import (
    BODY,
    DELAYED,
    DUE,
    LARGE,
    LARGEST_INLINE,
    MESSAGE,
    PLACE,
    QUEUE_ID,
    READY,
    Head,
    Stored,
    body_id,
    body_key,
    is_unique,
    pack_message,
    read_message,
    unique_body_id,
)
from lmdbresults.store.queues.routing import route
from lmdbresults.store.queues.values import PRIORITIES, Arguments, Death, Message, Reason
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = ["arrives", "bury", "forget", "publish"]

#: Bytes of bodies that may be ready in a temporary queue and come from the reserve of a full store.
_MOST_FROM_RESERVE: Final = 16 << 10


def publish(txn: WriteTransaction, messages: Iterable[Message]) -> list[int]:
    """Add messages to the queues that they are routed to; return for each, to how many.

    One consumer of each queue is woken after the commit. A message that no queue is found for is dropped. Raises
    `QueueFull` if a queue refuses a message, `StoreFull`, or ValueError. In a full store, a few small messages still
    reach queues that are owned or expire: workers that start greet each other, and must start to empty the store.
    """
    heads = Heads(txn)
    try:
        counts = [_publish(heads, message) for message in messages]
    except (QueueFull, ValueError):  # the caller may go on with the messages before
        heads.write()
        raise
    heads.write()
    return counts


def arrives(txn: ReadTransaction, messages: Iterable[Message]) -> bool:
    """Return whether an exchange leads one of the messages anywhere."""
    return any(route(txn, message.exchange, message.key) for message in messages)


def _publish(heads: Heads, message: Message) -> int:
    if not 0 <= message.priority < PRIORITIES:
        raise ValueError(f"priority must be between 0 and {PRIORITIES - 1}, got {message.priority}.")
    count = 0
    for queue in route(heads.txn, message.exchange, message.key) if message.exchange else (message.key,):
        head = heads.get(queue)
        if head is not None:
            _append(heads, queue, head, message)
            count += 1
    return count


def _append(heads: Heads, queue: str, head: Head, message: Message) -> None:
    """Add a message to a queue, unless it is unique and the queue has it: its body is there then."""
    body, _, _, priority, ttl, due, unique = message
    txn, now, size, id_, takes_reserve = heads.txn, heads.now, len(body), b"", False
    is_plain = head.is_plain
    if not is_plain:
        ttl = _ttl_in(head.arguments, ttl)
        takes_reserve = head.is_temporary and head.size + size <= _MOST_FROM_RESERVE
    if unique is not None and ttl is None:
        id_ = unique_body_id(head.id, unique)
        if txn.get(BODY + id_) is not None:
            return
    if not is_plain:
        _make_room(heads, queue, head, size)
    place, flags = PLACE.pack(head.id, PRIORITIES - 1 - priority, head.next), 0
    head.next += 1
    if id_ or size > LARGEST_INLINE:
        flags, id_ = LARGE, id_ or body_id(place)
        txn.set(BODY + id_, body)
        body = id_
    start = now if due is None or due <= now else due
    record = MESSAGE.pack(0.0 if ttl is None else start + ttl, now, 0, size, flags) + body
    if start > now:
        _add_delayed(heads, queue, head, place, start, record)
        return
    key = READY + place
    if takes_reserve:
        txn.move(key, key, record)
    else:
        txn.insert(key, record)
    head.ready += 1
    head.size += size
    heads.wake(queue)


def _ttl_in(arguments: Arguments, ttl: float | None) -> float | None:
    """Return the seconds until a message expires, by its own time to live and that of its queue."""
    most = arguments.message_ttl
    return most if ttl is None or (most is not None and most < ttl) else ttl


def _add_delayed(heads: Heads, queue: str, head: Head, place: bytes, start: float, record: bytes) -> None:
    heads.txn.insert(DELAYED + place[:4] + DUE.pack(start) + place[4:], record)
    if not head.delayed or start < head.due:
        head.due = start
        heads.wake(queue, everyone=True)  # each sleeps no longer than until the first message is due
    head.delayed += 1


# -- full queues -------------------------------------------------------------------------------------------------------


def _make_room(heads: Heads, queue: str, head: Head, size: int) -> None:
    """Drop the oldest messages of a queue that would exceed its limits, or refuse. Drop some that have expired."""
    arguments = head.arguments
    if arguments.message_ttl is not None and head.ready:
        _drop_expired(heads, queue, head)
    length, most = arguments.max_length, arguments.max_bytes
    while head.ready and (
        (length is not None and head.ready >= length) or (most is not None and head.size + size > most)
    ):
        if arguments.refuse:
            raise QueueFull(
                f"The queue {queue!r} holds {head.ready} messages of {head.size} bytes, and refuses another of {size}: "
                f"max_length is {length}, max_bytes {most}. Consume its messages, purge it, or raise the limit."
            )
        if not _drop_first(heads, queue, head, "maxlen"):
            break


def _drop_first(heads: Heads, queue: str, head: Head, reason: Reason) -> bool:
    """Move the first message of a queue to the dead letters; return False if none was found."""
    for key, record in list(sound(heads.txn.range(READY + QUEUE_ID.pack(head.id), limit=1))):
        head.ready -= 1
        head.size -= MESSAGE.unpack_from(record)[3]
        bury(heads, key, key[len(READY) :], queue, head, record, reason)
        return True
    return False


def _drop_expired(heads: Heads, queue: str, head: Head) -> None:
    """Drop up to two expired messages: more than a publisher adds, so a queue without consumers does not grow."""
    for key, record in list(sound(heads.txn.range(READY + QUEUE_ID.pack(head.id), limit=2))):
        expires, _, _, size, _ = MESSAGE.unpack_from(record)
        if not 0 < expires <= heads.now:
            break
        head.ready -= 1
        head.size -= size
        bury(heads, key, key[len(READY) :], queue, head, record, "expired")


# -- dead letters ------------------------------------------------------------------------------------------------------


def forget(txn: WriteTransaction, key: bytes, record: bytes) -> None:
    """Delete a message that lies under ``key``, and its body."""
    txn.delete(key)
    if MESSAGE.unpack_from(record)[4] & LARGE:
        txn.delete(body_key(record))


def bury(heads: Heads, key: bytes, place: bytes, queue: str, head: Head | None, record: bytes, reason: Reason) -> None:
    """Move a message that lies under ``key`` to the dead letters of its queue, or delete it if there are none.

    The caller has taken it out of the counts. Works in a full store: a large body stays where it is.
    """
    stored, deaths, body = read_message(record)
    is_kept = False
    targets = [] if head is None else _dead_letter_queues(heads, queue, head)
    if targets:
        deaths = _with_death(deaths, Death(queue, reason, 1, heads.now))
    for target in targets:
        if not _circles(deaths, target) and _bury_in(heads, target, place[4], stored, deaths, body, is_copy=is_kept):
            is_kept = True
    if is_kept and not (stored.flags & LARGE and is_unique(body)):
        heads.txn.delete(key)
    else:
        forget(heads.txn, key, record)


def _dead_letter_queues(heads: Heads, queue: str, head: Head) -> list[str]:
    arguments = head.arguments
    if arguments.dead_letter_key is None and not arguments.dead_letter_exchange:
        return []
    key = queue if arguments.dead_letter_key is None else arguments.dead_letter_key
    found = route(heads.txn, arguments.dead_letter_exchange, key)
    return [target for target in found if heads.get(target) is not None]


def _circles(deaths: tuple[Death, ...], target: str) -> bool:
    """Return whether a message returns to a queue with no rejection since it died there: it would circle for ever.

    It is dropped then, as RabbitMQ does.
    """
    for death in deaths:
        if death.reason == "rejected":
            return False
        if death.queue == target:
            return True
    return False


def _with_death(deaths: tuple[Death, ...], death: Death) -> tuple[Death, ...]:
    """Return the deaths with one more in front; the same one again adds to its count."""
    former = [each for each in deaths if (each.queue, each.reason) == (death.queue, death.reason)]
    if former:
        death = former[0]._replace(times=former[0].times + 1)
    return (death, *(each for each in deaths if (each.queue, each.reason) != (death.queue, death.reason)))


def _bury_in(
    heads: Heads, queue: str, order: int, stored: Stored, deaths: tuple[Death, ...], body: bytes, *, is_copy: bool
) -> bool:
    """Append a dead letter; return False if the queue refuses it, which loses it, as in RabbitMQ."""
    head = heads.get(queue)
    assert head is not None, "looked up before"
    txn, ttl = heads.txn, head.arguments.message_ttl
    try:
        _make_room(heads, queue, head, stored.size)
    except QueueFull:
        return False
    place = PLACE.pack(head.id, order, head.next)
    head.next += 1
    if stored.flags & LARGE and (is_copy or is_unique(body)):  # a dead letter is not unique: it may be sent again
        large, body = txn.get(BODY + body) or b"", body_id(place)
        txn.move(BODY + body, BODY + body, large)
    expires = 0.0 if ttl is None else heads.now + ttl
    stored = Stored(expires, stored.published, 0, stored.size, stored.flags & LARGE)
    txn.move(READY + place, READY + place, pack_message(stored, deaths, body))
    head.ready += 1
    head.size += stored.size
    heads.wake(queue)
    return True
