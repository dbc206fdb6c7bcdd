"""The parts of the README that a run fills in: the picture at the top, and the table of what users feel."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Final, NamedTuple

from benchmarks.pictures.charts import CHECKPOINT, drawn
from benchmarks.rows import Row, Run
from benchmarks.units import markdown, time, whole

BEGIN: Final = "<!-- benchmarks: {name} -->"
END: Final = "<!-- benchmarks: end -->"
#: The picture at the top, and where pictures are, as seen from the README.
PICTURE, FOLDER = "celery", "docs/benchmarks"


class Line(NamedTuple):
    """A line of the table."""

    text: str
    scenario: str
    work: str
    peers: Sequence[str]
    """The rows of lmdbresults, Redis, SQLite and files; empty if one has none."""
    x: float | None = None
    by_rate: bool = False


SET_UPS: Final = (CHECKPOINT, "Redis, everysec", "SQLite", "filesystem")
NEVER_SYNCED: Final = ("lmdbresults", "Redis", "SQLite, OFF", "file://")
LINES: Final = (
    Line("tasks a second", "broker", "tasks a second", SET_UPS, by_rate=True),
    Line("one task, there and back", "broker", "round trip", SET_UPS),
    Line("a chord of 500 tasks", "broker", "chord of 500", SET_UPS),
    Line("a worker is killed: its task runs elsewhere", "broker", "redelivery after kill -9", SET_UPS),
    Line("store a result while another expires", "steady", "one TTL", (*SET_UPS[:3], ""), 10_000),
    Line("read a result", "get", "hit", NEVER_SYNCED),
    Line("read 10,000 results in one call", "get_many", "get_many", NEVER_SYNCED, 10_000),
    Line("stored, until a waiter has it", "wakeups", "store_result() to AsyncResult.get()", NEVER_SYNCED),
)


def parts(run: Run) -> Mapping[str, str]:
    """Return the texts of the README by the names of their places."""
    lines = [
        [line.text, *_cells(run, line)] for line in LINES if run.find(line.scenario, line.work, line.peers[0], line.x)
    ]
    columns = ["Celery on one machine", *(f">{name}" for name in ("lmdbresults", "Redis", "SQLite", "files"))]
    date, machine = (run.header[name] for name in ("date", "machine"))
    about = fill(
        f"Medians, {date.split()[0]}, {machine}. In the first five lines a power failure takes about the last second "
        "from lmdbresults and Redis (`checkpoint`, `everysec`); in the others nothing is synced.",
        120,
    )
    return {"picture": _picture(run), "table": f"{markdown(columns, lines)}\n\n{about}"}


def _picture(run: Run) -> str:
    """Return the picture with its figures as the text that replaces it."""
    found = {line.text: _cells(run, line) for line in LINES[:2]}
    told = "; ".join(f"{text}: {cells[0]}, Redis {cells[1]}" for text, cells in found.items())
    return f"![Celery on one machine. {told}]({FOLDER}/{PICTURE}.svg)" if PICTURE in drawn(run) else ""


def _cells(run: Run, line: Line) -> list[str]:
    found = [run.find(line.scenario, line.work, peer, line.x, missing=True) for peer in line.peers]
    return [_cell(row, line.by_rate) for row in found]


def _cell(row: Row | None, by_rate: bool) -> str:
    if row is None or row.missing:
        return row.missing if row else ""
    if by_rate:
        return whole(row.rate)
    return time(row.median) if row.median is not None else ""


def filled(text: str, run: Run) -> str:
    """Return the README with the parts of a run. Raises ValueError if it has no place for any."""
    found = parts(run)
    places = [name for name in found if BEGIN.format(name=name) in text]
    if not places:
        raise ValueError(f"The README has no {BEGIN.format(name='table')} ... {END}")
    for name in places:
        before, begin, rest = text.partition(BEGIN.format(name=name))
        _, end, after = rest.partition(END)
        if not end:
            raise ValueError(f"The README has no {END} after {begin}")
        text = f"{before}{begin}\n{found[name]}\n{end}{after}"
    return text
