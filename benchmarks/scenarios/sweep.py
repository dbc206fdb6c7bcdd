"""Removing expired results: alone, and what a writer in another process notices of it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import filling, measure
from benchmarks.bench import Bench, Field, scenario
from benchmarks.crew import LEAD, Crew
from benchmarks.peers import plain, stores
from benchmarks.rows import OWN, Row
from benchmarks.scenarios.processes import PACE, storing

TWO_DAYS = 2 * filling.DAY
IDS = {"random ids": filling.random_id, "ids in order": filling.ordered_id}
FILE = "expired.lmdb"


class Before(plain.Plain):
    """The same two days earlier, when nothing in the file has expired."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, clock=lambda: time.time() - TWO_DAYS, **options)


#: A worker that stores at a steady pace.
WRITER = replace(
    plain.NONE, name="writer", configuration=f"{plain.NONE.configuration}, {PACE:,} stores per second",
    options={**plain.NONE.options, "file": FILE},
)  # fmt: skip
WRITER_BEFORE = replace(WRITER, name="writer, no sweep", client=Before)


@scenario(
    "sweep",
    "sweep() of expired results, the time is for each; and the stores of a writer in another process, before and "
    "during a sweep",
    grows_with="expired results",
)
def sweep(bench: Bench) -> list[Row]:
    count = bench.size(5_000, 100_000, 300_000, 1_000_000)
    rows = [Row(**_sweep(_filled(bench, ids, count), count), work=f"alone, {ids}") for ids in IDS]
    return [*rows, _sqlite(bench, count), *_beside_a_writer(bench, count)]


def _filled(bench: Bench, ids: str, count: int) -> Path:
    folder = bench.folder / f"{ids} {time.monotonic_ns()}"
    folder.mkdir()
    filling.fill_file(folder / FILE, range(count), bench.step, IDS[ids], age=TWO_DAYS)
    bench.step(f"sweeping {count:,}, {ids}")
    return folder


def _sweep(folder: Path, count: int) -> dict[str, Any]:
    client = WRITER.open(folder)
    start = time.perf_counter()
    removed = client.backend.store.sweep()
    seconds = time.perf_counter() - start
    client.close()
    return {**_figures(removed, seconds, count), "peer": OWN, "configuration": plain.NONE.configuration}


def _figures(removed: int, seconds: float, count: int) -> dict[str, Any]:
    figures = {"median": seconds / removed * 1e6, "rate": removed / seconds}
    return {"x": count, "durability": plain.NONE.durability, **figures}


def _sqlite(bench: Bench, count: int) -> Row:
    client = stores.SQLITE_OFF.open(bench.folder)
    rows = ((filling.random_id(number).encode(), client.value, 1.0) for number in range(count))
    with client.connection:
        client.run("BEGIN")
        client.connection.executemany("INSERT INTO results VALUES (?, ?, ?)", rows)
    start = time.perf_counter()
    removed = client.run("DELETE FROM results WHERE deadline < ?", (time.time(),)).rowcount
    figures = _figures(removed, time.perf_counter() - start, count)
    client.close()
    how = f"{stores.SQLITE_OFF.configuration}: one DELETE, during which all writers wait"
    return Row(**figures, work="alone, random ids", peer="sqlite3", configuration=how)


def _beside_a_writer(bench: Bench, count: int) -> list[Row]:
    folder = _filled(bench, "random ids", count)
    peers = {about.name: about for about in (WRITER, WRITER_BEFORE)}
    field = Field(peers, dict.fromkeys(peers, folder))
    crew, seconds = Crew(bench, 1), bench.size(0.05, 2.0, 5.0)
    undisturbed = crew.run(1, pace, field, WRITER_BEFORE.name, seconds, "")[0]
    stop = str(bench.folder / "stop")
    pipes = crew.start(1, pace, field, WRITER.name, 60.0, stop)
    time.sleep(LEAD)
    swept = Row(**_sweep(folder, count), work="beside a writer, random ids")
    Path(stop).touch()
    disturbed = crew.collect(pipes)[0]
    work, before, during = "a writer's store", measure.summary([undisturbed]), measure.summary([disturbed])
    note = f"p99 {during['p99'] / before['p99']:.1f} x that without a sweep"
    return [
        swept,
        field.row(WRITER_BEFORE.name, work, count, **before),
        field.row(WRITER.name, work, count, **during, note=note),
    ]


def pace(writer: plain.Plain, number: int, seconds: float, stop: str) -> list[int]:
    """Return the nanoseconds of each store, for so many seconds or until a file named ``stop`` exists."""
    times, end = [], time.monotonic() + seconds
    for took in storing(writer, number, PACE):
        times.append(took)
        if time.monotonic() > end or (stop and Path(stop).exists()):
            break
    return times
