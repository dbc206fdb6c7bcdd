"""Compare two runs: what has become slower relative to bare LMDB, so that a slower machine is not a regression."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.rows import OWN, Row, Run
from benchmarks.units import markdown, ratio, whole


class Change(NamedTuple):
    """A row of lmdbresults in two runs, by its time relative to bare LMDB."""

    scenario: str
    row: Row
    before: float
    now: float

    @property
    def factor(self) -> float:
        """Above 1: slower than before."""
        return self.now / self.before


def changes(base: Run, run: Run) -> list[Change]:
    """Return what can be compared. Raises ValueError if nothing can."""
    found = []
    for each in run.sections:
        for row in each.rows:
            before = base.find(each.name, row.work, row.peer, row.x)
            if before and before.to_bare and row.to_bare and row.peer.startswith(OWN):
                found.append(Change(each.name, row, before.to_bare, row.to_bare))
    if not found:
        raise ValueError("The two runs have no row of lmdbresults in common: run the same scenarios.")
    return found


def comparison(found: Sequence[Change], tolerance: float) -> str:
    """Return what became of each row."""
    columns = ["scenario", "work", "", "peer", ">vs bare LMDB before", ">now", ">factor", ""]
    lines = [
        [scenario, row.work, whole(row.x), row.peer, ratio(before), ratio(now), f"{now / before:.2f}",
         "slower" if now / before > tolerance else ""]
        for scenario, row, before, now in found
    ]  # fmt: skip
    slower = sum(change.factor > tolerance for change in found)
    summary = f"{slower} of {len(found)} rows are more than {tolerance:g} times slower than before."
    return f"{markdown(columns, lines)}\n\n{summary}"
