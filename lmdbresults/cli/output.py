"""Output of commands: lines, tables, JSON, and progress bars. No control character reaches a terminal."""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Final, Literal

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from lmdbresults import states
from lmdbresults.store.base import Progress as Report

__all__ = [
    "ago",
    "inert",
    "jsonable",
    "local",
    "progress",
    "rich_table",
    "say",
    "say_json",
    "say_some",
    "say_table",
    "span",
    "state_style",
]

#: The most lines of one kind that are listed.
_MOST: Final = 20
#: Kinds of characters that a terminal may act upon: controls, bidirectional marks, surrogates, line separators.
_ACTIVE: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
_NUMBER: Final = re.compile(r"[0-9.,]+( [a-z]{1,3})?")


def inert(text: object, keep: str = "") -> str:
    """Return a text whose control characters are written as escapes, but for those to ``keep``."""
    written = str(text)
    if written.isascii() and written.isprintable():
        return written
    return "".join(
        char if char in keep or unicodedata.category(char) not in _ACTIVE else _escaped(char) for char in written
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def say(text: str, *, err: bool = False) -> None:
    """Print a line, to the standard error stream if ``err``. File names that are not UTF-8 are escaped."""
    click.echo(inert(text, keep="\n"), err=err)


def say_some(sentences: Sequence[str]) -> None:
    """Print the first lines of a list, and how many more there are."""
    for sentence in sentences[:_MOST]:
        say(f"  {sentence}")
    if len(sentences) > _MOST:
        say(f"  ... and {len(sentences) - _MOST} more.")


# -- JSON --------------------------------------------------------------------------------------------------------------


def say_json(value: object, *, indent: int | None = 2) -> None:
    """Print a value as JSON, which is ASCII."""
    click.echo(json.dumps(jsonable(value), indent=indent))


def jsonable(value: Any) -> Any:
    """Return a value as JSON has it: records as objects, times in ISO format, anything else as its text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: jsonable(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


# -- tables ------------------------------------------------------------------------------------------------------------


def say_table(titles: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Print a table: on a terminal fitted to its width, else with every column as wide as it must be."""
    if not rows:
        say(empty)
        return
    cells = [["" if cell is None else inert(cell) for cell in row] for row in rows]
    console = Console()
    if console.is_terminal:
        console.print(rich_table(titles, cells))
        return
    columns = list(enumerate(zip(titles, *cells, strict=True)))
    forms = [f"{'>' if _is_of_numbers(cells, place) else '<'}{max(map(len, column))}" for place, column in columns]
    for row in (titles, *cells):
        click.echo("  ".join(map(format, row, forms)).rstrip())


def rich_table(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    """Return a table of cells that are inert."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, title in enumerate(titles):
        # Of columns that may wrap, rich cuts the longest first, such as ids; otherwise all alike, states to nothing.
        is_whole = any(" " in row[column] for row in cells)
        side: Literal["left", "right"] = "right" if _is_of_numbers(cells, column) else "left"
        table.add_column(title, overflow="ellipsis", no_wrap=is_whole, justify=side)
    for row in cells:
        table.add_row(*(Text(cell, style=state_style(cell)) for cell in row))
    return table


def _is_of_numbers(cells: Sequence[Sequence[str]], column: int) -> bool:
    """Return whether all that is in a column are numbers, which may have a unit."""
    return all(_NUMBER.fullmatch(row[column]) for row in cells if row[column])


def state_style(state: str) -> str:
    """Return the style in which a state is shown; plain for any other text."""
    if state == states.SUCCESS:
        return "green"
    return "red" if state in (states.FAILURE, states.REVOKED) else "yellow" if state in _UNREADY else ""


_UNREADY: Final = states.UNREADY_STATES | {"open", "claimed"}


def local(moment: datetime | None) -> str | None:
    """Return a time in the zone of the reader, to the second."""
    return None if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(moment: datetime | None) -> str | None:
    """Return how long ago something was."""
    return None if moment is None else span((datetime.now(timezone.utc) - moment).total_seconds())


def span(seconds: float | None) -> str | None:
    """Return a number of seconds in one unit."""
    if seconds is None:
        return None
    if 0 < seconds < 1:
        return f"{seconds * 1000:.{0 if seconds >= 0.01 else 1}f} ms"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if abs(seconds) >= 2 * size or unit == "s":
            return f"{seconds / size:.{0 if abs(seconds) >= 10 * size else 1}f} {unit}"
    return None


@contextmanager
def progress(what: str) -> Iterator[Report | None]:
    """Yield a function ``(done, total)`` that draws a progress bar, or None if there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)
