"""What a chord costs for each of its parts, and whether that grows with the header.

Run as python -m benchmarks.chords. A chord is begun, its parts return one after the other, each with a result that is
stored, and the last one ends it; only sending the body is left out, whose values are checked. All chords of a backend,
large and small, share one file (or server), so what the results before them cost is in the figures of all sizes.
"""

import gc
import json
import signal
import statistics
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import machine, report, run
from benchmarks.peers import RESULT, require, worker_request
from benchmarks.servers import Unavailable, redis_server
from lmdbresults import results
from lmdbresults.app import App, Request
from lmdbresults.backends import LMDBBackend

SIZES = (10, 100, 1_000, 10_000, 100_000)
#: Through Celery, where the others would take minutes.
CELERY_LARGEST = 10_000
#: Growth is told against this one.
BASE = 100
#: Parts that a block has at least, by as many chords as that takes.
BLOCK = 1_000

PLAIN, OURS, REFERENCE = "plain", "Celery", "Redis"
ROWS = {
    PLAIN: "lmdbresults' backend, without Celery, durability=none",
    OURS: "lmdbresults' backend for Celery, durability=none",
    REFERENCE: "Celery's Redis backend, Unix socket, nothing written to disk",
}
LEGEND = """\
us a part: microseconds for the whole chord, by the number of its parts; of that: open, the end by the last part.
growth: the same against {base:,} parts in the same round. ratio: against {reference} at that size in the same round.
All are medians over the rounds."""


class Way(ABC):
    """A backend under the common work."""

    def __init__(self) -> None:
        #: Values that the last body was to be sent with.
        self.values: Sequence[Any] = ()

    @abstractmethod
    def open(self, group_id: str, task_ids: Sequence[str]) -> Callable[[], object]:
        """Return what begins a chord."""

    @abstractmethod
    def request(self, group_id: str, task_id: str, place: int) -> Any:
        """Return what the worker of a part has in its hands when that has run."""

    @abstractmethod
    def part_returns(self, request: Any) -> None:
        """Store RESULT for a part, and count it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""


class DispatchNothing(App):
    """An application of which only the values of a body are looked at."""

    way: Way

    def dispatch(self, signature: Any, args: Sequence[Any] = ()) -> None:
        (self.way.values,) = args


class Plain(Way):
    """The backend as plain worker processes use it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.app = DispatchNothing()
        self.app.way = self
        self.backend = LMDBBackend(folder / "plain.lmdb", app=self.app, options={"durability": "none"})

    def open(self, group_id: str, task_ids: Sequence[str]) -> Callable[[], object]:
        header = [results.AsyncResult(task_id, self.backend) for task_id in task_ids]
        return lambda: self.backend.apply_chord((group_id, header), self.app.signature("tasks.sum", task_id=group_id))

    def request(self, group_id: str, task_id: str, place: int) -> Request:
        chord = self.app.signature("tasks.sum", task_id=group_id)
        return Request(task_id, "tasks.answer", (6, 7), group=group_id, group_index=place, chord=dict(chord))

    def part_returns(self, request: Request) -> None:
        self.backend.mark_as_done(request.id, RESULT, request)

    def close(self) -> None:
        self.backend.process_cleanup()


class SendNothing(Celery):  # type: ignore[misc]
    """An application of which only the values of a body are looked at."""

    way: Way

    def send_task(self, name: str, args: Sequence[Any] = (), *_: Any, **__: Any) -> None:
        (self.way.values,) = args


class ThroughCelery(Way):
    """A result backend of Celery, called as a worker calls it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.app = SendNothing("benchmark", backend=url, set_as_current=False)
        self.app.way = self
        self.backend = self.app.backend

    def open(self, group_id: str, task_ids: Sequence[str]) -> Callable[[], object]:
        header = [AsyncResult(task_id, app=self.app) for task_id in task_ids]
        body = self.app.signature("tasks.sum").set(task_id=group_id)

        def begin() -> None:
            self.backend.apply_chord((group_id, header), body)
            self.backend.set_chord_size(group_id, len(header))

        return begin

    def request(self, group_id: str, task_id: str, place: int) -> Context:
        chord = dict(self.app.signature("tasks.sum").set(task_id=group_id))
        ids = {"id": task_id, "root_id": task_id, "correlation_id": task_id}
        return Context(worker_request(), **ids, group=group_id, group_index=place, chord=chord)

    def part_returns(self, request: Context) -> None:
        self.backend.mark_as_done(request.id, RESULT, request)

    def close(self) -> None:
        self.backend.process_cleanup()


def plain(folder: Path, _: ExitStack) -> Way:
    return Plain(folder)


def ours(folder: Path, _: ExitStack) -> Way:
    return ThroughCelery(f"lmdb://{folder}/celery.lmdb?durability=none")


def redis(folder: Path, stack: ExitStack) -> Way:
    require("redis")
    return ThroughCelery(f"redis+socket://{stack.enter_context(redis_server(folder))}")


OPENERS: Mapping[str, Callable[[Path, ExitStack], Way]] = {PLAIN: plain, OURS: ours, REFERENCE: redis}


class Chord(NamedTuple):
    """Nanoseconds that a chord took."""

    opening: int
    parts: int
    """All but the last."""
    end: int
    """The last one, with all that it brings about."""


def play_chord(way: Way, size: int, rng: Random) -> Chord:
    """Let one chord run. Requests are made one by one: a worker does not hold them all, nor does it walk over them."""
    (group_id, *task_ids), clock = run.new_ids(size + 1, rng), time.perf_counter_ns
    begin = way.open(group_id, task_ids)
    start = clock()
    begin()
    opening, times = clock() - start, 0
    del begin
    for place, task_id in enumerate(task_ids):
        request = way.request(group_id, task_id, place)
        start = clock()
        way.part_returns(request)
        last = clock() - start
        times += last
    if len(way.values) != size or any(value != RESULT for value in way.values):
        raise RuntimeError(f"the body of {size} parts was not sent with their values")
    way.values = ()
    return Chord(opening, times - last, last)


@dataclass(frozen=True, slots=True)
class Block:
    """What a block of chords took, in microseconds a part."""

    opening: float
    end: float
    whole: float


def play_block(way: Way, size: int, rng: Random) -> Block:
    """Let so many chords run that the block is long enough to be timed."""
    gc.collect()
    chords = [play_chord(way, size, rng) for _ in range(-(-BLOCK // size))]
    count = 1000 * size * len(chords)
    opening, parts, end = (sum(times) for times in zip(*chords, strict=True))
    return Block(opening / count, end / count, (opening + parts + end) / count)


Blocks = Mapping[tuple[str, int], list[Block]]
"""Those of all rounds, by way and size."""


def play(ways: Mapping[str, Way], largest: int, rounds: Iterable[int], rng: Random) -> Blocks:
    """Measure all sizes with all ways in every round, in turns; a first round of small ones is thrown away."""
    for way in ways.values():
        play_block(way, BASE, rng)
    gc.collect()
    gc.freeze()
    blocks: dict[tuple[str, int], list[Block]] = defaultdict(list)
    for _ in rounds:
        for size in rng.sample(SIZES, len(SIZES)):
            for name in rng.sample(list(ways), len(ways)):
                if size <= (largest if name == PLAIN else min(largest, CELERY_LARGEST)):
                    blocks[name, size].append(play_block(ways[name], size, rng))
    return blocks


@dataclass(frozen=True, slots=True)
class Figures:
    """What one way needs at one size, in microseconds a part."""

    size: int
    opening: float
    end: float
    whole: float
    growth: float | None
    """Against the same way at the base size; None if that was not measured."""
    ratio: float | None
    """Against the reference at the same size; None if that was not measured."""


def figures(blocks: Blocks, name: str, size: int) -> Figures:
    """Sum up all rounds."""
    own, reference = blocks[name, size], blocks.get((REFERENCE, size)) if name != PLAIN else None
    opening, end, whole = (
        statistics.median(getattr(block, part) for block in own) for part in ("opening", "end", "whole")
    )
    return Figures(size, opening, end, whole, against(own, blocks.get((name, BASE))), against(own, reference))


def against(own: list[Block], others: list[Block] | None) -> float | None:
    """Return the median of the ratios within a round."""
    pairs = zip(own, others or (), strict=False)
    return statistics.median(mine.whole / other.whole for mine, other in pairs) if others else None


def table(name: str, measured: Sequence[Figures]) -> Table:
    """Show one way."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in (name, "us a part", "open", "end", "growth", "ratio"):
        shown.add_column(column, justify="right", no_wrap=True)
    for found in measured:
        ratios = (report.ratio(value, True) for value in (found.growth, found.ratio))
        shown.add_row(f"{found.size:,}", f"{found.whole:.1f}", f"{found.opening:.1f}", f"{found.end:.1f}", *ratios)
    return shown


def open_ways(folder: Path, stack: ExitStack) -> tuple[dict[str, Way], dict[str, str]]:
    """Return those that run here, and why the others do not."""
    ways, missing = {}, {}
    for name, open_way in OPENERS.items():
        try:
            ways[name] = open_way(folder, stack)
            stack.callback(ways[name].close)
        except Unavailable as reason:
            missing[name] = str(reason)
    return ways, missing


def main() -> None:
    """Measure all in turns."""
    parser = run.options("benchmarks.chords", __doc__)
    parser.set_defaults(rounds=5)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="header (default: %(default)s)")
    settings = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rng, console = Random(settings.seed), Console()
    with TemporaryDirectory(prefix="lmdbresults-bench-") as name, ExitStack() as stack:
        header = machine.describe(Path(name))
        ways, missing = open_ways(Path(name), stack)
        rounds = track(range(settings.rounds), "measuring", console=Console(stderr=True), transient=True)
        blocks = play(ways, settings.largest, rounds, rng)
    sizes = sorted({size for _, size in blocks})
    measured = {name: [figures(blocks, name, size) for size in sizes if (name, size) in blocks] for name in ways}
    for title, text in {**header, **ROWS, **missing}.items():
        console.print(f"{title + ':':10}{text}", highlight=False, soft_wrap=True, markup=False)
    for name, found in measured.items():
        console.print(table(name, found))
    console.print(LEGEND.format(base=BASE, reference=REFERENCE), style="dim", highlight=False, soft_wrap=True)
    if settings.json:
        how = {key: value for key, value in vars(settings).items() if key != "json"}
        write_json(settings.json, header, how, missing, measured)


def write_json(
    path: Path,
    header: Mapping[str, str],
    settings: Mapping[str, Any],
    missing: Mapping[str, str],
    measured: Mapping[str, Sequence[Figures]],
) -> None:
    """Write everything that is shown, unrounded."""
    tables = {name: [asdict(found) for found in those] for name, those in measured.items()}
    everything = {"header": header, "settings": settings, "missing": missing, "results": tables}
    path.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
