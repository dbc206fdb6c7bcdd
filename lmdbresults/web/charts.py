"""Charts as geometry: what the templates draw as SVG. Widths are in percent, so that a chart fits every screen."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, Protocol

__all__ = ["Bars", "Ranges", "bars", "kind_of", "ranges"]

#: Kinds of state, in the order in which bars are stacked, from the bottom.
_KINDS: Final = ("success", "failure", "retry", "revoked", "running")
_KIND_OF: Final = {
    "SUCCESS": "success",
    "FAILURE": "failure",
    "RETRY": "retry",
    "REVOKED": "revoked",
    "REJECTED": "revoked",
    "IGNORED": "revoked",
    "STARTED": "running",
    "PENDING": "pending",
    "RECEIVED": "pending",
}
_HEIGHT: Final = 112.0
#: Pixels of the smallest part of a bar: one failure among thousands of successes must be seen.
_LEAST: Final = 2.0
#: Times that are written below a chart, about.
_TICKS: Final = 4


def kind_of(state: str | None) -> str:
    """Return the kind of a state, by which it is coloured. A state of the user's own, such as PROGRESS, is running."""
    return "pending" if state is None else _KIND_OF.get(state, "running")


class Bucket(Protocol):
    """How many tasks ended in an interval, by state."""

    @property
    def start(self) -> datetime: ...
    @property
    def states(self) -> Mapping[str, int]: ...


class Part(NamedTuple):
    """The part of a bar for one kind of state."""

    kind: str
    y: float
    height: float


class Bar(NamedTuple):
    """What happened in one interval."""

    x: float
    width: float
    start: datetime
    tasks: int
    label: str
    parts: Sequence[Part]


class Bars(NamedTuple):
    """A chart of stacked bars."""

    height: float
    bars: Sequence[Bar]
    grid: Sequence[tuple[float, int]]
    """The y of each line, and the count there."""
    ticks: Sequence[tuple[float, datetime]]
    """The x of each time that is written below."""
    total: int


def bars(buckets: Sequence[Bucket]) -> Bars:
    """Return the chart of some intervals, the oldest first."""
    top = _nice(max((sum(bucket.states.values()) for bucket in buckets), default=0))
    width = 100 / max(len(buckets), 1)
    drawn = [_bar(bucket, number * width, width, top) for number, bucket in enumerate(buckets)]
    step = max(len(buckets) // _TICKS, 1)
    return Bars(
        _HEIGHT,
        drawn,
        [(_HEIGHT - _HEIGHT * part / 2, round(top * part / 2)) for part in ((1, 2) if top > 1 else (2,))],
        [(bar.x, bar.start) for bar in drawn[::step]],
        sum(bar.tasks for bar in drawn),
    )


def _bar(bucket: Bucket, x: float, width: float, top: int) -> Bar:
    counts: dict[str, int] = {}
    for state, count in bucket.states.items():
        counts[kind_of(state)] = counts.get(kind_of(state), 0) + count
    y, parts = _HEIGHT, list[Part]()
    for kind in _KINDS:
        if counts.get(kind):
            height = max(counts[kind] / top * _HEIGHT, _LEAST)
            y -= height
            parts.append(Part(kind, round(y, 1), round(height, 1)))
    label = ", ".join(f"{count:,} {state}" for state, count in sorted(bucket.states.items()))
    return Bar(round(x + width * 0.1, 2), round(width * 0.8, 2), bucket.start, sum(counts.values()), label, parts)


def _nice(most: int) -> int:
    """Return an even number, easy to read, that is not below the largest count."""
    if most <= 2:
        return 2
    size = 10 ** math.floor(math.log10(most))
    return next(int(size * step) for step in (1, 2, 4, 6, 8, 10) if size * step >= most and size * step % 2 == 0)


class Times(Protocol):
    """How long the runs of a task took, in seconds."""

    @property
    def p50(self) -> float: ...
    @property
    def p90(self) -> float: ...
    @property
    def p99(self) -> float: ...
    @property
    def longest(self) -> float: ...


class Range(NamedTuple):
    """How long the runs of one task took: positions in percent of the width."""

    p50: float
    p90: float
    p99: float
    longest: float


class Ranges(NamedTuple):
    """Run times on a common logarithmic scale."""

    rows: Sequence[Range | None]
    ticks: Sequence[tuple[float, float]]
    """The x and the seconds of powers of ten: at most five of them, which have room beside each other."""


def ranges(runtimes: Iterable[Times | None]) -> Ranges:
    """Return the run times of some tasks to be drawn below each other."""
    rows = list(runtimes)
    known = [row for row in rows if row is not None]
    low = math.floor(_log(min((row.p50 for row in known), default=0.001)))
    high = max(math.ceil(_log(max((row.longest for row in known), default=1.0))), low + 1)

    def at(seconds: float) -> float:
        return round(100 * min(max((_log(seconds) - low) / (high - low), 0), 1), 2)

    drawn = [None if row is None else Range(*map(at, (row.p50, row.p90, row.p99, row.longest))) for row in rows]
    powers = range(low, high + 1, math.ceil((high - low) / 4))
    return Ranges(drawn, [(at(10.0**power), 10.0**power) for power in powers])


def _log(seconds: float) -> float:
    return math.log10(min(max(seconds, 1e-4), 1e6))
