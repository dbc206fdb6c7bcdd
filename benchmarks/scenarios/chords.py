"""What a chord costs for each of its parts, and whether that grows with the header.

A chord is begun, its parts return one after the other, each with a result that is stored, and the last one ends it;
only sending the body is left out, whose values are checked. All chords of a backend, large and small, share one file
(or server), so what the results before them cost is in the figures of all sizes.
"""

import gc
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult

from benchmarks.bench import Bench, Field, scenario
from benchmarks.measure import Key
from benchmarks.peers import celery
from benchmarks.peers.base import RESULT, new_ids
from benchmarks.peers.celery import worker_request
from benchmarks.peers.plain import OursPlain
from benchmarks.rows import Row
from lmdbresults import results
from lmdbresults.app import App, Request
from lmdbresults.backends import LMDBBackend

Detail = tuple[float, float]
"""Microseconds a part for the beginning, and for the end."""

#: Parts of a chord through Celery, where more would take minutes.
CELERY_LARGEST = 10_000
#: Parts that a block has at least, by as many chords as that takes.
BLOCK = 1_000
SHORT_BLOCK = 300


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


class WithoutCelery(Way):
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

    def __init__(self, about: type[celery.CeleryPeer], folder: Path) -> None:
        super().__init__()
        self.app = about.make_app(SendNothing, folder)
        self.about = about
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
        self.about.end(self.backend)


class Chord(NamedTuple):
    """Nanoseconds that a chord took."""

    opening: int
    parts: int
    """All but the last."""
    end: int
    """The last one, with all that it brings about."""


def play_chord(way: Way, size: int, rng: Random) -> Chord:
    """Let one chord run. Requests are made one by one: a worker does not hold them all, nor does it walk over them."""
    (group_id, *task_ids), clock = new_ids(size + 1, rng), time.perf_counter_ns
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


@scenario(
    "chords",
    "A chord from its beginning to its end, by the parts of its header; the time is for each part",
    grows_with="parts",
)
def chords(bench: Bench) -> list[Row]:
    field = bench.serve((celery.Ours, OursPlain, celery.Redis))
    ways = {name: _open(field, name) for name in field.folders}
    for way in ways.values():
        bench.stack.callback(way.close)
    details: dict[Key, list[Detail]] = defaultdict(list)
    blocks = {}
    for size in bench.size([3, 5], [10, 100, 1_000], [10, 100, 1_000, 10_000, 100_000]):
        for name, way in ways.items():
            if size <= CELERY_LARGEST or name == OursPlain.name:
                key = Key(name, "part", size)
                blocks[key] = partial(_block, way, size, bench.size(1, SHORT_BLOCK, BLOCK), bench.rng, details[key])
    rows = field.rows(bench.interleave(blocks, bench.size(1, 3, 10)), alike=True)
    return [replace(row, note=_note(details[Key(row.peer, row.work, row.x)])) if row.median else row for row in rows]


def _open(field: Field, name: str) -> Way:
    folder = field.folders[name]
    return WithoutCelery(folder) if name == OursPlain.name else ThroughCelery(field.classes[name], folder)


def _block(way: Way, size: int, parts: int, rng: Random, details: list[Detail]) -> list[float]:
    """So many chords that the block is long enough to be timed."""
    gc.collect()
    played = [play_chord(way, size, rng) for _ in range(-(-parts // size))]
    opening, between, end = (sum(times) / (size * len(played)) for times in zip(*played, strict=True))
    details.append((opening / 1000, end / 1000))
    return [opening + between + end]


def _note(details: list[Detail]) -> str:
    opening, end = (median(each) for each in zip(*details, strict=True))
    return f"of that {opening:.1f} to begin, {end:.1f} to end"
