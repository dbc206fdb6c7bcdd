"""What each part of a chord costs, and whether that grows with the size of the header.

A chord starts, its parts return one after the other, each with a result that is stored, and the last one ends the
chord. Only sending the body is left out; its values are checked. All chords of a client share one file (or server).
"""

import gc
import time
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

from benchmarks.bench import Bench, scenario
from benchmarks.measure import Key
from benchmarks.peers import celery, plain
from benchmarks.peers.base import RESULT, new_ids
from benchmarks.peers.celery import worker_request
from benchmarks.rows import Row
from lmdbresults import results
from lmdbresults.app import App, Request

Detail = tuple[float, float]
"""Microseconds per part for the start and for the end of a chord."""

#: The largest chord through Celery; larger ones would take minutes.
CELERY_LARGEST = 10_000
#: Parts in a block, made up of as many chords as that takes.
BLOCK = 1_000
SHORT_BLOCK = 300


class PlainApp(App):
    """Keeps the values of a body instead of running it."""

    values: Sequence[Any] = ()

    def dispatch(self, signature: Any, args: Sequence[Any] = ()) -> None:
        (self.values,) = args


class PlainChords(plain.Plain):
    """Chords without Celery."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.app = PlainApp()
        super().__init__(folder, app=self.app, **options)

    def starter(self, group_id: str, task_ids: Sequence[str]) -> Callable[[], object]:
        header = [results.AsyncResult(task_id, self.backend) for task_id in task_ids]
        return lambda: self.backend.apply_chord((group_id, header), self.app.signature("tasks.sum", task_id=group_id))

    def part(self, group_id: str, task_id: str, index: int) -> Request:
        chord = self.app.signature("tasks.sum", task_id=group_id)
        return Request(task_id, "tasks.answer", (6, 7), group=group_id, group_index=index, chord=dict(chord))


class CeleryApp(Celery):  # type: ignore[misc]
    """Keeps the values of a body instead of sending it."""

    values: Sequence[Any] = ()

    def send_task(self, name: str, args: Sequence[Any] = (), *_: Any, **__: Any) -> None:
        (self.values,) = args


class CeleryChords(celery.Backend):
    """Chords through a Celery backend, called as a worker calls it."""

    app_class = CeleryApp

    def starter(self, group_id: str, task_ids: Sequence[str]) -> Callable[[], object]:
        header = [AsyncResult(task_id, app=self.app) for task_id in task_ids]
        body = self.app.signature("tasks.sum").set(task_id=group_id)

        def start() -> None:
            self.backend.apply_chord((group_id, header), body)
            self.backend.set_chord_size(group_id, len(header))

        return start

    def part(self, group_id: str, task_id: str, index: int) -> Context:
        chord = dict(self.app.signature("tasks.sum").set(task_id=group_id))
        ids = {"id": task_id, "root_id": task_id, "correlation_id": task_id}
        return Context(worker_request(), **ids, group=group_id, group_index=index, chord=chord)


class LMDBChords(CeleryChords, celery.LMDBResults):
    """Chords of lmdbresults in Celery."""


class RedisChords(CeleryChords, celery.Redis):
    """Chords of Celery's Redis backend."""


PEERS = tuple(
    replace(about, client=client)
    for about, client in (
        (celery.NONE, LMDBChords), (plain.BESIDE_CELERY, PlainChords), (celery.REDIS, RedisChords)
    )
)  # fmt: skip


class Chord(NamedTuple):
    """Nanoseconds that a chord took."""

    start: int
    parts: int
    """All but the last part."""
    end: int
    """The last part, with the end of the chord."""


def run_chord(client: Any, size: int, rng: Random) -> Chord:
    """Run a chord. Requests are made one by one, as a worker does not hold all of them."""
    (group_id, *task_ids), clock = new_ids(size + 1, rng), time.perf_counter_ns
    start_chord = client.starter(group_id, task_ids)
    start = clock()
    start_chord()
    starting, total = clock() - start, 0
    del start_chord
    for index, task_id in enumerate(task_ids):
        request = client.part(group_id, task_id, index)
        start = clock()
        client.backend.mark_as_done(task_id, RESULT, request)
        last = clock() - start
        total += last
    if len(client.app.values) != size or any(value != RESULT for value in client.app.values):
        raise RuntimeError(f"{client.about.name} did not send the body of {size} parts with their values")
    client.app.values = ()
    return Chord(starting, total - last, last)


@scenario(
    "chords", "A chord from start to end, by the size of its header; the time is for each part", grows_with="parts"
)
def chords(bench: Bench) -> list[Row]:
    field = bench.open(PEERS)
    details: dict[Key, list[Detail]] = defaultdict(list)
    blocks = {}
    for size in bench.size([3, 5], [10, 100, 1_000], [10, 100, 1_000, 10_000, 100_000]):
        for name, client in field.clients.items():
            if size <= CELERY_LARGEST or name == plain.BESIDE_CELERY.name:
                key = Key(name, "part", size)
                blocks[key] = partial(_block, client, size, bench.size(1, SHORT_BLOCK, BLOCK), bench.rng, details[key])
    rows = field.rows(bench.interleave(blocks, bench.size(1, 3, 3)), alike=True)
    return [replace(row, note=_note(details[Key(row.peer, row.work, row.x)])) if row.median else row for row in rows]


def _block(client: Any, size: int, parts: int, rng: Random, details: list[Detail]) -> list[float]:
    """Run enough chords for a block."""
    gc.collect()
    chords = [run_chord(client, size, rng) for _ in range(-(-parts // size))]
    start, between, end = (sum(times) / (size * len(chords)) for times in zip(*chords, strict=True))
    details.append((start / 1000, end / 1000))
    return [start + between + end]


def _note(details: list[Detail]) -> str:
    start, end = (median(each) for each in zip(*details, strict=True))
    return f"of that {start:.1f} for the start, {end:.1f} for the end"
