"""One result in one process: through Celery's backend classes, without Celery, and as bytes."""

from functools import partial
from typing import Any

from benchmarks.bench import Bench, Field, scenario
from benchmarks.measure import Key, time_each
from benchmarks.peers import celery, stores
from benchmarks.peers.bare import BareLMDB, BareLMDBCommit
from benchmarks.peers.base import KEY_PREFIX, Peer, new_ids, stored
from benchmarks.peers.plain import Plain, PlainCheckpoint, PlainCommit
from benchmarks.rows import DISK, Row


@scenario("store", "Celery's backend classes: store the success of a task that has no result yet")
def store(bench: Bench) -> list[Row]:
    field = bench.open((*celery.EVERY, BareLMDB, BareLMDBCommit))
    blocks = {Key(name, "store"): partial(store_new, bench, peer) for name, peer in field.peers.items()}
    return field.rows(bench.interleave(blocks, bench.size(1, 20, 100)))


@scenario("progress", "Celery's backend classes: STARTED, then SUCCESS of the same task; the time is for both")
def progress(bench: Bench) -> list[Row]:
    field = bench.open((*celery.EVERY, BareLMDB, BareLMDBCommit))

    def block(peer: celery.CeleryPeer | BareLMDB) -> list[int]:
        requests = [peer.request(task_id) for task_id in new_ids(bench.operations(peer) // 2, bench.rng)]
        return time_each(peer.start_and_store, requests)

    blocks = {Key(name, "both"): partial(block, peer) for name, peer in field.peers.items()}
    return field.rows(bench.interleave(blocks, bench.size(1, 15, 100)))


@scenario("get", "Celery's backend classes: read an existing result, a missing one, and one in the client's cache")
def get(bench: Bench) -> list[Row]:
    field = bench.open((*celery.KINDS, BareLMDB))
    hits, misses, cached = {}, {}, {}
    for name, peer in field.peers.items():
        present = stored(peer, bench.size(4, 500, 2000), bench.rng)
        hits[Key(name, "hit")] = partial(get_any, bench, peer, present)
        misses[Key(name, "miss")] = partial(_get_missing, bench, peer)
        if isinstance(peer, celery.CeleryPeer):
            caching = type(peer)(field.folders[name], result_cache_max=len(present))
            bench.stack.callback(caching.close)
            cached[Key(name, "cached")] = partial(_get_cached, bench, caching, present)
    return field.rows(bench.interleave({**hits, **misses, **cached}, bench.size(1, 20, 100)), alike=True)


def store_new(bench: Bench, peer: Peer) -> list[int]:
    """Store new results."""
    requests = [peer.request(task_id) for task_id in new_ids(bench.operations(peer), bench.rng)]
    return time_each(peer.store, requests)


def get_any(bench: Bench, peer: Peer, present: list[str]) -> list[int]:
    """Read existing results."""
    return time_each(peer.get, bench.rng.choices(present, k=bench.size(4, 200, 200)))


def _get_missing(bench: Bench, peer: Peer) -> list[int]:
    return time_each(peer.get, new_ids(bench.size(4, 200, 200), bench.rng))


def _get_cached(bench: Bench, peer: celery.CeleryPeer, present: list[str]) -> list[int]:
    task_ids = bench.rng.choices(present, k=bench.size(4, 200, 200))
    for task_id in task_ids:
        peer.get_cached(task_id)
    return time_each(peer.get_cached, task_ids)


@scenario(
    "plain",
    "The backend without Celery, and the bare LMDB transaction that puts and gets the same bytes, in files that hold "
    "results already",
)
def plain(bench: Bench) -> list[Row]:
    return _stored_and_read(bench, bench.open((Plain, PlainCheckpoint, PlainCommit, BareLMDB, BareLMDBCommit)))


@scenario("bytes", "The store without a backend, and other stores of bytes: a key, the record of a result, 24 hours")
def as_bytes(bench: Bench) -> list[Row]:
    return _stored_and_read(bench, bench.open((*stores.EVERY, BareLMDB, BareLMDBCommit)))


def _stored_and_read(bench: Bench, field: Field) -> list[Row]:
    storing, reading = {}, {}
    for name, peer in field.peers.items():
        present = stored(peer, bench.size(10, 20_000, 20_000), bench.rng)
        storing[Key(name, "store")] = partial(store_new, bench, peer)
        if peer.durability != DISK and not isinstance(peer, PlainCheckpoint | stores.StoreCheckpoint):
            reading[Key(name, "get")] = partial(get_any, bench, peer, present)
    rounds = bench.size(1, 30, 100)
    written = field.rows(bench.interleave(storing, rounds))
    return [*written, *field.rows(bench.interleave(reading, rounds), alike=True)]


class OnePut(BareLMDB):
    """What LMDB does with a value of any size."""

    configuration = "py-lmdb transaction, sync=False, one put of the encoded text"

    def store_text(self, task_id: str, text: str) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.put(KEY_PREFIX + task_id.encode(), text.encode())

    def read_text(self, task_id: str) -> Any:
        with self.environment.begin() as transaction:
            return transaction.get(KEY_PREFIX + task_id.encode())


@scenario("large", "Celery's backend classes: store and read a text of so many bytes, as JSON", grows_with="bytes")
def large(bench: Bench) -> list[Row]:
    field = bench.open((*celery.KINDS, OnePut))
    rows: list[Row] = []
    for size in bench.size([10_000], [10_000, 1_000_000, 50_000_000], [10_000, 1_000_000, 50_000_000]):
        last: dict[str, str] = {}
        count = max(1, min(20, bench.size(40_000, 2_000_000, 20_000_000) // size))
        blocks = {
            Key(name, work, size): partial(block, bench, peer, "x" * size, last, count)
            for work, block in (("store", _store_text), ("get", _get_text))
            for name, peer in field.peers.items()
        }
        is_huge = size > 1 << 20
        samples = bench.interleave(
            blocks, bench.size(1, 2 if is_huge else 10, 5 if is_huge else 30), warm_up=not is_huge
        )
        rows += field.rows(samples)
    return rows


def _store_text(bench: Bench, peer: Any, text: str, last: dict[str, str], count: int) -> list[int]:
    task_ids = new_ids(count, bench.rng)
    last[peer.name] = task_ids[-1]
    if isinstance(peer, OnePut):
        return time_each(lambda task_id: peer.store_text(task_id, text), task_ids)
    requests = map(peer.request, task_ids)
    return time_each(lambda one: peer.backend.store_result(one.id, text, "SUCCESS", request=one), requests)


def _get_text(bench: Bench, peer: Any, text: str, last: dict[str, str], count: int) -> list[int]:
    get = peer.read_text if isinstance(peer, OnePut) else peer.get
    found = get(last[peer.name])
    if len(found if isinstance(peer, OnePut) else found["result"]) != len(text):
        raise RuntimeError(f"{peer.name} does not return what was stored")
    return time_each(get, [last[peer.name]] * count)
