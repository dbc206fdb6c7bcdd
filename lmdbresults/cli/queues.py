"""``lmdbresults queues``"""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import click

from lmdbresults.cli.opening import existing, opened
from lmdbresults.cli.output import say
from lmdbresults.process.identity import Owner, describe
from lmdbresults.store import LMDBStore

__all__ = ["queues"]


@click.command()
@click.argument("path")
@click.argument("queue", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most messages to list.")
@click.pass_context
def queues(context: click.Context, path: str, queue: str | None, limit: int) -> None:
    """List the queues of a store; with QUEUE, the messages in it, without taking any.

    Messages are listed in the order in which they are delivered; before them those that are delivered and not
    acknowledged, with their process, and after them the delayed ones.
    """
    with opened(existing(path)) as store:
        if queue is None:
            _say_table(_queues(store))
        elif store.queues.state(queue) is None:
            say(f"There is no queue {queue!r}.", err=True)
            context.exit(1)
        else:
            _say_table(_messages(store, queue, limit))


def _queues(store: LMDBStore) -> list[Sequence[object]]:
    unacknowledged = Counter(message.queue for message in store.queues.unacknowledged())
    rows: list[Sequence[object]] = [("queue", "ready", "unacknowledged", "delayed", "bytes")]
    for name in store.queues.names():
        state = store.queues.state(name)
        if state is not None:  # it may have been deleted meanwhile
            rows.append((name, state.ready, unacknowledged[name], state.delayed, state.size))
    return rows


def _messages(store: LMDBStore, queue: str, limit: int) -> list[Sequence[object]]:
    now = time.time()
    rows: list[Sequence[object]] = [("message", "state", "priority", "age", "bytes")]
    for taken in store.queues.unacknowledged(queue)[:limit]:
        rows.append(
            (
                taken.tag,
                f"{_holder(store, taken.owner)} since {_at(taken.taken)}",
                "",
                f"{now - taken.published:.1f} s",
                len(taken.body),
            )
        )
    for waiting in store.queues.peek(queue, limit + 1 - len(rows)) if len(rows) <= limit else ():
        state = "ready" if waiting.due is None else f"due at {_at(waiting.due)}"
        rows.append((waiting.tag, state, waiting.priority, f"{now - waiting.published:.1f} s", len(waiting.body)))
    return rows


def _holder(store: LMDBStore, owner: Owner) -> str:
    if store.is_alive(owner):
        return describe(owner.pid)
    return f"process {owner.pid}, which has ended,"  # the next consumer returns its messages


def _at(moment: float) -> str:
    return datetime.fromtimestamp(moment).isoformat(" ", "seconds")


def _say_table(rows: Sequence[Sequence[object]]) -> None:
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(f"{cell!s:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
