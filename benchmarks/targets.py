"""What the suite has to show, and whether a run shows it: every figure is taken from the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.rows import OURS, Row, Run

Found = tuple[float, str] | None
"""A figure, and at which size it was measured if not at the one that is asked for."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for a figure."""

    work: str
    bound: float
    is_least: bool
    find: Callable[[Run], Found]
    unit: str = " x"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a target."""

    work: str
    wanted: str
    found: float | None
    told: str
    verdict: str
    """met, missed, or not measured."""


def outcomes(run: Run) -> list[Outcome]:
    """One for each target."""
    return [_outcome(target, target.find(run)) for target in TARGETS]


def _outcome(target: Target, found: Found) -> Outcome:
    wanted = f"{'at least' if target.is_least else 'at most'} {target.bound:,.3g}{target.unit}"
    if target.bound >= 1000:
        wanted = f"{'at least' if target.is_least else 'at most'} {target.bound:,.0f}{target.unit}"
    if found is None:
        return Outcome(target.work, wanted, None, "", "not measured")
    figure, where = found
    is_met = figure >= target.bound if target.is_least else figure <= target.bound
    told = f"{figure:,.0f}" if figure >= 1000 else f"{figure:,.2f}"
    return Outcome(target.work, wanted, figure, f"{told}{target.unit}{where}", "met" if is_met else "missed")


def slower(scenario: str, work: str, peer: str, x: float | None = None) -> Callable[[Run], Found]:
    """How many times the time of ours a peer needs."""
    return _of_row(scenario, work, peer, x, lambda row: row.to_ours)


def faster(scenario: str, work: str, peer: str) -> Callable[[Run], Found]:
    """What part of a peer's time ours needs."""
    return _of_row(scenario, work, peer, None, lambda row: row.to_ours and 1 / row.to_ours)


def above_limit(scenario: str, work: str) -> Callable[[Run], Found]:
    """How many times the time of the limit ours needs."""
    return _of_row(scenario, work, OURS, None, lambda row: row.to_limit)


def _of_row(
    scenario: str, work: str, peer: str, x: float | None, figure: Callable[[Row], float | None]
) -> Callable[[Run], Found]:
    def find(run: Run) -> Found:
        row = run.find(scenario, work, peer, x)
        value = figure(row) if row else None
        return None if value is None else (value, "")

    return find


def grown(scenario: str, work: str, base: float, top: float) -> Callable[[Run], Found]:
    """How much more ours needs at a size than at another; at the largest that was measured if that one was not."""

    def find(run: Run) -> Found:
        rows = [row for row in _rows(run, scenario, work) if row.peer == OURS and row.x is not None and row.x <= top]
        first = next((row for row in rows if row.x == base), None)
        last = max(rows, key=lambda row: row.x or 0, default=None)
        if not first or not last or first is last or not first.median or not last.median:
            return None
        return last.median / first.median, "" if last.x == top else f" at {last.x:,.0f}"

    return find


def rate(work: str, full: float) -> Callable[[Run], Found]:
    """How many a second are swept."""

    def find(run: Run) -> Found:
        row = next((row for row in _rows(run, "sweep", work) if row.peer == OURS), None)
        return (row.rate, "" if row.x == full else f" of {row.x:,.0f}") if row and row.rate else None

    return find


def disturbed(run: Run) -> Found:
    """A writer's p99 while there is a sweep, against that without."""
    rows = {row.peer: row for row in _rows(run, "sweep", "a writer's store")}
    busy, idle = rows.get("writer"), rows.get("writer, idle")
    return (busy.p99 / idle.p99, "") if busy and idle and busy.p99 and idle.p99 else None


def _rows(run: Run, scenario: str, work: str) -> Sequence[Row]:
    return [row for each in run.sections if each.name == scenario for row in each.rows if row.work == work]


MILLION: Final = 1_000_000
TARGETS: Final = (
    Target("Celery classes, store, none against Redis on a Unix socket", 12, True, slower("store", "store", "Redis")),
    Target("Celery classes, get uncached, against Redis", 12, True, slower("get", "hit", "Redis")),
    Target("Celery classes, store, none against file://", 5, True, slower("store", "store", "files")),
    Target("Celery classes, store, checkpoint against db+sqlite://", 20, True, slower("store", "store", "SQLite")),
    Target("plain backend, store, against the bare transaction", 1.7, False, above_limit("plain", "store")),
    Target("plain backend, get, against the bare get", 4, False, above_limit("plain", "get")),
    Target("wake-up p50 against Redis publish/subscribe", 1 / 3, False, faster("wakeups", "commit to awake", "Redis")),
    Target("10,000 results by get_many, Celery's Redis", 5, True, slower("get_many", "get_many", "Redis", 10_000)),
    Target("10,000 results by get_many, MGET by hand", 5, True, slower("get_many", "get_many", "Redis, MGET", 10_000)),
    Target("store, cost at 10M results against 10k", 2, False, grown("growth", "store", 10_000, 10 * MILLION)),
    Target("sweep of 1M expired, random ids, alone", 150_000, True, rate("alone, random ids", MILLION), "/s"),
    Target("the same beside a writer", 50_000, True, rate("beside a writer, random ids", MILLION), "/s"),
    Target("that writer's p99 against idle", 5, False, disturbed),
    Target("chord, cost of a part at 10,000 against 100", 1.5, False, grown("chords", "part", 100, 10_000)),
    Target("open at 10M results against 0", 2, False, grown("growth", "open", 0, 10 * MILLION)),
    Target(
        "sustained stores, default against Redis everysec, one process",
        3,
        True,
        slower("sustained", "store", "Redis, everysec", 1),
    ),
    Target("the same, four processes", 3, True, slower("sustained", "store", "Redis, everysec", 4)),
)
