"""End to end: a client, a broker, and real Celery workers."""

import time
from dataclasses import replace
from functools import partial

from celery import Celery, group

from benchmarks import worker_app
from benchmarks.bench import Bench, scenario
from benchmarks.measure import Block, Key
from benchmarks.peers.base import RESULT, require
from benchmarks.rows import Row
from benchmarks.servers import Unavailable, celery_worker, redis_server

PATIENCE = 60.0
QUIET = "--without-gossip", "--without-mingle", "--without-heartbeat"


@scenario(
    "worker",
    "A real worker (prefork, two processes, Redis as the broker): send a task and get its result; send a group and get "
    "its results, the time is for each task",
)
def worker(bench: Bench) -> list[Row]:
    field = bench.serve(bench.few(worker_app.PEERS))
    try:
        require("redis")
        (bench.folder / "broker").mkdir()
        broker = f"redis+socket://{bench.stack.enter_context(redis_server(bench.folder / 'broker'))}"
    except Unavailable as reason:
        return [field.row(name, "round trip", missing=f"no broker: {reason}") for name in field.peers]
    apps = {}
    for name, folder in field.folders.items():
        client = worker_app.open_client(field.peers[name], folder, broker)
        bench.stack.callback(client.close)
        variables = {worker_app.PEER: name, worker_app.FOLDER: str(folder), worker_app.BROKER: broker}
        bench.stack.enter_context(celery_worker(folder, worker_app.__name__, variables, *QUIET))
        apps[name] = client.app
    for name, app in apps.items():
        bench.step(f"starting {name}")
        _round_trip(app)
    size = bench.size(5, 200, 1000)
    blocks: dict[Key, Block] = {
        Key(name, "round trip"): partial(_block, app, bench.size(1, 10, 50)) for name, app in apps.items()
    }
    blocks |= {Key(name, f"group of {size:,}"): partial(_group, app, size) for name, app in apps.items()}
    rows = field.rows(bench.interleave(blocks, bench.size(1, 5, 10), warm_up=False))
    return [replace(row, rate=1e6 / row.median) if row.median else row for row in rows]


def _round_trip(app: Celery) -> int:
    start = time.perf_counter_ns()
    found = app.tasks["tasks.answer"].delay(1).get(timeout=PATIENCE)
    took = time.perf_counter_ns() - start
    if found != RESULT:
        raise RuntimeError("the client did not get what the task returned")
    return took


def _block(app: Celery, count: int) -> list[int]:
    is_slow = not app.backend.is_async  # the client polls every half second
    return [_round_trip(app) for _ in range(1 if is_slow else count)]


def _group(app: Celery, size: int) -> list[float]:
    tasks = group(app.tasks["tasks.answer"].s(number) for number in range(size))
    start = time.perf_counter_ns()
    found = tasks.apply_async().get(timeout=PATIENCE)
    took = time.perf_counter_ns() - start
    if found != [RESULT] * size:
        raise RuntimeError("the client did not get what the tasks returned")
    return [took / size]
