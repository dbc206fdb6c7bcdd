"""Several processes at once, sustained stores, and stores during checkpoints."""

import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from random import Random
from statistics import median
from typing import Any, NamedTuple

from benchmarks import measure
from benchmarks.bench import Bench, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Key, Rounds
from benchmarks.peers import bare, celery
from benchmarks.peers.base import Client, new_ids, stored
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
    field = bench.serve(bench.few((*celery.SHARED, bare.NONE)))
    sizes = bench.size([1, 2], [1, 2, 4, 8], [1, 2, 4, 8])
    crew, seconds = Crew(bench, sizes[-1]), bench.size(0.01, 0.25, 0.5)
    present = {name: crew.run(1, fill, field, name, bench.size(10, 300, 2000))[0] for name in field.folders}
    keys = [Key(name, "mixed", size) for size in sizes for name in field.folders]
    times: dict[Key, Rounds] = {key: [] for key in keys}
    rates: dict[Key, list[float]] = defaultdict(list)
    for _ in bench.rounds(bench.size(1, 2, 4)):
        for key in bench.rng.sample(keys, len(keys)):
            seed = bench.rng.getrandbits(32)
            found = crew.run(int(key.x or 1), operate, field, key.peer, present[key.peer], seconds, seed)
            times[key].append(list(chain.from_iterable(own for own, _ in found)))
            rates[key].append(sum(rate for _, rate in found))
    return [
        replace(row, rate=median(rates[Key(row.peer, row.work, row.x)])) if row.median else row
        for row in field.rows(times)
    ]


def fill(client: Client, _: int, count: int) -> list[str]:
    """Store results to read."""
    return stored(client, count, Random(count))


def operate(client: Client, number: int, present: list[str], seconds: float, seed: int) -> tuple[list[int], float]:
    """Return the nanoseconds of each operation, and operations per second; preparation is in neither."""
    rng, clock, times, elapsed = Random(seed + number), time.perf_counter_ns, [], 0
    while elapsed < seconds * 1e9:
        planned = _plan(client, present, rng)
        began = clock()
        for operation, argument in planned:
            start = clock()
            operation(argument)
            times.append(clock() - start)
        elapsed += clock() - began
    return times, len(times) / (elapsed / 1e9)


def _plan(client: Client, present: list[str], rng: Random) -> Plan:
    """Return operations with their arguments; store the results that they will forget."""
    kinds = rng.choices(("get", "store", "forget"), (90, 9, 1), k=CHUNK)
    forgotten = iter(stored(client, kinds.count("forget"), rng))
    requests = iter([client.request(task_id) for task_id in new_ids(kinds.count("store"), rng)])
    operations: dict[str, Callable[[], tuple[Callable[[Any], object], Any]]] = {
        "get": lambda: (client.get, rng.choice(present)),
        "store": lambda: (client.store, next(requests)),
        "forget": lambda: (client.forget, next(forgotten)),
    }
    return [operations[kind]() for kind in kinds]


# -- sustained ---------------------------------------------------------------------------------------------------------

PEERS = (
    celery.CHECKPOINT, celery.NONE, celery.COMMIT, celery.REDIS_DEFAULT, celery.REDIS_EVERYSEC, celery.REDIS_ALWAYS,
    celery.FILES, celery.SQLITE, celery.SQLITE_FULL, bare.NONE, bare.COMMIT,
)  # fmt: skip
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
    field = bench.serve(bench.few(PEERS))
    sizes = bench.size([1, 2], [1, 4], [1, 4])
    crew, seconds = Crew(bench, sizes[-1]), bench.size(0.1, 1.5, 5.0)
    keys = [Key(name, "store", size) for size in sizes for name in field.folders]
    found: dict[Key, dict[str, Any]] = {}
    for key in bench.steps(bench.rng.sample(keys, len(keys)), "peer"):
        before = measure.disk_usage(field.folders[key.peer])
        floods = crew.run(int(key.x or 1), flood, field, key.peer, bench.rng.getrandbits(32), seconds)
        found[key] = _together(floods, measure.disk_usage(field.folders[key.peer]) - before)
        found[key]["loss"] = field.peers[key.peer].loss
    return with_ratios(field.table({key: found[key] for key in keys}), lambda row: 1 / row.rate if row.rate else None)


def storing(client: Client, seed: int, per_second: int = 0) -> Iterator[int]:
    """Store new results, as fast as possible or at a pace; yield the nanoseconds of each.

    One request is reused, because creating one takes as long as storing.
    """
    draw, request, clock = Random(seed).getrandbits, client.request("0"), time.perf_counter_ns
    due = clock()
    while True:
        request = client.renamed(request, f"{draw(128):032x}")
        if per_second:
            time.sleep(max(due - clock(), 0) / 1e9)
            due += 1_000_000_000 // per_second
        start = clock()
        client.store(request)
        yield clock() - start


def flood(client: Client, number: int, seed: int, seconds: float) -> Flood:
    """Store new results for so many seconds."""
    times, began = array("q"), time.perf_counter()
    for took in storing(client, seed + number):
        times.append(took)
        if time.perf_counter() - began > seconds:
            break
    elapsed = time.perf_counter() - began
    return Flood(len(times), elapsed, max(times), list(times[:: len(times) // SAMPLES + 1]))


def _together(floods: Sequence[Flood], growth: int) -> dict[str, Any]:
    """Return the figures of all processes."""
    count, seconds = sum(flood.stored for flood in floods), max(flood.seconds for flood in floods)
    return {
        **measure.summary([list(chain.from_iterable(flood.times for flood in floods))]),
        "maximum": max(flood.slowest for flood in floods) / 1000,
        "rate": sum(flood.stored / flood.seconds for flood in floods),
        "note": f"files +{growth / 1e6:,.0f} MB in {seconds:.2g} s, {growth / count:,.0f} B each",
    }


# -- checkpoints -------------------------------------------------------------------------------------------------------

#: Stores per second.
PACE = 1_000
#: Stores between two looks at the checkpoint file.
LOOK_EVERY = 100


@scenario(
    "checkpoint-latency",
    "Celery's backend classes: one store, at 1,000 a second, with a checkpoint each second and without any (different "
    "durabilities are compared here)",
)
def checkpoint_latency(bench: Bench) -> list[Row]:
    field = bench.serve((celery.CHECKPOINT, celery.NONE, celery.REDIS_EVERYSEC))
    crew, seconds = Crew(bench, 1), bench.size(0.1, 2.0, 10.0)
    made: dict[str, int] = defaultdict(int)

    def block(name: str) -> list[int]:
        times, checkpoints = crew.run(1, pace, field, name, bench.rng.getrandbits(32), seconds)[0]
        made[name] += checkpoints
        return times  # type: ignore[no-any-return]

    blocks = {Key(name, "store"): partial(block, name) for name in field.folders}
    rows = field.rows(bench.interleave(blocks, bench.size(1, 2, 2), warm_up=False), alike=True)
    return [replace(row, note=f"{made[row.peer]} checkpoints") if made[row.peer] else row for row in rows]


def pace(client: Client, number: int, seed: int, seconds: float) -> tuple[list[int], int]:
    """Return the nanoseconds of each store, and the number of checkpoints."""
    times, seen = [], set[int]()
    for count, took in zip(range(int(seconds * PACE)), storing(client, seed, PACE), strict=False):
        times.append(took)
        if count % LOOK_EVERY == 0:
            seen.update(file.stat().st_mtime_ns for file in client.folder.glob("*-checkpoint"))
    return times, max(len(seen) - 1, 0)
