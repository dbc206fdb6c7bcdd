"""``lmdbresults show``"""

from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text
from rich.tree import Tree

from lmdbresults.cli import options
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import ago, inert, jsonable, local, say, say_json, span, state_style
from lmdbresults.errors import ContentDisallowed, DecodeError
from lmdbresults.monitoring import Monitor, Node, QueuedMessage, Task
from lmdbresults.serialization import DEFAULT_ACCEPT

__all__ = ["show"]


@click.command()
@options.path
@click.argument("id_", metavar="ID")
@click.option("--decode", is_flag=True, help="Also show the result, and the arguments if they are stored.")
@click.option(
    "--accept",
    default=",".join(DEFAULT_ACCEPT),
    show_default=True,
    help="Serializers that --decode reads. Reading pickle runs code: name it only if you trust every writer.",
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most nodes of the tree.")
@options.as_json
@click.pass_context
def show(context: click.Context, path: Any, id_: str, decode: bool, accept: str, limit: int, as_json: bool) -> None:
    """Show a task and the tree of its canvas.

    The tree has group, chord, chain, parent and children. ID may be that of a group.
    The exit status is 1 if nothing is stored of it.
    """
    with monitored(path) as monitor:
        task, tree = monitor.task(id_), monitor.canvas(id_, limit=limit)
        values = _values(monitor, id_, accept.split(",")) if decode and task is not None else {}
        sent = monitor.message(id_) if task is None else None
    if task is None and tree is None:
        say(f"Nothing is stored of {id_}. {_where(sent)}", err=True)
        context.exit(1)
    if as_json:
        say_json({"task": task, "canvas": tree, **values})
        return
    if task is not None:
        _say_task(task, values)
    if tree is not None and (tree.children or task is None):
        _say_tree(tree)


def _where(sent: tuple[str, QueuedMessage] | None) -> str:
    """Return what is known of a task of which no result is stored."""
    if sent is None:
        return "It has not started, was forgotten, or has expired."
    queue, message = sent
    due = "" if message.due is None else f" until {local(message.due)}"
    holder = "" if message.holder is None else f", taken by {message.holder.description}"
    return f"It was sent at {local(message.published)} and is {message.state}{due} in queue {queue}{holder}."


def _values(monitor: Monitor, id_: str, accept: list[str]) -> dict[str, Any]:
    try:
        payload = monitor.payload(id_, accept)
    except (ContentDisallowed, DecodeError) as error:
        return {"not_decoded": str(error)}
    except KeyError:  # deleted meanwhile
        return {}
    return jsonable(payload)  # type: ignore[no-any-return]


def _say_task(task: Task, values: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for title, value in _lines(task):
        if value is not None:
            style = state_style(str(value)) if title == "state" else ""
            console.print(Text(f"{title:10}", style="bold"), Text(inert(value), style=style), soft_wrap=True)
    for title, value in values.items():
        console.print(Text(f"{title:10}", style="bold"), Text(inert(value)), soft_wrap=True)
    if task.traceback is not None:
        text = inert(task.traceback.rstrip(), keep="\n")
        if console.is_terminal:
            console.print(Syntax(text, "pytb", background_color="default", word_wrap=True))
        else:
            say(text)


def _lines(task: Task) -> Iterator[tuple[str, object]]:
    row = task.row
    ended = None if row.ended is None else f"{local(row.ended)} ({ago(row.ended)} ago)"
    yield from (("id", row.id), ("state", row.state), ("ended", ended), ("run time", span(row.runtime)))
    yield from (("name", row.name), ("worker", row.worker), ("queue", row.queue), ("retries", row.retries))
    yield from (("group", row.group_id), ("parent", row.parent_id), ("children", ", ".join(task.children) or None))
    compressed = "" if task.compression is None else f", compressed by {task.compression}"
    yield "stored", f"{task.size} byte{'' if task.size == 1 else 's'} of {task.content_type}{compressed}"
    yield from (("expires", local(task.expires) or "never"), ("exception", task.exception))


def _say_tree(node: Node) -> None:
    console = Console(highlight=False)
    tree = Tree(_label(node))
    _grow(tree, node)
    console.print(tree, soft_wrap=True)


def _grow(tree: Tree, node: Node) -> None:
    for child in node.children:
        _grow(tree.add(_label(child)), child)
    if node.is_cut:
        tree.add(Text("... and more: --limit"))


def _label(node: Node) -> Text:
    """Return one line for a node."""
    if node.kind == "task":
        text = Text(inert(node.state or "not stored"), style=state_style(node.state or ""))
        text.append(f" {inert(node.name or '')}".rstrip(), style="")
    else:
        state = "" if node.state is None else f", {inert(node.state)}"
        text = Text(f"{node.kind}: {node.done} of {node.size} done{state}")
    return text.append(f" {inert(node.id)}", style="bold" if node.is_asked else "dim")
