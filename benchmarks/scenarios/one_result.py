"""One result through Celery's backend classes, in one process."""

from functools import partial

from benchmarks.bench import Bench, scenario
from benchmarks.measure import Key, time_each
from benchmarks.peers import celery
from benchmarks.peers.base import Peer, new_ids, stored
from benchmarks.peers.limit import Limit, LimitCommit
from benchmarks.rows import Row


@scenario("store", "Celery's backend classes: store the success of a task that has no result yet")
def store(bench: Bench) -> list[Row]:
    field = bench.open((*celery.EVERY, Limit, LimitCommit))

    def block(peer: Peer) -> list[int]:
        requests = [peer.request(task_id) for task_id in new_ids(bench.operations(peer), bench.rng)]
        return time_each(peer.store, requests)

    blocks = {Key(name, "store"): partial(block, peer) for name, peer in field.peers.items()}
    return field.rows(bench.interleave(blocks, bench.size(1, 20, 100)))


@scenario("progress", "Celery's backend classes: STARTED, then SUCCESS of the same task; the time is for both")
def progress(bench: Bench) -> list[Row]:
    field = bench.open((*celery.EVERY, Limit, LimitCommit))

    def block(peer: celery.CeleryPeer | Limit) -> list[int]:
        requests = [peer.request(task_id) for task_id in new_ids(bench.operations(peer) // 2, bench.rng)]
        return time_each(peer.start_and_store, requests)

    blocks = {Key(name, "both"): partial(block, peer) for name, peer in field.peers.items()}
    return field.rows(bench.interleave(blocks, bench.size(1, 15, 100)))


@scenario("get", "Celery's backend classes: read a result that is there, one that is not, and one that was read before")
def get(bench: Bench) -> list[Row]:
    field = bench.open((*celery.KINDS, Limit))
    blocks = {}
    for name, peer in field.peers.items():
        there = stored(peer, bench.size(4, 500, 2000), bench.rng)
        blocks[Key(name, "hit")] = partial(read, bench, peer, there)
        blocks[Key(name, "miss")] = partial(read, bench, peer, None)
        if isinstance(peer, celery.CeleryPeer):
            caching = type(peer)(field.folders[name], result_cache_max=len(there))
            bench.stack.callback(caching.close)
            blocks[Key(name, "cached")] = partial(read_again, bench, caching, there)
    blocks = {key: blocks[key] for key in sorted(blocks, key=lambda key: ("hit", "miss", "cached").index(key.work))}
    return field.rows(bench.interleave(blocks, bench.size(1, 20, 100)), alike=True)


def read(bench: Bench, peer: Peer, there: list[str] | None) -> list[int]:
    """Any of those that are there, or new ones."""
    count = bench.size(4, 200, 200)
    return time_each(peer.get, bench.rng.choices(there, k=count) if there else new_ids(count, bench.rng))


def read_again(bench: Bench, peer: celery.CeleryPeer, there: list[str]) -> list[int]:
    """What the client has read just before."""
    task_ids = bench.rng.choices(there, k=bench.size(4, 200, 200))
    for task_id in task_ids:
        peer.get_cached(task_id)
    return time_each(peer.get_cached, task_ids)
