"""Make docs/benchmarks.md, its pictures, and the table of the README from the JSON of a run.

Run as python -m benchmarks.publish FILE. A test sees to it that what is committed is what the committed JSON makes.
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Final, NamedTuple

import click

from benchmarks import plots, rows, tables
from benchmarks.rows import BOUNDED, DISK, LIMIT, LIMIT_ROW, OUR_ROW, OURS, Row, Run
from benchmarks.tables import Table, number, ratio
from benchmarks.targets import outcomes

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs" / "benchmarks.md"
PICTURES: Final = ROOT / "docs" / "benchmarks"
README: Final = ROOT / "README.md"
BEGIN: Final = "<!-- made by python -m benchmarks.publish -->"
END: Final = "<!-- end of what is made -->"
#: Pictures that the docs show, if the run has drawn them.
SHOWN: Final = ("ratios.png", "store-latency.png", "growth-growth.png", "mixed-growth.png")

ABOUT: Final = """\
# Benchmarks

Made by `python -m benchmarks.publish` from `{source}`; a test fails if it is not up to date.

```sh
make bench                                  # a few minutes: all scenarios, small sizes
python -m benchmarks --full --json run.json # all sizes, 10 million results included: about an hour, 20 GB on disk
python -m benchmarks --only store --only get
python -m benchmarks --plot pictures        # ratios, latencies, growth, as PNG
python -m benchmarks --compare run.json     # fails if ours has lost against the limit since then
```

`pip install -e '.[bench]'` brings what it needs. A peer that is not installed becomes a row that says so; Redis is
started on a private socket if there is a `redis-server`, and ended with the run. All files lie in a temporary folder
(`TMPDIR`).

In a scenario all peers do the same work, in blocks that take turns, in a new order each round; a first round is thrown
away. One clock reading before and one after each operation, nothing else in between. Every peer is asked first whether
it returns what it was given. Absolute times are those of one machine: the ratios travel better.

{legend}

`--compare` looks at the rows of ours that have a limit beside them, and at nothing but their ratio to it: a slower
machine does not fail. On a machine that does other work besides, repeat it before you believe it.
"""


class Line(NamedTuple):
    """A line of the README's table: where its figures stand."""

    work: str
    scenario: str
    in_scenario: str
    x: float | None
    peers: Sequence[str]
    """The rows for ours, Redis, files, SQLite and the limit; empty where there is none of that durability."""


NEVER: Final = (OURS, "Redis", "files", "SQLite, OFF", LIMIT)
NOW_AND_THEN: Final = (OUR_ROW[BOUNDED], "Redis, everysec", "", "SQLite", LIMIT)
AT_ONCE: Final = (OUR_ROW[DISK], "Redis, always", "", "SQLite, FULL", LIMIT_ROW[DISK])
LINES: Final = (
    Line("store, never synced", "store", "store", None, NEVER),
    Line("store, synced now and then", "store", "store", None, NOW_AND_THEN),
    Line("store, on disk at once", "store", "store", None, AT_ONCE),
    Line("read", "get", "hit", None, NEVER),
    Line("10,000 results in one call", "get_many", "get_many", 10_000, NEVER),
    Line("a part of a chord of 1,000", "chords", "part", 1_000, NEVER),
    Line("woken by a result", "wakeups", "AsyncResult.get()", None, NEVER),
    Line("a task through a worker and back", "worker", "round trip", None, NEVER),
)


def docs(run: Run, source: str) -> str:
    """The text of docs/benchmarks.md."""
    parts = [ABOUT.format(source=source, legend=fill(tables.LEGEND, 120)), markdown(tables.of_classes())]
    parts.append("## What it was measured on\n\n" + "\n".join(f"- {name}: {text}" for name, text in run.header.items()))
    parts.append("## What was to be reached\n\n" + markdown(tables.of_targets(outcomes(run))))
    parts += [f"![{name}](benchmarks/{name})" for name in SHOWN if (PICTURES / name).exists()]
    for section in run.sections:
        parts.append(f"## {section.name}\n\n{section.title}.\n\n{markdown(tables.of_section(section))}")
    parts.append("## The peers\n\n" + markdown(tables.of_peers(run)))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def readme(text: str, run: Run) -> str:
    """The README with the table of this run. Raises ValueError if it has no place for one."""
    before, found, rest = text.partition(BEGIN)
    _, also_found, after = rest.partition(END)
    if not found or not also_found:
        raise ValueError(f"The README has no {BEGIN} ... {END}")
    date, machine, load, files = (run.header[name] for name in ("date", "machine", "load", "files on"))
    told = fill(f"One run, {date}: {machine}, files on {files}. Load: {load}.", 120)
    return f"{before}{BEGIN}\n{markdown(readme_table(run))}\n\n{told}\n{END}{after}"


def readme_table(run: Run) -> Table:
    """What matters, of each kind of work."""
    columns = ["Celery's classes, median time", "ours", "Redis", "`file://`", "SQLite", "bare LMDB"]
    lines = [[line.work, *_cells(run, line)] for line in LINES]
    return Table(columns, [False, *[True] * 5], lines)


def _cells(run: Run, line: Line) -> list[str]:
    ours = run.find(line.scenario, line.in_scenario, line.peers[0], line.x)
    if ours is None or ours.median is None:
        return ["not measured", "", "", "", ""]
    others = [run.find(line.scenario, line.in_scenario, peer, line.x) if peer else None for peer in line.peers[1:]]
    return [_time(ours), *(_times(other) for other in others)]


def _time(row: Row) -> str:
    time, unit = row.median or 0.0, "µs"
    for larger in ("ms", "s"):
        if time >= 1000:
            time, unit = time / 1000, larger
    return f"{number(time)} {unit}"


def _times(row: Row | None) -> str:
    return f"{ratio(row.to_ours)} x" if row and row.to_ours else ""


def markdown(table: Table) -> str:
    """A table as Markdown."""
    rules = ["---:" if is_number else "---" for is_number in table.is_number]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (table.columns, rules, *table.rows))


def newest() -> Path:
    """The JSON that the docs are made from: the one that they name."""
    return ROOT / DOCS.read_text().partition("` from `")[2].partition("`")[0]


def publish(source: Path) -> None:
    """Write docs, pictures and README."""
    run = rows.read(source)
    plots.draw(run, PICTURES, SHOWN)
    DOCS.write_text(docs(run, str(source.resolve().relative_to(ROOT))))
    README.write_text(readme(README.read_text(), run))


@click.command(help=__doc__)
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(source: Path) -> None:
    """Publish a run."""
    publish(source)


if __name__ == "__main__":
    main()
