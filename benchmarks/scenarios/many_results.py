"""Many results in one call, and groups."""

import time
import uuid
from dataclasses import replace
from functools import partial
from typing import Any

from celery.result import AsyncResult, GroupResult

from benchmarks.bench import Bench, scenario
from benchmarks.measure import Key, time_each
from benchmarks.peers import bare, celery, plain
from benchmarks.peers.base import new_ids, stored
from benchmarks.rows import Row

#: The fastest way with Redis.
REDIS_MGET = replace(
    celery.REDIS, name="Redis, MGET", configuration="one MGET by redis-py, decoded by Celery's decode_result()"
)
PEERS = (
    celery.NONE, plain.BESIDE_CELERY, celery.REDIS, REDIS_MGET, celery.FILES, celery.SQLITE_OFF, bare.NONE
)  # fmt: skip


@scenario("get_many", "Read so many existing results by get_many(); the time is for all of them", grows_with="results")
def get_many(bench: Bench) -> list[Row]:
    field = bench.open(PEERS)
    blocks = {}
    for count in bench.size([20], [100, 10_000], [100, 10_000]):
        for name, client in field.clients.items():
            is_slow = name in (celery.SQLITE_OFF.name, celery.FILES.name)
            if not (is_slow and count > 1000 and bench.mode == "short"):
                task_ids = stored(client, count, bench.rng)
                blocks[Key(name, "get_many", count)] = partial(_get_many, client, task_ids)
    return field.rows(bench.interleave(blocks, bench.size(1, 5, 7)), alike=True)


def _get_many(client: Any, task_ids: list[str]) -> list[int]:
    start = time.perf_counter_ns()
    found = _count(client, task_ids)
    took = time.perf_counter_ns() - start
    if found != len(task_ids):
        raise RuntimeError(f"{client.about.name} found {found} of {len(task_ids)}")
    return [took]


def _count(client: Any, task_ids: list[str]) -> int:
    if isinstance(client, bare.BareLMDB):
        return sum(value is not None for value in client.get_many(task_ids))
    if client.about is REDIS_MGET:
        values = client.backend.client.mget([client.backend.get_key_for_task(task_id) for task_id in task_ids])
        return sum(client.backend.decode_result(value)["status"] == "SUCCESS" for value in values)
    if not hasattr(client.backend, "get_many"):  # Celery's database backend reads the results of a group one by one
        return sum(client.get(task_id)["status"] == "SUCCESS" for task_id in task_ids)
    return sum(meta["status"] == "SUCCESS" for _, meta in client.backend.get_many(task_ids))


@scenario("groups", "Celery's backend classes: save and restore a group of so many tasks", grows_with="tasks")
def groups(bench: Bench) -> list[Row]:
    field = bench.open(celery.KINDS)
    blocks = {}
    for size in bench.size([5], [10, 1_000], [10, 100, 1_000, 10_000]):
        count = max(1, min(20, 2_000 // size))
        saved: dict[str, list[GroupResult]] = {}
        for name, client in field.clients.items():
            blocks[Key(name, "save", size)] = partial(_save, bench, client, size, count, saved)
        for name, client in field.clients.items():
            blocks[Key(name, "restore", size)] = partial(_restore, client, size, saved)
    return field.rows(bench.interleave(blocks, bench.size(1, 10, 10)))


def _save(
    bench: Bench, client: celery.Backend, size: int, count: int, saved: dict[str, list[GroupResult]]
) -> list[int]:
    parts = [AsyncResult(task_id, app=client.app) for task_id in new_ids(size, bench.rng)]
    made = [GroupResult(str(uuid.UUID(int=bench.rng.getrandbits(128))), parts, app=client.app) for _ in range(count)]
    saved[client.about.name] = made
    return time_each(lambda group: group.save(), made)


def _restore(client: celery.Backend, size: int, saved: dict[str, list[GroupResult]]) -> list[int]:
    def restore(group: GroupResult) -> None:
        if len(GroupResult.restore(group.id, app=client.app)) != size:
            raise RuntimeError(f"{client.about.name} does not return the group that was saved")

    return time_each(restore, saved[client.about.name])
