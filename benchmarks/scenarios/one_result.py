"""One result in one process: through Celery's backend classes, without Celery, and as bytes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.bench import Bench, Field, scenario
from benchmarks.measure import Key, time_each
from benchmarks.peers import bare, celery, plain, stores
from benchmarks.peers.base import KEY_PREFIX, Client, new_ids, stored
from benchmarks.rows import BOUNDED, DISK, OWN, Row


@scenario("store", "Celery's backend classes: store the success of a task that has no result yet")
def store(bench: Bench) -> list[Row]:
    field = bench.open((*celery.EVERY, bare.NONE, bare.COMMIT))
    blocks = {Key(name, "store"): partial(store_new, bench, client) for name, client in field.clients.items()}
    return field.rows(bench.interleave(blocks, bench.size(1, 20, 30)))


@scenario("progress", "Celery's backend classes: STARTED, then SUCCESS of the same task; the time is for both")
def progress(bench: Bench) -> list[Row]:
    field = bench.open((*celery.EVERY, bare.NONE, bare.COMMIT))

    def block(client: Any) -> list[int]:
        requests = [client.request(task_id) for task_id in new_ids(bench.operations(client.about) // 2, bench.rng)]
        return time_each(client.start_and_store, requests)

    blocks = {Key(name, "both"): partial(block, client) for name, client in field.clients.items()}
    return field.rows(bench.interleave(blocks, bench.size(1, 15, 20)))


@scenario("get", "Celery's backend classes: read an existing result, a missing one, and one in the client's cache")
def get(bench: Bench) -> list[Row]:
    field = bench.open((*celery.KINDS, bare.NONE))
    count = bench.size(4, 200, 200)
    hits, misses, cached = {}, {}, {}
    for name, client in field.clients.items():
        present = stored(client, bench.size(4, 500, 2000), bench.rng)
        hits[Key(name, "hit")] = partial(get_any, bench, client, present, count)
        misses[Key(name, "miss")] = lambda client=client: time_each(client.get, new_ids(count, bench.rng))
        if isinstance(client, celery.Backend):
            caching = client.about.open(client.folder, settings={"result_cache_max": len(present)})
            bench.stack.callback(caching.close)
            cached[Key(name, "cached")] = partial(_get_cached, bench, caching, present, count)
    return field.rows(bench.interleave({**hits, **misses, **cached}, bench.size(1, 20, 40)), alike=True)


def store_new(bench: Bench, client: Client) -> list[int]:
    """Store new results."""
    requests = [client.request(task_id) for task_id in new_ids(bench.operations(client.about), bench.rng)]
    return time_each(client.store, requests)


def get_any(bench: Bench, client: Client, present: list[str], count: int) -> list[int]:
    """Read existing results."""
    return time_each(client.get, bench.rng.choices(present, k=count))


def _get_cached(bench: Bench, client: celery.Backend, present: list[str], count: int) -> list[int]:
    task_ids = bench.rng.choices(present, k=count)
    for task_id in task_ids:
        client.get_cached(task_id)
    return time_each(client.get_cached, task_ids)


@scenario(
    "plain",
    "The backend without Celery, and the bare LMDB transaction that puts and gets the same bytes, in files that hold "
    "results already",
)
def as_plain(bench: Bench) -> list[Row]:
    return _stored_and_read(bench, bench.open((*plain.EVERY, bare.NONE, bare.COMMIT)))


@scenario("bytes", "The store without a backend, and other stores of bytes: a key, the record of a result, 24 hours")
def as_bytes(bench: Bench) -> list[Row]:
    return _stored_and_read(bench, bench.open((*stores.EVERY, bare.NONE, bare.COMMIT)))


def _stored_and_read(bench: Bench, field: Field) -> list[Row]:
    storing: dict[Key, Callable[[], list[int]]] = {}
    reading: dict[Key, Callable[[], list[int]]] = {}
    for name, client in field.clients.items():
        present = stored(client, bench.size(10, 20_000, 20_000), bench.rng)
        storing[Key(name, "store")] = partial(store_new, bench, client)
        is_read_alike = client.about.durability == DISK or (name.startswith(OWN) and client.about.durability == BOUNDED)
        if not is_read_alike:
            reading[Key(name, "get")] = partial(get_any, bench, client, present, bench.size(4, 200, 200))
    rounds = bench.size(1, 30, 100)
    written = field.rows(bench.interleave(storing, rounds))
    return [*written, *field.rows(bench.interleave(reading, rounds), alike=True)]


class OnePut(bare.BareLMDB):
    """What LMDB does with a value of any size."""

    def store_text(self, task_id: str, text: str) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.put(KEY_PREFIX + task_id.encode(), text.encode())

    def get_text(self, task_id: str) -> Any:
        with self.environment.begin() as transaction:
            return transaction.get(KEY_PREFIX + task_id.encode())


ONE_PUT = replace(
    bare.NONE, client=OnePut, configuration="py-lmdb transaction, sync=False, one put of the encoded text"
)


@scenario("large", "Celery's backend classes: store and read a text of so many bytes, as JSON", grows_with="bytes")
def large(bench: Bench) -> list[Row]:
    field = bench.open((*celery.KINDS, ONE_PUT))
    rows: list[Row] = []
    for size in bench.size([10_000], [10_000, 1_000_000, 50_000_000], [10_000, 1_000_000, 50_000_000]):
        last: dict[str, str] = {}
        count = max(1, min(20, bench.size(40_000, 2_000_000, 20_000_000) // size))
        blocks = {
            Key(name, work, size): partial(block, bench, client, "x" * size, last, count)
            for work, block in (("store", _store_text), ("get", _get_text))
            for name, client in field.clients.items()
        }
        is_huge = size > 1 << 20
        samples = bench.interleave(
            blocks, bench.size(1, 2 if is_huge else 10, 3 if is_huge else 10), warm_up=not is_huge
        )
        rows += field.rows(samples)
    return rows


def _store_text(bench: Bench, client: Any, text: str, last: dict[str, str], count: int) -> list[int]:
    task_ids = new_ids(count, bench.rng)
    last[client.about.name] = task_ids[-1]
    if isinstance(client, OnePut):
        return time_each(lambda task_id: client.store_text(task_id, text), task_ids)
    requests = map(client.request, task_ids)
    return time_each(lambda one: client.backend.store_result(one.id, text, "SUCCESS", request=one), requests)


def _get_text(bench: Bench, client: Any, text: str, last: dict[str, str], count: int) -> list[int]:
    is_bare = isinstance(client, OnePut)
    get = client.get_text if is_bare else client.get
    found = get(last[client.about.name])
    if len(found if is_bare else found["result"]) != len(text):
        raise RuntimeError(f"{client.about.name} does not return what was stored")
    return time_each(get, [last[client.about.name]] * count)
