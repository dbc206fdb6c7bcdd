"""Removing expired results: alone, and what a writer in another process notices of it."""

import time
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import filling, measure
from benchmarks.bench import Bench, Field, scenario
from benchmarks.crew import LEAD, Crew
from benchmarks.peers.base import new_ids
from benchmarks.peers.plain import Plain
from benchmarks.peers.stores import SQLiteOff
from benchmarks.rows import OWN, Row

TWO_DAYS = 2 * filling.DAY
IDS = {"random ids": filling.random_id, "ids in order": filling.ordered_id}
FILE = "expired.lmdb"
#: Stores per second of the writer.
PACE = 1_000


class Writer(Plain):
    """A worker that stores at a steady pace."""

    name = "writer"
    configuration = f"LMDBBackend, durability=none, {PACE:,} stores per second"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, file=FILE)


class WriterBefore(Plain):
    """The same two days earlier, when nothing in the file has expired."""

    name = "writer, no sweep"
    configuration = Writer.configuration

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, file=FILE, clock=lambda: time.time() - TWO_DAYS)


@scenario(
    "sweep",
    "sweep() of expired results, the time is for each; and the stores of a writer in another process, before and "
    "during a sweep",
    grows_with="expired results",
)
def sweep(bench: Bench) -> list[Row]:
    count = bench.size(5_000, 100_000, 1_000_000)
    rows = [Row(**_sweep(_filled(bench, ids, count), count), work=f"alone, {ids}") for ids in IDS]
    return [*rows, _sqlite(bench, count), *_beside_a_writer(bench, count)]


def _filled(bench: Bench, ids: str, count: int) -> Path:
    folder = bench.folder / f"{ids} {time.monotonic_ns()}"
    folder.mkdir()
    filling.fill(folder / FILE, range(count), IDS[ids], age=TWO_DAYS, step=bench.step)
    bench.step(f"sweeping {count:,}, {ids}")
    return folder


def _sweep(folder: Path, count: int) -> dict[str, Any]:
    peer = Writer(folder)
    start = time.perf_counter()
    removed = peer.backend.store.sweep()
    seconds = time.perf_counter() - start
    peer.close()
    return {**_figures(removed, seconds, count), "peer": OWN, "configuration": Plain.configuration}


def _figures(removed: int, seconds: float, count: int) -> dict[str, Any]:
    figures = {"median": seconds / removed * 1e6, "rate": removed / seconds}
    return {"x": count, "durability": Plain.durability, **figures}


def _sqlite(bench: Bench, count: int) -> Row:
    peer = SQLiteOff(bench.folder)
    rows = ((filling.random_id(number).encode(), peer.value, 1.0) for number in range(count))
    with peer.connection:
        peer.run("BEGIN")
        peer.connection.executemany("INSERT INTO results VALUES (?, ?, ?)", rows)
    start = time.perf_counter()
    removed = peer.run("DELETE FROM results WHERE deadline < ?", (time.time(),)).rowcount
    figures = _figures(removed, time.perf_counter() - start, count)
    peer.close()
    how = f"{SQLiteOff.configuration}: one DELETE, during which all writers wait"
    return Row(**figures, work="alone, random ids", peer="sqlite3", configuration=how)


def _beside_a_writer(bench: Bench, count: int) -> list[Row]:
    folder = _filled(bench, "random ids", count)
    classes = {about.name: about for about in (Writer, WriterBefore)}
    field = Field(classes, {}, dict.fromkeys(classes, folder))
    crew, seconds = Crew(bench, 1), bench.size(0.05, 2.0, 5.0)
    undisturbed = crew.run(1, pace, field, WriterBefore.name, seconds, "")[0]
    stop = str(bench.folder / "stop")
    pipes = crew.start(1, pace, field, Writer.name, 60.0, stop)
    time.sleep(LEAD)
    swept = Row(**_sweep(folder, count), work="beside a writer, random ids")
    Path(stop).touch()
    disturbed = crew.collect(pipes)[0]
    work, before, during = "a writer's store", measure.summary([undisturbed]), measure.summary([disturbed])
    note = f"p99 {during['p99'] / before['p99']:.1f} x that without a sweep"
    return [
        swept,
        field.row(WriterBefore.name, work, count, **before),
        field.row(Writer.name, work, count, **during, note=note),
    ]


def pace(writer: Plain, number: int, seconds: float, stop: str) -> list[int]:
    """Return the nanoseconds of each store, for so many seconds or until a file named ``stop`` exists."""
    times, rng, clock = [], Random(number), time.perf_counter_ns
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (stop and Path(stop).exists()):
        request = writer.request(new_ids(1, rng)[0])
        time.sleep(1 / PACE)
        start = clock()
        writer.store(request)
        times.append(clock() - start)
    return times
