"""The regression guard: ours against the limit, now and in an earlier run. Absolute times are not looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.rows import Row, Run
from benchmarks.tables import Table, ratio


@dataclass(frozen=True, slots=True)
class Change:
    """A row of ours in both runs."""

    scenario: str
    row: Row
    before: float
    """Time against the limit in the earlier run."""
    now: float

    @property
    def factor(self) -> float:
        """Above 1: slower than before."""
        return self.now / self.before


def changes(base: Run, run: Run) -> list[Change]:
    """What can be compared. Raises ValueError if nothing can."""
    found = []
    for section in run.sections:
        for row in section.rows:
            before = base.find(section.name, *_place(row))
            if before and before.to_limit and row.to_limit and row.peer.startswith("ours"):
                found.append(Change(section.name, row, before.to_limit, row.to_limit))
    if not found:
        raise ValueError("The two runs have no row of ours with a limit in common: run the same scenarios.")
    return found


def _place(row: Row) -> tuple[str, str, float | None]:
    return row.work, row.peer, row.x


def regressions(found: Sequence[Change], tolerance: float) -> list[Change]:
    """Those that need more than so many times what they needed."""
    return [change for change in found if change.factor > tolerance]


def table(found: Sequence[Change], tolerance: float) -> Table:
    """All that was compared."""
    rows = [
        [
            change.scenario,
            change.row.work + ("" if change.row.x is None else f", {change.row.x:,.0f}"),
            change.row.peer,
            ratio(change.before),
            ratio(change.now),
            f"{change.factor:.2f}",
            "slower" if change.factor > tolerance else "",
        ]
        for change in found
    ]
    columns = ["scenario", "work", "peer", "to limit before", "now", "factor", ""]
    return Table(columns, [False, False, False, True, True, True, False], rows)
