"""End to end with result backends of Celery beside one kind of broker: a client, and real workers."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

from celery import group

from benchmarks.bench import Bench, scenario
from benchmarks.measure import Block, Key
from benchmarks.peers import stacks
from benchmarks.peers.base import PATIENCE, RESULT
from benchmarks.rows import Row
from benchmarks.scenarios.broker import round_trips, with_workers


@scenario(
    "worker",
    "A real worker (prefork, two processes, Redis as the broker): send a task and get its result; send a group and get "
    "its results, the time is for each task",
)
def worker(bench: Bench) -> list[Row]:
    field, clients, _ = with_workers(bench, stacks.RESULTS)
    size = bench.size(5, 200, 500)
    blocks: dict[Key, Block] = {
        Key(name, "round trip"): partial(round_trips, client, bench.size(1, 10, 20)) for name, client in clients.items()
    }
    blocks |= {Key(name, f"group of {size:,}"): partial(_group, client.app, size) for name, client in clients.items()}
    rows = field.rows(bench.interleave(blocks, bench.size(1, 5, 5), warm_up=False))
    return [replace(row, rate=1e6 / row.median) if row.median else row for row in rows]


def _group(app: Any, size: int) -> list[float]:
    tasks = group(app.tasks["answer"].s(number) for number in range(size))
    start = time.perf_counter_ns()
    found = tasks.apply_async().get(timeout=PATIENCE)
    took = time.perf_counter_ns() - start
    if found != [RESULT] * size:
        raise RuntimeError("the client did not get what the tasks returned")
    return [took / size]
