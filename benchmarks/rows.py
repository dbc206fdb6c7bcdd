"""What a run found: rows of figures by scenario, with the machine they were measured on; and their JSON form."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

MEMORY: Final = "memory"
KILL: Final = "kill"
BOUNDED: Final = "bounded"
DISK: Final = "disk"

#: What a power failure loses. Writes are only compared within one class.
CLASSES: Final = {
    MEMORY: "lost when the process ends: a lower bound, not a store",
    KILL: "survives the kill of a process; never synced, so a power failure may lose everything",
    BOUNDED: "synced at intervals: a power failure loses the last moments",
    DISK: "on disk before the call returns",
}

OWN: Final = "lmdbresults"
BARE: Final = "bare LMDB"
#: The row of lmdbresults, and of bare LMDB, that a row of each class is compared with.
OWN_ROW: Final = {MEMORY: OWN, KILL: OWN, BOUNDED: f"{OWN}, checkpoint", DISK: f"{OWN}, commit"}
BARE_ROW: Final = {MEMORY: BARE, KILL: BARE, BOUNDED: BARE, DISK: f"{BARE}, commit"}

MICROSECONDS: Final = "µs"
#: Looks at the expired results in a lifetime.
LOOKS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The figures of one peer for one kind of work. Fields that do not apply are None or empty."""

    work: str
    """The kind of work, in scenarios that have several."""
    x: float | None = None
    """What the work grows with: present results, parts, processes, bytes."""
    peer: str
    configuration: str
    durability: str
    """One of `CLASSES`."""
    unit: str = MICROSECONDS
    """The unit of median, percentiles and maximum."""
    median: float | None = None
    p90: float | None = None
    p99: float | None = None
    maximum: float | None = None
    mean: float | None = None
    cpu: float | None = None
    """Microseconds of processor time for each operation, in all threads and in the server."""
    rate: float | None = None
    """Operations per second."""
    written: float | None = None
    """Bytes written to files per operation."""
    expired: float | None = None
    """The most results that were expired and not yet deleted, as a share of the others."""
    looks: Sequence[float] = ()
    """That share over time, `LOOKS` times a lifetime."""
    size: float | None = None
    """Bytes on disk at the end."""
    to_own: float | None = None
    """The time for the same work divided by that of lmdbresults in the same class: above 1, lmdbresults is faster."""
    to_bare: float | None = None
    """The same for bare LMDB."""
    growth: float | None = None
    """The same for this peer's own row with the smallest ``x``."""
    loss: str = ""
    """What a power failure may lose."""
    note: str = ""
    missing: str = ""
    """Why there are no figures."""

    @property
    def place(self) -> tuple[str, float | None, str]:
        """What identifies a row in its scenario."""
        return self.work, self.x, self.peer


def with_ratios(rows: Sequence[Row], figure: Callable[[Row], float | None], *, alike: bool = False) -> list[Row]:
    """Add the ratios of a figure to the rows of one measurement each. ``alike``: durability makes no difference."""
    found = {row.place: row for row in rows}

    def against(row: Row, reference: str) -> float | None:
        own, other = figure(row), found.get((row.work, row.x, reference))
        base = figure(other) if other else None
        return own / base if own and base and base > 0 else None

    def names(row: Row) -> tuple[str, str]:
        return (OWN, BARE) if alike else (OWN_ROW[row.durability], BARE_ROW[row.durability])

    return [replace(row, to_own=against(row, names(row)[0]), to_bare=against(row, names(row)[1])) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The rows of a scenario."""

    name: str
    title: str
    """What is measured, in a sentence."""
    grows_with: str = ""
    """What ``x`` counts."""
    seconds: float = 0.0
    """How long the scenario took."""
    about: Mapping[str, str] = field(default_factory=dict)
    """Lines of the header that were others for this scenario, if it was measured later."""
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one run of the suite found."""

    header: Mapping[str, str]
    """Machine, versions, date."""
    settings: Mapping[str, Any]
    """What is needed to repeat the run."""
    sections: list[Section] = field(default_factory=list)

    def find(self, scenario: str, work: str, peer: str, x: float | None = None, *, missing: bool = False) -> Row | None:
        """Return the row of a peer if it was measured; ``missing``: or if it says why it was not."""
        for section in self.sections:
            for row in section.rows:
                if section.name == scenario and row.place == (work, x, peer) and (missing or not row.missing):
                    return row
        return None


def write(path: Path, run: Run) -> None:
    """Write a run as JSON, without empty fields."""
    sections = [{**asdict(section), "rows": [_lean(row) for row in section.rows]} for section in run.sections]
    everything = {"header": dict(run.header), "settings": dict(run.settings), "sections": sections}
    path.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Run:
    """Return the run in a JSON file. Raises OSError, ValueError, KeyError or TypeError if there is none."""
    data = json.loads(path.read_text())
    sections = [Section(**{**each, "rows": tuple(Row(**row) for row in each["rows"])}) for each in data["sections"]]
    return Run(data["header"], data["settings"], sections)


def merged(runs: Sequence[Run]) -> Run:
    """Return the first run with the sections of the later ones.

    The header lists when all of them were measured. Sections say what else differs from the first run.
    """
    first, *later = runs
    sections = {section.name: section for section in first.sections}
    for run in later:
        about = {name: text for name, text in run.header.items() if text != first.header.get(name)}
        if about.keys() <= _OF_ONE_RUN:
            about = {}
        sections |= {section.name: replace(section, about=about) for section in run.sections}
    times = {name: "; ".join(dict.fromkeys(run.header.get(name, "") for run in runs)) for name in _OF_ONE_RUN}
    return Run(
        {name: times.get(name, text) for name, text in first.header.items()}, first.settings, [*sections.values()]
    )


#: Lines of a header that are others in every run.
_OF_ONE_RUN: Final = {"date", "load"}


def _lean(row: Row) -> dict[str, Any]:
    """Return the fields of a row, with five digits: the sixth is noise, and the files are committed."""
    found = {name: value for name, value in asdict(row).items() if value not in (None, "", ())}
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in found.items()}
