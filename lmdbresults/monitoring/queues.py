"""The queues of the broker, without taking anything from them."""

from collections import Counter, defaultdict
from datetime import datetime, timezone
from typing import Final

import msgpack

from lmdbresults.monitoring.values import Holder, Queue, QueuedMessage
from lmdbresults.process.identity import Owner, describe
from lmdbresults.store.base import Store
from lmdbresults.store.queues import Unacknowledged, Waiting

__all__ = ["find_message", "read_messages", "read_queues"]

#: The most waiting messages among which that of a task is looked for.
_MOST_SEARCHED: Final = 1000


def read_queues(store: Store) -> list[Queue]:
    """Return all queues, by their names."""
    held: dict[str, Counter[Owner]] = defaultdict(Counter)
    for message in store.queues.unacknowledged():
        held[message.queue][message.owner] += 1
    found, now = [], store.now()
    for name in store.queues.names():
        state = store.queues.state(name)
        if state is not None:  # it was not deleted meanwhile
            first = store.queues.peek(name, 1) if state.ready else []
            oldest = max(now - first[0].published, 0.0) if first and first[0].due is None else None
            holders = [_holder(store, owner, count) for owner, count in held[name].items()]
            unacknowledged = held[name].total()
            found.append(Queue(name, state.ready, unacknowledged, state.delayed, state.size, oldest, holders))
    return sorted(found)


def read_messages(store: Store, queue: str, limit: int) -> list[QueuedMessage] | None:
    """Return up to ``limit`` messages of a queue: unacknowledged, ready, delayed. None: there is no such queue."""
    if store.queues.state(queue) is None:
        return None
    found = [_taken(store, message) for message in store.queues.unacknowledged(queue)[:limit]]
    if len(found) < limit:
        found.extend(map(_waiting, store.queues.peek(queue, limit - len(found))))
    return found


def find_message(store: Store, task_id: str) -> tuple[str, QueuedMessage] | None:
    """Return the message of a task, with its queue.

    None: it is in no queue, or behind the first thousand messages that wait: there is no index by task.
    """
    if not hasattr(store, "queues"):
        return None
    mark, left = task_id.encode(), _MOST_SEARCHED

    def is_it(body: bytes) -> bool:
        return mark in body and _task_in(body)[0] == task_id

    for taken in store.queues.unacknowledged():
        if is_it(taken.body):
            return taken.queue, _taken(store, taken)
    for queue in store.queues.names():
        waiting = store.queues.peek(queue, left)
        left -= len(waiting)
        for message in waiting:
            if is_it(message.body):
                return queue, _waiting(message)
    return None


def _taken(store: Store, message: Unacknowledged) -> QueuedMessage:
    holder, (task_id, task) = _holder(store, message.owner, 1), _task_in(message.body)
    size, published = len(message.body), _at(message.published)
    return QueuedMessage(message.tag, "unacknowledged", task_id, task, None, published, None, holder, size)


def _waiting(message: Waiting) -> QueuedMessage:
    due, (task_id, task) = None if message.due is None else _at(message.due), _task_in(message.body)
    state, size, published = "ready" if due is None else "delayed", len(message.body), _at(message.published)
    return QueuedMessage(message.tag, state, task_id, task, message.priority, published, due, None, size)


def _holder(store: Store, owner: Owner, messages: int) -> Holder:
    is_alive = store.is_alive(owner)
    description = describe(owner.pid) if is_alive else f"process {owner.pid}, which has ended"
    return Holder(owner.pid, description, is_alive, messages)


def _at(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, timezone.utc)


def _task_in(body: bytes) -> tuple[str | None, str | None]:
    """Return id and name of the task in the body of a message of Celery; nothing of it runs code."""
    try:
        headers = msgpack.unpackb(body, strict_map_key=False, unicode_errors="surrogatepass")[0]
        task_id, task = headers.get("id"), headers.get("task")
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, msgpack.UnpackException):
        return None, None
    return task_id if isinstance(task_id, str) else None, task if isinstance(task, str) else None
