"""Lines about tasks as they change."""

from contextlib import suppress
from typing import Any

import click

from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import inert, local, say_json, state_style
from lmdbresults.monitoring import Changes, Filters, TaskRow, follow

__all__ = ["say_changes", "say_row"]


def say_changes(path: Any, filters: Filters, last: int, *, follow_on: bool, as_json: bool) -> None:
    """Print the last tasks, and then, if ``follow_on``, each one that changes, until the user interrupts."""
    with monitored(path) as monitor, monitor.changes() as changes, suppress(KeyboardInterrupt):
        has_changed = _until_interrupted(changes) if follow_on else _never
        for row in follow(monitor, filters, last, has_changed):
            say_row(row, as_json)


def say_row(row: TaskRow, as_json: bool) -> None:
    """Print a task on a line."""
    if as_json:
        say_json(row, indent=None)
        return
    state = click.style(f"{inert(row.state):8}", fg=state_style(row.state) or None)
    where = "" if row.worker is None else f" on {inert(row.worker)}"
    when = local(row.ended) or " " * len("2026-01-01 00:00:00")
    click.echo(f"{when}  {state}  {inert(row.id)}  {inert(row.name or '')}{where}".rstrip())


def _never() -> bool:
    return False


def _until_interrupted(changes: Changes) -> Any:
    def has_changed() -> bool:
        while not changes.wait(3600):
            pass
        return True

    return has_changed
