"""How figures are shown on a terminal."""

from collections.abc import Mapping
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks import tables
from benchmarks.rows import Run, Section
from benchmarks.tables import Table
from benchmarks.targets import outcomes

#: Columns where nobody's terminal says how many there are.
WIDTH = 150
STYLES = {"met": "green", "missed": "red"}


def make_console() -> Console:
    """A console wide enough for the tables if the output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def show_header(console: Console, header: Mapping[str, str]) -> None:
    """Print what the figures are measured on, and what the columns mean."""
    for name, text in header.items():
        console.print(f"{name + ':':10}{text}", highlight=False, soft_wrap=True, markup=False)
    console.print(rich_table(tables.of_classes()))
    console.print(tables.LEGEND, style="dim", highlight=False)


def show_section(console: Console, section: Section) -> None:
    """Print what a scenario has found."""
    console.print()
    console.print(Text(section.name, style="bold"), Text(f" {section.title}; {section.seconds:.0f} s"))
    console.print(rich_table(tables.of_section(section)))


def show_end(console: Console, run: Run) -> None:
    """Print how the peers are set up, and what has become of the targets."""
    console.print(rich_table(tables.of_peers(run)))
    found = [outcome for outcome in outcomes(run) if outcome.found is not None or not run.settings["only"]]
    if found:
        console.print(Text("targets", style="bold"))
        console.print(rich_table(tables.of_targets(found)))


#: What a note gets at least, in characters.
NOTE_WIDTH: Final = 24


def rich_table(table: Table) -> RichTable:
    """The same text in boxes."""
    shown = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    for title, is_number in zip(table.columns, table.is_number, strict=True):
        is_prose = title in ("", "configuration", "what it means", "in")
        shown.add_column(
            title,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=not is_prose,
            min_width=NOTE_WIDTH if title == "" else None,  # or a narrow terminal leaves it two letters
        )
    for row in table.rows:
        shown.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return shown
