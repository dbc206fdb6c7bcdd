"""Whether a store waits for a checkpoint: latencies at a steady pace, while checkpoints are made and while none are."""

import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from random import Random

from benchmarks.bench import Bench, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Key
from benchmarks.peers import celery
from benchmarks.rows import Row

CLASSES = (celery.OursCheckpoint, celery.Ours, celery.RedisEverysec)
#: Stores a second: one begins each so many nanoseconds, or at once where the one before took longer.
PACE = 1_000
GAP = 1_000_000_000 // PACE
#: Stores between two looks at whether there was a checkpoint, which is when their file is written.
LOOK_EVERY = 100


@scenario(
    "checkpoint-latency",
    "Celery's backend classes: one store at a paced 1,000 a second, while checkpoints run each second, next to a store "
    "without any (so unlike durabilities are compared here)",
)
def checkpoint_latency(bench: Bench) -> list[Row]:
    field = bench.serve(CLASSES)
    crew, seconds = Crew(bench, 1), bench.size(0.1, 2.0, 30.0)

    made: dict[str, int] = defaultdict(int)

    def block(name: str) -> list[int]:
        times, checkpoints = crew.run(1, pace, field, name, bench.rng.getrandbits(32), seconds)[0]
        made[name] += checkpoints
        return times  # type: ignore[no-any-return]

    blocks = {Key(name, "store"): partial(block, name) for name in field.folders}
    samples = bench.interleave(blocks, bench.size(1, 2, 4), warm_up=False)
    rows = field.rows(samples, alike=True)  # the class is what is compared here
    return [replace(row, note=f"{made[row.peer]} checkpoints") if made[row.peer] else row for row in rows]


def pace(peer: celery.CeleryPeer, number: int, seed: int, seconds: float) -> tuple[list[int], int]:
    """Nanoseconds of each store, and how many checkpoints there have been."""
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
