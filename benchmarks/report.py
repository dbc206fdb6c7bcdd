"""How figures are shown: a rich table per scenario for people, JSON for whatever draws or compares them later."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.measure import Figures, Samples, figures
from benchmarks.peers import Row

Rows = Sequence[tuple[Row, Figures | str]]
"""Each row with its figures, or the reason why it has none."""

Results = Mapping[str, Rows]
"""Rows by scenario."""

LEGEND = """\
Microseconds an operation; ops/s is that of the median. ratio: median over the rounds of (own median / the median of
"{reference}" in the same round), so 12.00 is twelve times its time; in brackets where durabilities differ.
Durability: memory is gone with its server; none is never synced: it survives kill -9, not power loss;
checkpoint is synced now and then; commit is synced before a store returns."""


def results(entries: Sequence[Row], missing: Mapping[str, str], samples: Samples, reference: str) -> Results:
    """Figures of all entries in all scenarios; those that are missing keep their row."""

    def measured(scenario: str, entry: Row) -> Figures | str:
        if entry.name in missing:
            return missing[entry.name]
        return figures(samples[scenario, entry.name], samples.get((scenario, reference)))

    scenarios = dict.fromkeys(scenario for scenario, _ in samples)
    return {scenario: [(entry, measured(scenario, entry)) for entry in entries] for scenario in scenarios}


def show(console: Console, header: Mapping[str, str], measured: Results, legend: str, *, rates: bool = True) -> None:
    """Print header, peers, one table per scenario (with ``rates``, or times alone), legend."""
    for name, text in header.items():
        console.print(f"{name + ':':10}{text}", highlight=False, soft_wrap=True, markup=False)
    console.print(configurations(next(iter(measured.values()))))
    for scenario, rows in measured.items():
        console.print(timings(scenario, rows, rates))
    console.print(legend, style="dim", highlight=False, soft_wrap=True)


def configurations(rows: Rows) -> Table:
    """Who takes part, and how each is set up, or why it is missing."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("peer", "durability"):
        table.add_column(column, no_wrap=True)
    table.add_column("configuration")
    for entry, found in rows:
        why = f" ({found})" if isinstance(found, str) else ""
        table.add_row(entry.name, entry.durability, Text(entry.detail + why))
    return table


def timings(scenario: str, rows: Rows, rates: bool) -> Table:
    """One scenario."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in (scenario, "durability"):
        table.add_column(column, no_wrap=True)
    for column in ("median", "p90", "p99", *(["ops/s"] if rates else [])):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    for entry, found in rows:
        table.add_row(entry.name, entry.durability, *cells(entry, found, rates))
    return table


def cells(entry: Row, found: Figures | str, rates: bool) -> list[str]:
    """What the columns of a row say."""
    if isinstance(found, str):
        return ["-"] * (3 + rates) + [found.partition(":")[0]]
    times = [f"{time:.1f}" for time in (found.median, found.p90, found.p99)]
    per_second = [f"{found.per_second:,.0f}"] if rates else []
    return [*times, *per_second, ratio(found.ratio, entry.comparable)]


def ratio(value: float | None, comparable: bool) -> str:
    """In brackets where it compares unlike durabilities."""
    if value is None:
        return "-"
    return f"{value:.2f}" if comparable else f"({value:.2f})"


def write_json(path: Path, header: Mapping[str, str], settings: Mapping[str, Any], measured: Results) -> None:
    """Everything shown, unrounded, with the settings that bring it back."""
    tables = {scenario: [plain(*row) for row in rows] for scenario, rows in measured.items()}
    path.write_text(json.dumps({"header": header, "settings": settings, "results": tables}, indent=2) + "\n")


def plain(entry: Row, found: Figures | str) -> dict[str, Any]:
    """A row as JSON has it."""
    about = {"peer": entry.name, "configuration": entry.detail, "durability": entry.durability}
    return about | ({"missing": found} if isinstance(found, str) else asdict(found))
