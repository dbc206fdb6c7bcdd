"""One result without Celery: the backend beside the bare transaction, and the store beside other stores of bytes."""

from functools import partial

from benchmarks.bench import Bench, Field, scenario
from benchmarks.measure import Key, time_each
from benchmarks.peers import stores
from benchmarks.peers.base import Peer, new_ids, stored
from benchmarks.peers.limit import Limit, LimitCommit
from benchmarks.peers.plain import Plain, PlainCheckpoint, PlainCommit
from benchmarks.rows import DISK, Row


@scenario(
    "plain",
    "The backend without Celery beside the bare LMDB transaction that puts and gets the same bytes, in files that hold "
    "results already",
)
def plain(bench: Bench) -> list[Row]:
    field = bench.open((Plain, PlainCheckpoint, PlainCommit, Limit, LimitCommit))
    return _compared(bench, field, beside=bench.size(10, 20_000, 20_000))


@scenario("bytes", "The store itself, 24 hours to live, beside other stores of bytes: a key and the record of a result")
def store(bench: Bench) -> list[Row]:
    field = bench.open((*stores.EVERY, Limit, LimitCommit))
    return _compared(bench, field, beside=bench.size(10, 20_000, 20_000))


def _compared(bench: Bench, field: Field, beside: int) -> list[Row]:
    storing, reading = {}, {}
    for name, peer in field.peers.items():
        there = stored(peer, beside, bench.rng)
        storing[Key(name, "store")] = partial(_store, bench, peer)
        if peer.durability != DISK and not isinstance(peer, PlainCheckpoint | stores.OurStoreCheckpoint):
            reading[Key(name, "get")] = partial(_get, bench, peer, there)
    rounds = bench.size(1, 30, 100)
    return [
        *field.rows(bench.interleave(storing, rounds)),
        *field.rows(bench.interleave(reading, rounds), alike=True),
    ]


def _store(bench: Bench, peer: Peer) -> list[int]:
    requests = [peer.request(task_id) for task_id in new_ids(bench.operations(peer), bench.rng)]
    return time_each(peer.store, requests)


def _get(bench: Bench, peer: Peer, there: list[str]) -> list[int]:
    return time_each(peer.get, bench.rng.choices(there, k=bench.operations(peer)))
