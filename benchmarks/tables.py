"""Rows as the text of a table, for the terminal and for the docs alike."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from benchmarks.rows import CLASSES, MICROSECONDS, Row, Run, Section
from benchmarks.targets import Outcome

LEGEND: Final = """\
"to ours" is how many times the time of ours the same work takes: at 12.0 ours is twelve times faster, at 0.5 the \
other one is twice as fast. It is the median over the rounds of the ratio within a round. Where something is written, \
a row is compared with ours of its own durability. "to limit" is the same against the bare py-lmdb transaction, \
"growth" against the same peer at its smallest size."""

#: Where the slowest of all matters.
WITH_MAXIMUM: Final = ("sustained", "checkpoint-latency", "sweep")


class Table(NamedTuple):
    """Text in columns."""

    columns: Sequence[str]
    is_number: Sequence[bool]
    rows: Sequence[Sequence[str]]


class Column(NamedTuple):
    """What stands in it."""

    title: str
    is_number: bool
    cell: Callable[[Row], str]


def of_section(section: Section) -> Table:
    """The columns in which there is something to say."""
    units = list(dict.fromkeys(row.unit for row in section.rows if not row.missing)) or [MICROSECONDS]
    columns = [
        Column("work", False, lambda row: row.work),
        Column(section.grows_with, True, lambda row: "" if row.x is None else f"{row.x:,.0f}"),
        Column("peer", False, lambda row: row.peer),
        Column("durability", False, lambda row: row.durability),
        Column(f"median, {units[0]}", True, lambda row: number(row.median)),
        Column("p90", True, lambda row: number(row.p90)),
        Column("p99", True, lambda row: number(row.p99)),
        Column("max", True, lambda row: number(row.maximum) if section.name in WITH_MAXIMUM else ""),
        Column("a second", True, lambda row: "" if row.rate is None else f"{row.rate:,.0f}"),
        Column("to ours", True, lambda row: ratio(row.to_ours)),
        Column("to limit", True, lambda row: ratio(row.to_limit)),
        Column("growth", True, lambda row: ratio(row.growth)),
        Column("a power cut takes", False, lambda row: row.loss),
        Column("", False, lambda row: row.missing or row.note),
    ]
    return _without_empty(columns, section.rows)


def _without_empty(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    used = [column for column in columns if any(column.cell(row) for row in rows)]
    if len({row.work for row in rows}) < 2:
        used = [column for column in used if column.title != "work"]
    cells = [[column.cell(row) for column in used] for row in rows]
    return Table([column.title for column in used], [column.is_number for column in used], cells)


def of_peers(run: Run) -> Table:
    """Who takes part, and how each is set up."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for section in run.sections:
        for row in section.rows:
            names = found.setdefault((row.peer, row.configuration, row.durability), [])
            if section.name not in names:
                names.append(section.name)
    rows = [[*about, ", ".join(names)] for about, names in found.items()]
    return Table(["peer", "configuration", "durability", "in"], [False] * 4, rows)


def of_classes() -> Table:
    """What the durabilities mean."""
    return Table(["durability", "what it means"], [False] * 2, [list(pair) for pair in CLASSES.items()])


def of_targets(outcomes: Sequence[Outcome]) -> Table:
    """What was to be reached, and what was."""
    rows = [[outcome.work, outcome.wanted, outcome.told, outcome.verdict] for outcome in outcomes]
    return Table(["work", "wanted", "found", ""], [False, True, True, False], rows)


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Two decimals where they say something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
