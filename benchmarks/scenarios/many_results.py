"""Many results in one call, and groups."""

import time
import uuid
from functools import partial
from typing import Any

from celery.result import AsyncResult, GroupResult

from benchmarks.bench import Bench, scenario
from benchmarks.measure import Key, time_each
from benchmarks.peers import celery
from benchmarks.peers.bare import BareLMDB
from benchmarks.peers.base import new_ids, stored
from benchmarks.peers.plain import PlainBesideCelery
from benchmarks.rows import Row


class RedisMGET(celery.Redis):
    """The fastest way with Redis: one MGET, each value decoded as Celery does."""

    name = "Redis, MGET"
    configuration = "one MGET by redis-py, decoded by Celery's decode_result()"


CLASSES = (
    celery.LMDBResults, PlainBesideCelery, celery.Redis, RedisMGET, celery.Files, celery.SQLiteOff, BareLMDB
)  # fmt: skip


@scenario("get_many", "Read so many existing results by get_many(); the time is for all of them", grows_with="results")
def get_many(bench: Bench) -> list[Row]:
    field = bench.open(CLASSES)
    blocks = {}
    for count in bench.size([20], [100, 10_000], [100, 10_000]):
        for name, peer in field.peers.items():
            is_slow = name in (celery.SQLiteOff.name, celery.Files.name)
            if not (is_slow and count > 1000 and bench.mode == "short"):
                task_ids = stored(peer, count, bench.rng)
                blocks[Key(name, "get_many", count)] = partial(_get_many, peer, task_ids)
    return field.rows(bench.interleave(blocks, bench.size(1, 5, 15)), alike=True)


def _get_many(peer: Any, task_ids: list[str]) -> list[int]:
    start = time.perf_counter_ns()
    found = _count(peer, task_ids)
    took = time.perf_counter_ns() - start
    if found != len(task_ids):
        raise RuntimeError(f"{peer.name} found {found} of {len(task_ids)}")
    return [took]


def _count(peer: Any, task_ids: list[str]) -> int:
    if isinstance(peer, BareLMDB):
        return sum(value is not None for value in peer.get_many(task_ids))
    if isinstance(peer, RedisMGET):
        values = peer.backend.client.mget([peer.backend.get_key_for_task(task_id) for task_id in task_ids])
        return sum(peer.backend.decode_result(value)["status"] == "SUCCESS" for value in values)
    if not hasattr(peer.backend, "get_many"):  # Celery's database backend reads the results of a group one by one
        return sum(peer.get(task_id)["status"] == "SUCCESS" for task_id in task_ids)
    return sum(meta["status"] == "SUCCESS" for _, meta in peer.backend.get_many(task_ids))


@scenario("groups", "Celery's backend classes: save and restore a group of so many tasks", grows_with="tasks")
def groups(bench: Bench) -> list[Row]:
    field = bench.open(celery.KINDS)
    blocks = {}
    for size in bench.size([5], [10, 1_000], [10, 100, 1_000, 10_000]):
        count = max(1, min(20, 2_000 // size))
        saved: dict[str, list[GroupResult]] = {}
        for name, peer in field.peers.items():
            blocks[Key(name, "save", size)] = partial(_save, bench, peer, size, count, saved)
        for name, peer in field.peers.items():
            blocks[Key(name, "restore", size)] = partial(_restore, peer, size, saved)
    return field.rows(bench.interleave(blocks, bench.size(1, 10, 30)))


def _save(
    bench: Bench, peer: celery.CeleryPeer, size: int, count: int, saved: dict[str, list[GroupResult]]
) -> list[int]:
    parts = [AsyncResult(task_id, app=peer.app) for task_id in new_ids(size, bench.rng)]
    made = [GroupResult(str(uuid.UUID(int=bench.rng.getrandbits(128))), parts, app=peer.app) for _ in range(count)]
    saved[peer.name] = made
    return time_each(lambda group: group.save(), made)


def _restore(peer: celery.CeleryPeer, size: int, saved: dict[str, list[GroupResult]]) -> list[int]:
    def restore(group: GroupResult) -> None:
        if len(GroupResult.restore(group.id, app=peer.app)) != size:
            raise RuntimeError(f"{peer.name} does not return the group that was saved")

    return time_each(restore, saved[peer.name])
