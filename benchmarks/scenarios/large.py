"""Large results."""

from functools import partial
from typing import Any

from benchmarks.bench import Bench, scenario
from benchmarks.measure import Key, time_each
from benchmarks.peers import celery
from benchmarks.peers.base import KEY_PREFIX, new_ids
from benchmarks.peers.limit import Limit
from benchmarks.rows import Row


class OnePut(Limit):
    """What LMDB itself does with a value of any size."""

    configuration = "bare py-lmdb transaction, sync=False: one put of the encoded text"

    def store_text(self, task_id: str, text: str) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.put(KEY_PREFIX + task_id.encode(), text.encode())

    def read_text(self, task_id: str) -> Any:
        with self.environment.begin() as transaction:
            return transaction.get(KEY_PREFIX + task_id.encode())


@scenario("large", "Celery's backend classes: store and read a text of so many bytes, as JSON", grows_with="bytes")
def large(bench: Bench) -> list[Row]:
    field = bench.open((*celery.KINDS, OnePut))
    largest = bench.size(100_000, 50_000_000, 50_000_000)
    rows: list[Row] = []
    for size in (10_000, 1_000_000, 50_000_000):
        if size > largest:
            continue
        stored: dict[str, str] = {}
        count = max(1, min(20, bench.size(40_000, 2_000_000, 20_000_000) // size))
        blocks = {
            Key(name, work, size): partial(block, bench, peer, "x" * size, stored, count)
            for work, block in (("store", _store), ("get", _get))
            for name, peer in field.peers.items()
        }
        few = size > 1 << 20
        samples = bench.interleave(blocks, bench.size(1, 2 if few else 10, 5 if few else 30), warm_up=not few)
        rows += field.rows(samples)
    return rows


def _store(bench: Bench, peer: Any, text: str, stored: dict[str, str], count: int) -> list[int]:
    task_ids = new_ids(count, bench.rng)
    stored[peer.name] = task_ids[-1]
    if isinstance(peer, OnePut):
        return time_each(lambda task_id: peer.store_text(task_id, text), task_ids)
    requests = map(peer.request, task_ids)
    return time_each(lambda one: peer.backend.store_result(one.id, text, "SUCCESS", request=one), requests)


def _get(bench: Bench, peer: Any, text: str, stored: dict[str, str], count: int) -> list[int]:
    get = peer.read_text if isinstance(peer, OnePut) else peer.get
    found = get(stored[peer.name])
    if len(found if isinstance(peer, OnePut) else found["result"]) != len(text):
        raise RuntimeError(f"{peer.name} does not return what was stored")
    return time_each(get, [stored[peer.name]] * count)
