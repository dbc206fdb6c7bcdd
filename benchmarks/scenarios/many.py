"""Many results in one call."""

import time
from functools import partial
from typing import Any

from benchmarks.bench import Bench, scenario
from benchmarks.measure import Key
from benchmarks.peers import celery
from benchmarks.peers.base import stored
from benchmarks.peers.limit import Limit
from benchmarks.peers.plain import OursPlain
from benchmarks.rows import Row


class RedisByHand(celery.Redis):
    """What can be had from Redis at best: one MGET, and each value decoded as Celery does."""

    name = "Redis, MGET"
    configuration = "one MGET by redis-py, decoded by Celery's decode_result()"


CLASSES = (celery.Ours, OursPlain, celery.Redis, RedisByHand, celery.Files, celery.SQLiteOff, Limit)


@scenario("get_many", "All of so many results that are there, by get_many(); the time is for all", grows_with="results")
def get_many(bench: Bench) -> list[Row]:
    field = bench.open(CLASSES)
    blocks = {}
    for count in bench.size([20], [100, 10_000], [100, 10_000]):
        for name, peer in field.peers.items():
            slow = name in (celery.SQLiteOff.name, celery.Files.name)
            if not (slow and count > 1000 and bench.mode == "short"):
                task_ids = stored(peer, count, bench.rng)
                blocks[Key(name, "get_many", count)] = partial(_block, peer, task_ids)
    return field.rows(bench.interleave(blocks, bench.size(1, 5, 15)), alike=True)


def _block(peer: Any, task_ids: list[str]) -> list[int]:
    start = time.perf_counter_ns()
    found = _all(peer, task_ids)
    took = time.perf_counter_ns() - start
    if found != len(task_ids):
        raise RuntimeError(f"{peer.name} found {found} of {len(task_ids)}")
    return [took]


def _all(peer: Any, task_ids: list[str]) -> int:
    if isinstance(peer, Limit):
        return sum(value is not None for value in peer.get_many(task_ids))
    if isinstance(peer, RedisByHand):
        values = peer.backend.client.mget([peer.backend.get_key_for_task(task_id) for task_id in task_ids])
        return sum(peer.backend.decode_result(value)["status"] == "SUCCESS" for value in values)
    if not hasattr(peer.backend, "get_many"):  # the database backend: Celery joins its groups one by one
        return sum(peer.get(task_id)["status"] == "SUCCESS" for task_id in task_ids)
    return sum(meta["status"] == "SUCCESS" for _, meta in peer.backend.get_many(task_ids))
