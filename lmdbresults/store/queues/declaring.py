"""Declaring queues, purging and deleting them."""

from collections.abc import Callable

from lmdbresults.process.identity import Owner
from lmdbresults.store.queues.delivering import lives, must_note_use, register
from lmdbresults.store.queues.heads import Heads, drop, read_head, sound
from lmdbresults.store.queues.publishing import forget
from lmdbresults.store.queues.records import (
    DELAYED,
    DOOMED,
    HEAD,
    IDS,
    NO_ID,
    OWNED,
    QUEUE_ID,
    READY,
    UNUSED,
    Head,
    owner_id,
)
from lmdbresults.store.queues.routing import unbind_all
from lmdbresults.store.queues.values import Arguments, QueueState
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = ["as_declared", "clear", "declare", "delete_head", "is_user", "leave", "names", "purge_some", "state"]

_LONGEST_NAME = 255


def declare(
    txn: WriteTransaction,
    queue: str,
    arguments: Arguments | None = None,
    *,
    owner: Owner | None = None,
    is_alive: Callable[[Owner], bool] = Owner.is_alive,
) -> QueueState:
    """Create a queue, or find an existing one, and return what it holds.

    ``arguments`` replace those of an existing queue; None leaves them. The queue is deleted when its ``owner`` has
    exited. An existing queue keeps an owner that ``is_alive``. Works in a full store: a worker declares its queues
    before it can empty them. Raises ValueError for a name of more than 255 bytes.
    """
    name = queue.encode()
    if not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"The name of a queue must have 1 to {_LONGEST_NAME} bytes of UTF-8, got {len(name)}.")
    head = read_head(txn, queue)
    is_new = head is None
    head = head or Head.new(_next_id(txn))
    if arguments is not None:
        head.arguments = arguments
        if arguments.expires is None:
            txn.delete(UNUSED + name)
        else:
            txn.move(UNUSED + name, UNUSED + name, b"")
    if owner is not None and not lives(txn, head.owner, is_alive):
        _own(txn, name, head, owner)
    if head.arguments.expires is not None:
        head.used = txn.now()
    if (data := head.pack()) != head.stored or is_new:
        txn.move(HEAD + name, HEAD + name, data)
    return QueueState(head.ready, head.size, head.delayed)


def _next_id(txn: WriteTransaction) -> int:
    """Return the id of a new queue. Unlike a counter of the port, it works in a full store."""
    id_ = int(txn.get(IDS) or 0) + 1
    txn.move(IDS, IDS, b"%d" % id_)
    return id_


def as_declared(
    txn: ReadTransaction,
    queue: str,
    arguments: Arguments | None,
    owner: Owner | None,
    is_alive: Callable[[Owner], bool],
) -> QueueState | None:
    """Return what a queue holds, if declaring it would change nothing."""
    head = read_head(txn, queue)
    if (
        head is None
        or must_note_use(head, txn.now())
        or (arguments is not None and arguments != head.arguments)
        or (owner is not None and not lives(txn, head.owner, is_alive))
    ):
        return None
    return QueueState(head.ready, head.size, head.delayed)


def _own(txn: WriteTransaction, name: bytes, head: Head, owner: Owner) -> None:
    id_ = owner_id(owner)
    register(txn, owner)
    if head.is_owned:
        txn.delete(OWNED + head.owner + name)
    txn.move(OWNED + id_ + name, OWNED + id_ + name, b"")
    head.owner = id_


def is_user(txn: ReadTransaction, queue: str, owner: Owner) -> bool:
    """Return whether a process is the last one that has taken from a queue that expires."""
    head = read_head(txn, queue)
    return head is not None and head.user == owner_id(owner)


def leave(txn: WriteTransaction, queue: str, owner: Owner) -> None:
    """Note that a process takes no more from a queue, so that the queue expires if no other does."""
    heads = Heads(txn)
    head = heads.get(queue)
    if head is not None and head.user == owner_id(owner):
        head.used, head.user = heads.now, NO_ID
    heads.write()


def state(txn: ReadTransaction, queue: str) -> QueueState | None:
    """Return what a queue holds, or None if there is no such queue."""
    head = read_head(txn, queue)
    return None if head is None else QueueState(head.ready, head.size, head.delayed)


def names(txn: ReadTransaction) -> list[str]:
    """Return the names of all queues."""
    return [key[len(HEAD) :].decode() for key, _ in txn.range(HEAD, head=0)]


# -- emptying ----------------------------------------------------------------------------------------------------------


def purge_some(txn: WriteTransaction, queue: str, limit: int) -> int:
    """Delete up to so many messages that wait in a queue; return how many. Works in a full store."""
    heads = Heads(txn)
    head = heads.get(queue)
    if head is None:
        return 0
    count = 0
    for prefix in (READY, DELAYED):
        for key, record in list(sound(txn.range(prefix + QUEUE_ID.pack(head.id), limit=limit - count))):
            drop(txn, head, key, record)
            count += 1
    heads.write()
    return count


def delete_head(txn: WriteTransaction, queue: str) -> tuple[int, bytes] | None:
    """Delete a queue but its messages, which `clear` deletes; return how many are ready, and the id of the queue.

    The id is empty if there are no messages to clear. Returns None if there is no such queue. Works in a full store.
    """
    head = read_head(txn, queue)
    if head is None:
        return None
    name, id_ = queue.encode(), QUEUE_ID.pack(head.id)
    unbind_all(txn, queue)
    txn.delete(UNUSED + name)
    if head.is_owned:
        txn.delete(OWNED + head.owner + name)
    if not head.ready and not head.delayed:
        txn.delete(HEAD + name)
        return 0, b""
    txn.move(HEAD + name, DOOMED + id_, b"")
    return head.ready, id_


def clear(txn: WriteTransaction, id_: bytes, limit: int) -> bool:
    """Delete up to so many records of a deleted queue; return whether there may be more. Works in a full store.

    Its messages that are not acknowledged go when they are settled.
    """
    left = limit
    for prefix in (READY, DELAYED):
        for key, record in list(sound(txn.range(prefix + id_, limit=left))):
            forget(txn, key, record)
            left -= 1
    if left > 0:
        txn.delete(DOOMED + id_)
    return left <= 0
