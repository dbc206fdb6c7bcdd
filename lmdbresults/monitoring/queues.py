"""The queues of the broker, without taking anything from them."""

from collections import Counter, defaultdict
from datetime import datetime, timezone

import msgpack

from lmdbresults.monitoring.values import Holder, Queue, QueuedMessage
from lmdbresults.process.identity import Owner, describe
from lmdbresults.store.base import Store

__all__ = ["read_messages", "read_queues"]


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
    found = []
    for taken in store.queues.unacknowledged(queue)[:limit]:
        holder, (task_id, task) = _holder(store, taken.owner, 1), _task_in(taken.body)
        published = _at(taken.published)
        found.append(
            QueuedMessage(taken.tag, "unacknowledged", task_id, task, None, published, None, holder, len(taken.body))
        )
    for waiting in store.queues.peek(queue, limit - len(found)) if len(found) < limit else ():
        due, (task_id, task) = None if waiting.due is None else _at(waiting.due), _task_in(waiting.body)
        published, size = _at(waiting.published), len(waiting.body)
        state = "ready" if due is None else "delayed"
        found.append(QueuedMessage(waiting.tag, state, task_id, task, waiting.priority, published, due, None, size))
    return found


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
