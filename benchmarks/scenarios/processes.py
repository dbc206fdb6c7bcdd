"""Several processes at once, sustained stores, and stores during checkpoints."""

import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

from benchmarks import measure
from benchmarks.bench import Bench, Field, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Key, Rounds
from benchmarks.peers import celery
from benchmarks.peers.bare import BareLMDB, BareLMDBCommit
from benchmarks.peers.base import Peer, new_ids, stored
from benchmarks.rows import Row, with_ratios

# -- mixed -------------------------------------------------------------------------------------------------------------

#: Operations that are prepared together.
CHUNK = 100
Plan = list[tuple[Callable[[Any], object], Any]]


@scenario(
    "mixed",
    "Celery's backend classes, several processes at once: of 100 operations 90 read, 9 store, 1 forgets; the rate is "
    "that of all processes together",
    grows_with="processes",
)
def mixed(bench: Bench) -> list[Row]:
    field = bench.serve(bench.few((*(kind for kind in celery.KINDS if kind.shared), BareLMDB)))
    sizes = bench.size([1, 2], [1, 2, 4, 8], [1, 2, 4, 8])
    crew, seconds = Crew(bench, sizes[-1]), bench.size(0.01, 0.25, 1.0)
    present = {name: crew.run(1, fill, field, name, bench.size(10, 300, 2000))[0] for name in field.folders}
    keys = [Key(name, "mixed", size) for size in sizes for name in field.folders]
    times: dict[Key, Rounds] = {key: [] for key in keys}
    rates: dict[Key, list[float]] = defaultdict(list)
    for _ in bench.rounds(bench.size(1, 2, 10)):
        for key in bench.rng.sample(keys, len(keys)):
            seed = bench.rng.getrandbits(32)
            found = crew.run(int(key.x or 1), operate, field, key.peer, present[key.peer], seconds, seed)
            times[key].append(list(chain.from_iterable(own for own, _ in found)))
            rates[key].append(sum(rate for _, rate in found))
    return [
        replace(row, rate=median(rates[Key(row.peer, row.work, row.x)])) if row.median else row
        for row in field.rows(times)
    ]


def fill(peer: Peer, _: int, count: int) -> list[str]:
    """Store results to read."""
    return stored(peer, count, Random(count))


def operate(peer: Peer, number: int, present: list[str], seconds: float, seed: int) -> tuple[list[int], float]:
    """Return the nanoseconds of each operation, and operations per second; preparation is in neither."""
    rng, clock, times, elapsed = Random(seed + number), time.perf_counter_ns, [], 0
    while elapsed < seconds * 1e9:
        planned = _plan(peer, present, rng)
        began = clock()
        for operation, argument in planned:
            start = clock()
            operation(argument)
            times.append(clock() - start)
        elapsed += clock() - began
    return times, len(times) / (elapsed / 1e9)


def _plan(peer: Peer, present: list[str], rng: Random) -> Plan:
    """Return operations with their arguments; store the results that they will forget."""
    kinds = rng.choices(("get", "store", "forget"), (90, 9, 1), k=CHUNK)
    forgotten = iter(stored(peer, kinds.count("forget"), rng))
    requests = iter([peer.request(task_id) for task_id in new_ids(kinds.count("store"), rng)])
    operations: dict[str, Callable[[], tuple[Callable[[Any], object], Any]]] = {
        "get": lambda: (peer.get, rng.choice(present)),
        "store": lambda: (peer.store, next(requests)),
        "forget": lambda: (peer.forget, next(forgotten)),
    }
    return [operations[kind]() for kind in kinds]


# -- sustained ---------------------------------------------------------------------------------------------------------

CLASSES = (
    celery.LMDBResultsCheckpoint,
    celery.LMDBResults,
    celery.LMDBResultsCommit,
    celery.RedisDefault,
    celery.RedisEverysec,
    celery.RedisAlways,
    celery.Files,
    celery.SQLite,
    celery.SQLiteFull,
    BareLMDB,
    BareLMDBCommit,
)
#: Times that a process returns at most.
SAMPLES = 20_000


class Flood(NamedTuple):
    """What one process has done."""

    stored: int
    seconds: float
    slowest: int
    times: list[int]


@scenario(
    "sustained",
    "Celery's backend classes: new results stored without a pause, per second, by all processes together",
    grows_with="processes",
)
def sustained(bench: Bench) -> list[Row]:
    field = bench.serve(bench.few(CLASSES))
    sizes = bench.size([1, 2], [1, 4], [1, 4])
    crew, seconds = Crew(bench, sizes[-1]), bench.size(0.1, 1.5, 30.0)
    keys = [Key(name, "store", size) for size in sizes for name in field.folders]
    found: dict[Key, Row] = {}
    for key in bench.steps(bench.rng.sample(keys, len(keys)), "peer"):
        before = disk_usage(field.folders[key.peer])
        floods = crew.run(int(key.x or 1), flood, field, key.peer, bench.rng.getrandbits(32), seconds)
        found[key] = _flood_row(field, key, floods, disk_usage(field.folders[key.peer]) - before)
    missing = [field.row(name, "", missing=why) for name, why in field.missing.items()]
    return with_ratios([found[key] for key in keys], lambda row: 1 / row.rate if row.rate else None) + missing


def flood(peer: Peer, number: int, seed: int, seconds: float) -> Flood:
    """Store new results. One request is reused, because creating one takes as long as storing."""
    draw, store, rename = Random(seed + number).getrandbits, peer.store, peer.renamed
    request, times, clock = peer.request("0"), array("q"), time.perf_counter_ns
    began = clock()
    end = began + int(seconds * 1e9)
    now = began
    while now < end:
        request = rename(request, f"{draw(128):032x}")
        start = clock()
        store(request)
        now = clock()
        times.append(now - start)
    chosen = times[:: len(times) // SAMPLES + 1]
    return Flood(len(times), (now - began) / 1e9, max(times), list(chosen))


def disk_usage(folder: Path) -> int:
    """Return the bytes on disk of all files in a folder."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def _flood_row(field: Field, key: Key, floods: Sequence[Flood], growth: int) -> Row:
    count = sum(flood.stored for flood in floods)
    figures: dict[str, Any] = measure.summary([list(chain.from_iterable(flood.times for flood in floods))])
    figures["maximum"] = max(flood.slowest for flood in floods) / 1000
    figures["rate"] = sum(flood.stored / flood.seconds for flood in floods)
    seconds = max(flood.seconds for flood in floods)
    note = f"files +{growth / 1e6:,.0f} MB in {seconds:.2g} s, {growth / count:,.0f} B each"
    return field.row(key.peer, key.work, key.x, **figures, loss=field.classes[key.peer].loss, note=note)


# -- checkpoints -------------------------------------------------------------------------------------------------------

#: Stores per second.
PACE = 1_000
GAP = 1_000_000_000 // PACE
#: Stores between two looks at the checkpoint file.
LOOK_EVERY = 100


@scenario(
    "checkpoint-latency",
    "Celery's backend classes: one store, at 1,000 a second, with a checkpoint each second and without any (different "
    "durabilities are compared here)",
)
def checkpoint_latency(bench: Bench) -> list[Row]:
    field = bench.serve((celery.LMDBResultsCheckpoint, celery.LMDBResults, celery.RedisEverysec))
    crew, seconds = Crew(bench, 1), bench.size(0.1, 2.0, 30.0)
    made: dict[str, int] = defaultdict(int)

    def block(name: str) -> list[int]:
        times, checkpoints = crew.run(1, pace, field, name, bench.rng.getrandbits(32), seconds)[0]
        made[name] += checkpoints
        return times  # type: ignore[no-any-return]

    blocks = {Key(name, "store"): partial(block, name) for name in field.folders}
    rows = field.rows(bench.interleave(blocks, bench.size(1, 2, 4), warm_up=False), alike=True)
    return [replace(row, note=f"{made[row.peer]} checkpoints") if made[row.peer] else row for row in rows]


def pace(peer: celery.CeleryPeer, number: int, seed: int, seconds: float) -> tuple[list[int], int]:
    """Return the nanoseconds of each store, and the number of checkpoints."""
    draw, request = Random(seed + number).getrandbits, peer.request("0")
    clock, times, seen = time.perf_counter_ns, [], set[int]()
    due = clock()
    for count in range(int(seconds * PACE)):
        request = peer.renamed(request, f"{draw(128):032x}")
        if count % LOOK_EVERY == 0:
            seen.update(file.stat().st_mtime_ns for file in peer.folder.glob("*-checkpoint"))
        time.sleep(max(due - clock(), 0) / 1e9)
        start = clock()
        peer.store(request)
        times.append(clock() - start)
        due += GAP
    return times, max(len(seen) - 1, 0)
