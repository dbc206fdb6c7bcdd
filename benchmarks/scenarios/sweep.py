"""Taking down what has expired: alone, and what a writer beside it notices."""

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
from benchmarks.rows import OURS, Row
from lmdbresults.backends import LMDBBackend
from lmdbresults.options import options_from_url

TWO_DAYS = 2 * filling.DAY
IDS = {"random ids": filling.random_id, "ids in order": filling.ordered_id}
#: Stores a second of the writer beside.
PACE = 1_000


class Writer(Plain):
    """A worker that stores at a steady pace."""

    clock = staticmethod(time.time)
    name = "writer"
    configuration = f"LMDBBackend, durability=none, {PACE:,} stores a second"

    def __init__(self, folder: Path) -> None:
        path = folder / "expired.lmdb"
        self.backend = LMDBBackend(path, options=options_from_url(path, durability="none", clock=self.clock))


def _long_ago() -> float:
    return time.time() - TWO_DAYS


class WriterBefore(Writer):
    """The same in the same file, by a clock that says that nothing in it has expired."""

    clock = staticmethod(_long_ago)
    name = "writer, idle"


@scenario(
    "sweep",
    "sweep() of results that have all expired, the time is for each; and a writer in another process, before and while",
    grows_with="expired results",
)
def sweep(bench: Bench) -> list[Row]:
    count = bench.size(5_000, 100_000, 1_000_000)
    rows = [_alone(bench, ids, count) for ids in IDS]
    return [*rows, _sqlite(bench, count), *_beside(bench, count)]


def _alone(bench: Bench, ids: str, count: int) -> Row:
    folder = _filled(bench, ids, count)
    return Row(**_swept(folder, count), work=f"alone, {ids}")


def _filled(bench: Bench, ids: str, count: int) -> Path:
    folder = bench.folder / f"{ids} {time.monotonic_ns()}"
    folder.mkdir()
    filling.fill(folder / "expired.lmdb", range(count), IDS[ids], age=TWO_DAYS, step=bench.step)
    bench.step(f"sweeping {count:,}, {ids}")
    return folder


def _swept(folder: Path, count: int) -> dict[str, Any]:
    writer = Writer(folder)
    start = time.perf_counter()
    removed = writer.backend.store.sweep()
    seconds = time.perf_counter() - start
    writer.close()
    return {**_figures(removed, seconds, count), "peer": OURS, "configuration": Plain.configuration}


def _figures(removed: int, seconds: float, count: int) -> dict[str, Any]:
    figures = {"median": seconds / removed * 1e6, "rate": removed / seconds}
    return {"x": count, "durability": Plain.durability, **figures}


def _sqlite(bench: Bench, count: int) -> Row:
    """One DELETE, for which the write lock is held."""
    peer = SQLiteOff(bench.folder)
    rows = ((filling.random_id(number).encode(), peer.value, 1.0) for number in range(count))
    with peer.connection:
        peer.run("BEGIN")
        peer.connection.executemany("INSERT INTO results VALUES (?, ?, ?)", rows)
    start = time.perf_counter()
    removed = peer.run("DELETE FROM results WHERE deadline < ?", (time.time(),)).rowcount
    figures = _figures(removed, time.perf_counter() - start, count)
    peer.close()
    how = f"{SQLiteOff.configuration}: one DELETE, for which all writers wait"
    return Row(**figures, work="alone, random ids", peer="sqlite3", configuration=how)


def _beside(bench: Bench, count: int) -> list[Row]:
    folder = _filled(bench, "random ids", count)
    classes = {about.name: about for about in (Writer, WriterBefore)}
    field = Field(classes, {}, dict.fromkeys(classes, folder))
    crew, seconds = Crew(bench, 1), bench.size(0.05, 2.0, 5.0)
    idle = crew.run(1, pace, field, WriterBefore.name, seconds, "")[0]
    stop = str(bench.folder / "stop")
    members = crew.begin(1, pace, field, Writer.name, 60.0, stop)
    time.sleep(LEAD)
    swept = Row(**_swept(folder, count), work="beside a writer, random ids")
    Path(stop).touch()
    busy = crew.collect(members)[0]
    work, before, while_swept = "a writer's store", measure.summary([idle]), measure.summary([busy])
    note = f"p99 {while_swept['p99'] / before['p99']:.1f} x that of idle"
    return [
        swept,
        field.row(WriterBefore.name, work, count, **before),
        field.row(Writer.name, work, count, **while_swept, note=note),
    ]


def pace(writer: Writer, number: int, seconds: float, stop: str) -> list[int]:
    """Nanoseconds of each store, for so long or until there is a file of that name."""
    times, rng, clock = [], Random(number), time.perf_counter_ns
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (stop and Path(stop).exists()):
        request = writer.request(new_ids(1, rng)[0])
        time.sleep(1 / PACE)
        start = clock()
        writer.store(request)
        times.append(clock() - start)
    return times
