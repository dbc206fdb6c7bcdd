"""``lmdbresults list``"""

from typing import Any

import click

from lmdbresults.cli import options
from lmdbresults.cli.opening import monitored
from lmdbresults.cli.output import local, say, say_json, say_table, span
from lmdbresults.monitoring import Filters, TaskRow

__all__ = ["list_", "row_cells", "row_titles"]


@click.command("list")
@options.path
@options.filters
@options.limit(50, "tasks")
@click.option("--after", help="Go on behind a page: the `next` of its JSON, or what the last line of it says.")
@options.as_json
def list_(path: Any, limit: int, after: str | None, as_json: bool, **chosen: Any) -> None:
    """List tasks, newest first.

    Those that have not ended come before all others.
    Name, worker, queue and retries are stored with the setting result_extended. No result is decoded.
    """
    filters = options.filters_from(chosen)
    with monitored(path) as monitor:
        page = monitor.tasks(filters, limit=limit, after=after)
    if as_json:
        say_json(page)
        return
    say_table(
        row_titles(page.rows),
        row_cells(page.rows),
        "No task matches." if filters != Filters() else "No task is stored.",
    )
    if page.damaged:
        say(f"Records that cannot be read: {page.damaged}. `lmdbresults check` lists them.", err=True)
    if page.rows and all(row.name is None for row in page.rows):
        say("Names, workers and run times are stored with the setting result_extended = True.", err=True)
    if page.next is not None:
        say(f"There are more: --after {page.next}", err=True)


#: Titles, and what stands under them. A column that is empty in every row is left out.
_COLUMNS = (
    ("ended", lambda row: local(row.ended) or "-"),
    ("state", lambda row: row.state),
    ("id", lambda row: row.id),
    ("name", lambda row: row.name),
    ("run time", lambda row: span(row.runtime)),
    ("worker", lambda row: row.worker),
    ("queue", lambda row: row.queue),
    ("retries", lambda row: row.retries or None),
    ("group", lambda row: row.group_id),
)


def row_titles(rows: list[TaskRow]) -> list[str]:
    """Return the titles of the columns in which any row has something."""
    return [title for title, cell in _COLUMNS if any(cell(row) is not None for row in rows)]


def row_cells(rows: list[TaskRow]) -> list[list[object]]:
    """Return the cells of these columns."""
    titles = row_titles(rows)
    return [[cell(row) for title, cell in _COLUMNS if title in titles] for row in rows]
