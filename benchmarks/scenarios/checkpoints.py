"""Whether a store waits for a checkpoint: latencies at a steady pace, while checkpoints are made and while none are."""

import time
from functools import partial
from random import Random

from benchmarks.bench import Bench, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Key
from benchmarks.peers import celery
from benchmarks.peers.base import Peer
from benchmarks.rows import Row

CLASSES = (celery.OursCheckpoint, celery.Ours, celery.RedisEverysec)
#: Stores a second: one begins each so many nanoseconds, or at once where the one before took longer.
PACE = 1_000
GAP = 1_000_000_000 // PACE


@scenario(
    "checkpoint-latency",
    "Celery's backend classes: one store at a paced 1,000 a second, while checkpoints run each second, next to none",
)
def checkpoint_latency(bench: Bench) -> list[Row]:
    field = bench.serve(CLASSES)
    crew, seconds = Crew(bench, 1), bench.size(0.1, 2.0, 30.0)

    def block(name: str) -> list[int]:
        times: list[int] = crew.run(1, pace, field, name, bench.rng.getrandbits(32), seconds)[0]
        return times

    blocks = {Key(name, "store"): partial(block, name) for name in field.folders}
    samples = bench.interleave(blocks, bench.size(1, 2, 4), warm_up=False)
    return field.rows(samples, alike=True)  # the class is what is compared here


def pace(peer: Peer, number: int, seed: int, seconds: float) -> list[int]:
    """Nanoseconds of each store."""
    draw, request = Random(seed + number).getrandbits, peer.request("0")
    clock, times = time.perf_counter_ns, []
    due = clock()
    for _ in range(int(seconds * PACE)):
        request = peer.renamed(request, f"{draw(128):032x}")
        time.sleep(max(due - clock(), 0) / 1e9)
        start = clock()
        peer.store(request)
        times.append(clock() - start)
        due += GAP
    return times
