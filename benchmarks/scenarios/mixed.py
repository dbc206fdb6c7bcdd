"""Several processes at once: most read, some store, a few forget."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from random import Random
from statistics import median
from typing import Any

from benchmarks.bench import Bench, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Key, Rounds
from benchmarks.peers import celery
from benchmarks.peers.base import Peer, new_ids, stored
from benchmarks.peers.limit import Limit
from benchmarks.rows import Row

#: Operations that are prepared at once.
CHUNK = 100
Plan = list[tuple[Callable[[Any], object], Any]]


@scenario(
    "mixed",
    "Celery's backend classes, several processes at once: of 100 operations 90 read, 9 store, 1 forgets; the rate is "
    "that of all processes together",
    grows_with="processes",
)
def mixed(bench: Bench) -> list[Row]:
    field = bench.serve(bench.few((*(kind for kind in celery.KINDS if kind.shared), Limit)))
    sizes = bench.size([1, 2], [1, 2, 4, 8], [1, 2, 4, 8])
    crew, seconds = Crew(bench, sizes[-1]), bench.size(0.01, 0.25, 1.0)
    there = {name: crew.run(1, fill, field, name, bench.size(10, 300, 2000))[0] for name in field.folders}
    keys = [Key(name, "mixed", size) for size in sizes for name in field.folders]
    times: dict[Key, Rounds] = {key: [] for key in keys}
    rates: dict[Key, list[float]] = defaultdict(list)
    for _ in bench.rounds(bench.size(1, 2, 10)):
        for key in bench.rng.sample(keys, len(keys)):
            seed = bench.rng.getrandbits(32)
            found = crew.run(int(key.x or 1), operate, field, key.peer, there[key.peer], seconds, seed)
            times[key].append(list(chain.from_iterable(own for own, _ in found)))
            rates[key].append(sum(rate for _, rate in found))
    return [
        replace(row, rate=median(rates[Key(row.peer, row.work, row.x)])) if row.median else row
        for row in field.rows(times)
    ]


def fill(peer: Peer, _: int, count: int) -> list[str]:
    """Results to read."""
    return stored(peer, count, Random(count))


def operate(peer: Peer, number: int, there: list[str], seconds: float, seed: int) -> tuple[list[int], float]:
    """Nanoseconds of each operation, and how many a second they were; making them is in neither."""
    rng, clock, times, elapsed = Random(seed + number), time.perf_counter_ns, [], 0
    while elapsed < seconds * 1e9:
        planned = plan(peer, there, CHUNK, rng)
        began = clock()
        for operation, argument in planned:
            start = clock()
            operation(argument)
            times.append(clock() - start)
        elapsed += clock() - began
    return times, len(times) / (elapsed / 1e9)


def plan(peer: Peer, there: list[str], count: int, rng: Random) -> Plan:
    """Operations with their arguments. What is to be forgotten is stored here."""
    kinds = rng.choices(("get", "store", "forget"), (90, 9, 1), k=count)
    forgotten = iter(stored(peer, kinds.count("forget"), rng))
    requests = iter([peer.request(task_id) for task_id in new_ids(kinds.count("store"), rng)])
    operations: dict[str, Callable[[], tuple[Callable[[Any], object], Any]]] = {
        "get": lambda: (peer.get, rng.choice(there)),
        "store": lambda: (peer.store, next(requests)),
        "forget": lambda: (peer.forget, next(forgotten)),
    }
    return [operations[kind]() for kind in kinds]
