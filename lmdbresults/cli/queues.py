"""``lmdbresults queues``"""

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.listing import row_cells, row_titles
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import local, say, say_json, say_table, span
from lmdbresults.monitoring import Filters, Monitor, Queue, QueuedMessage, TaskRow

__all__ = ["queues"]


@click.command()
@options.path
@click.argument("queue", required=False)
@options.limit(100, "messages")
@click.option(
    "--ended", type=click.IntRange(min=0), default=0, help="Also list so many tasks of QUEUE that have ended."
)
@click.option("--remove", metavar="MESSAGE", help="Delete one waiting message of QUEUE.")
@options.as_json
@click.pass_context
def queues(
    context: click.Context, path: Any, queue: str | None, limit: int, ended: int, remove: str | None, as_json: bool
) -> None:
    """List queues, or the messages of one.

    Nothing is taken.
    Messages are listed in the order in which they are delivered; before them those that are delivered and not
    acknowledged, with their process, and after them the delayed ones. The exit status is 1 if there is no such queue.
    """
    if queue is None and (remove is not None or ended):
        raise click.UsageError("--remove and --ended need a QUEUE.")
    with monitored(path) as monitor:
        if queue is None:
            found = monitor.queues()
            say_json(found) if as_json else _say_queues(found)
            return
        messages = monitor.messages(queue, limit)
        if messages is None:
            say(f"There is no queue {queue!r}.", err=True)
            context.exit(1)
        if remove is not None:
            _remove(context, monitor, queue, remove)
            return
        tasks = monitor.tasks(Filters(queue=queue), limit=ended).rows if ended else []
    if as_json:
        say_json({"messages": messages, "ended": tasks})
        return
    _say_messages(messages)
    if ended:
        _say_ended(tasks)


def _say_queues(found: Sequence[Queue]) -> None:
    rows = [
        (queue.name, queue.ready, queue.unacknowledged, queue.delayed, queue.size, span(queue.oldest), _holders(queue))
        for queue in found
    ]
    titles = ("queue", "ready", "unacknowledged", "delayed", "bytes", "oldest", "held by")
    say_table(titles, rows, "There is no queue: a worker declares its queues when it starts.")


def _holders(queue: Queue) -> str:
    return ", ".join(f"{holder.description}: {holder.messages}" for holder in queue.holders)


def _say_messages(messages: Sequence[QueuedMessage]) -> None:
    now = datetime.now(timezone.utc)
    rows = [
        (
            message.tag,
            _state(message),
            message.priority,
            span(max((now - message.published).total_seconds(), 0.0)),
            message.size,
            message.task,
            message.task_id,
        )
        for message in messages
    ]
    say_table(("message", "state", "priority", "age", "bytes", "task", "id"), rows, "The queue is empty.")


def _state(message: QueuedMessage) -> str:
    if message.holder is not None:
        return f"taken by {message.holder.description}"
    return message.state if message.due is None else f"due at {local(message.due)}"


def _say_ended(tasks: list[TaskRow]) -> None:
    say("")
    say_table(row_titles(tasks), row_cells(tasks), "No task is known to have come by it: that needs result_extended.")


def _remove(context: click.Context, monitor: Monitor, queue: str, tag: str) -> None:
    if not monitor.store.queues.remove(queue, tag):
        say(f"No message {tag} waits in the queue {queue!r}: it may have been delivered.", err=True)
        context.exit(1)
    say("Messages deleted: 1")
