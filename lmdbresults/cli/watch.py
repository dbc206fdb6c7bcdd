"""``lmdbresults watch``"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live

from lmdbresults import states
from lmdbresults.cli import options
from lmdbresults.cli.following import say_changes, say_row
from lmdbresults.cli.listing import row_cells, row_titles
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import inert, rich_table
from lmdbresults.monitoring import Changes, Filters, Monitor, follow

__all__ = ["watch"]

#: Lines of a terminal that are left for the title and the prompt.
_MARGIN: Final = 4


@click.command()
@options.path
@click.argument("ids", metavar="[ID]...", nargs=-1)
@options.filters
@options.as_json
def watch(path: Any, ids: tuple[str, ...], as_json: bool, **chosen: Any) -> None:
    """Watch tasks live, until you press Ctrl-C.

    The newest ones are shown, or those with these IDs until all of them have ended.
    Writers wake this command; it does not poll. On a terminal the newest tasks are a table that changes; elsewhere, and
    with IDs, each change is a line.
    """
    filters = options.filters_from(chosen)
    if ids:
        _watch_some(path, ids, as_json)
    elif as_json or not Console().is_terminal:
        say_changes(path, filters, 0, follow_on=True, as_json=as_json)
    else:
        _watch_table(path, filters)


def _watch_some(path: Any, ids: Iterable[str], as_json: bool) -> None:
    waiting = dict.fromkeys(ids, "")
    with monitored(path) as monitor, monitor.changes() as changes, suppress(KeyboardInterrupt):
        while True:
            for id_, state in list(waiting.items()):
                task = monitor.task(id_)
                if task is not None and task.row.state != state:
                    say_row(task.row, as_json)
                    waiting[id_] = task.row.state
                    if task.row.state in states.READY_STATES:
                        del waiting[id_]
            if not waiting:
                break
            changes.wait(3600)


def _watch_table(path: Any, filters: Filters) -> None:
    console = Console()
    with (
        monitored(path) as monitor,
        monitor.changes() as changes,
        suppress(KeyboardInterrupt),
        Live(console=console, auto_refresh=False, screen=True) as live,
    ):
        _draw(live, monitor, filters)
        for _ in follow(monitor, filters, 0, lambda: _redraw(live, monitor, filters, changes)):
            pass


def _redraw(live: Live, monitor: Monitor, filters: Filters, changes: Changes) -> bool:
    changes.wait(3600)
    _draw(live, monitor, filters)
    return True


def _draw(live: Live, monitor: Monitor, filters: Filters) -> None:
    rows = monitor.tasks(filters, limit=max(live.console.height - _MARGIN, 5)).rows
    cells = [["" if cell is None else inert(cell) for cell in row] for row in row_cells(rows)]
    live.update(rich_table(row_titles(rows), cells), refresh=True)
