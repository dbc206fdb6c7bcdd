"""What a run finds: rows of figures, by scenario, with what they were measured on; and their JSON form."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

MEMORY: Final = "memory"
KILL: Final = "kill"
BOUNDED: Final = "bounded"
DISK: Final = "disk"

#: What a power cut takes. Only rows of one class are compared with each other.
CLASSES: Final = {
    MEMORY: "gone with its process: a floor, not a store",
    KILL: "survives the kill of a worker, and is never synced: a power cut may take all",
    BOUNDED: "synced now and then: a power cut takes the last moments",
    DISK: "on disk before the call returns",
}

OURS: Final = "ours"
LIMIT: Final = "limit"
#: The row of ours, and of the limit, that a row is compared with.
OUR_ROW: Final = {MEMORY: OURS, KILL: OURS, BOUNDED: f"{OURS}, checkpoint", DISK: f"{OURS}, commit"}
LIMIT_ROW: Final = {MEMORY: LIMIT, KILL: LIMIT, BOUNDED: LIMIT, DISK: f"{LIMIT}, commit"}

MICROSECONDS: Final = "µs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One peer at one piece of work. What does not apply is None, or empty."""

    work: str
    """The piece of work, where a scenario has several."""
    x: float | None = None
    """What the work grows with: results that are there, parts, processes, bytes."""
    peer: str
    configuration: str
    durability: str
    """One of `CLASSES`."""
    unit: str = MICROSECONDS
    """Of median, percentiles and maximum."""
    median: float | None = None
    p90: float | None = None
    p99: float | None = None
    maximum: float | None = None
    rate: float | None = None
    """A second."""
    to_ours: float | None = None
    """This row's median (or, where rates are compared, time for the same work) against ours of the same class: above 1,
    ours is faster."""
    to_limit: float | None = None
    """The same against the limit."""
    growth: float | None = None
    """The same against this peer's own row with the smallest ``x``."""
    loss: str = ""
    """What a power cut may take."""
    note: str = ""
    missing: str = ""
    """Why there are no figures."""
    quantiles: tuple[float, ...] = ()
    """From the least to the greatest, in equal steps: the shape of the distribution."""

    @property
    def place(self) -> tuple[str, float | None, str]:
        """What tells a row from the others of its scenario."""
        return self.work, self.x, self.peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The rows of a scenario."""

    name: str
    title: str
    """What is measured, in a sentence."""
    grows_with: str = ""
    """What ``x`` counts."""
    seconds: float = 0.0
    """How long measuring took, all in all."""
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one call of the suite has found."""

    header: Mapping[str, str]
    """Machine, versions, date."""
    settings: Mapping[str, Any]
    """What brings the run back."""
    sections: list[Section] = field(default_factory=list)

    def find(self, scenario: str, work: str, peer: str, x: float | None = None) -> Row | None:
        """Return the row with figures at this place, if it was measured."""
        for section in self.sections:
            for row in section.rows:
                if section.name == scenario and row.place == (work, x, peer) and not row.missing:
                    return row
        return None


def write(path: Path, run: Run) -> None:
    """Everything found, with nothing that is empty."""
    sections = [{**asdict(section), "rows": [_lean(row) for row in section.rows]} for section in run.sections]
    everything = {"header": dict(run.header), "settings": dict(run.settings), "sections": sections}
    path.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Run:
    """Raises OSError or ValueError if this is no file of a run."""
    data = json.loads(path.read_text())
    return Run(data["header"], data["settings"], [_section(section) for section in data["sections"]])


def _lean(row: Row) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in asdict(row).items() if value not in (None, "", ())}


def _rounded(value: Any) -> Any:
    """Five digits: the sixth is noise, and the files are committed."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return [_rounded(each) for each in value] if isinstance(value, tuple) else value


def _section(data: dict[str, Any]) -> Section:
    rows = tuple(Row(**{**row, "quantiles": tuple(row.get("quantiles", ()))}) for row in data["rows"])
    return Section(**{**data, "rows": rows})
