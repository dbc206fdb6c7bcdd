"""Groups, saved and restored."""

import uuid
from functools import partial

from celery.result import AsyncResult, GroupResult

from benchmarks.bench import Bench, scenario
from benchmarks.measure import Key, time_each
from benchmarks.peers import celery
from benchmarks.peers.base import new_ids
from benchmarks.rows import Row


@scenario("groups", "Celery's backend classes: save a group of so many tasks, and restore it", grows_with="tasks")
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
