"""How long a waiter sleeps after its result was stored, and what waiting costs.

The waiter orders a result and waits; two milliseconds later another process stores it. Peers take turns after every
result, so that their code and data have left the processor's caches, as in a program that does other work. Both
processes read CLOCK_MONOTONIC, which is the same in all processes.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Field, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Key
from benchmarks.peers import bare, celery, plain, stores
from benchmarks.peers.base import RESULT, Client, Peer, new_ids
from benchmarks.rows import OWN, Row
from lmdbresults.backends import LMDBBackend
from lmdbresults.errors import ResultTimeout

#: Seconds from the order to the store, for the waiter to fall asleep.
PAUSE = 0.002

now = time.monotonic_ns


class PlainFromCommit(plain.Plain):
    """Notes when the commit is done and the wake-ups are about to be sent."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.committed = 0
        notifier: Any = self.backend.store._notifier
        send = notifier.send

        def send_from_now(*changes: Any) -> None:
            self.committed = now()
            send(*changes)

        notifier.send = send_from_now


class RedisFromPublish(stores.RedisPubSub):
    """Notes when the result is set and the PUBLISH is about to be sent."""

    def store(self, request: dict[str, Any]) -> object:
        key, meta = self.message(request)
        self.client.setex(key, 86_400, meta)
        self.committed = now()
        return self.client.publish(key, meta)


FROM_COMMIT = "commit to awake"
WORKS: Mapping[str, Sequence[Peer]] = {
    "store_result() to wait_for()": (plain.NONE, stores.PUBSUB, bare.WAKE_UP),
    "store_result() to AsyncResult.get()": (celery.NONE, celery.REDIS, bare.WAKE_UP),
    FROM_COMMIT: (
        replace(plain.NONE, client=PlainFromCommit),
        replace(
            stores.PUBSUB, client=RedisFromPublish, configuration="redis-py, SETEX, then PUBLISH of the meta as JSON"
        ),
        bare.WAKE_UP,
    ),
}


@scenario(
    "wakeups",
    "From the call of store_result() until a waiter in another process has the decoded result, without and with "
    "Celery; and from the commit, or PUBLISH, on",
)
def wakeups(bench: Bench) -> list[Row]:
    crew, fields, blocks = Crew(bench, 1), {}, {}
    for number, (work, peers) in enumerate(WORKS.items()):
        fields[work] = field = bench.open(peers, group=str(number))
        for name, client in field.clients.items():
            blocks[Key(name, work)] = partial(_wake, bench, crew, field, name, client, work == FROM_COMMIT)
    samples = bench.interleave(blocks, bench.size(3, 500, 1000))
    return [
        row
        for work, field in fields.items()
        for row in field.rows({key: samples[key] for key in samples if key.work == work}, alike=True)
    ]


def _wake(bench: Bench, crew: Crew, field: Field, name: str, client: Client, from_commit: bool) -> list[int]:
    """Wait for a result that another process stores."""
    (task_id,) = new_ids(1, bench.rng)
    client.prepare_wait(task_id)
    pipes = crew.start(1, store, field, name, task_id, from_commit, lead=PAUSE)
    result = client.wait(task_id)
    awake = now()
    if result != RESULT:
        raise RuntimeError(f"{name} does not return what was stored")
    return [awake - crew.collect(pipes)[0]]


def store(client: Any, number: int, task_id: str, from_commit: bool) -> int:
    """Store the result; return the time from which the waiter's is counted."""
    request = client.request(task_id)
    start = now()
    client.store(request)
    return client.committed if from_commit else start


@scenario("idle", "The cost of waiting for so many results that are not stored, by get_many()", grows_with="results")
def idle(bench: Bench) -> list[Row]:
    count, seconds = bench.size(10, 1_000, 10_000), bench.size(0.1, 3.0, 10.0)
    backend = LMDBBackend(bench.folder / "idle.lmdb", options={"durability": "none"})
    settling = seconds / 3
    arguments = backend, new_ids(count, bench.rng), settling + seconds + 0.5
    thread = threading.Thread(target=_wait_in_vain, args=arguments)
    thread.start()
    time.sleep(settling)
    start = time.process_time()
    time.sleep(seconds)
    share = (time.process_time() - start) / seconds
    thread.join()
    backend.process_cleanup()
    field = Field({OWN: plain.NONE})
    return [field.row(OWN, "waiting", count, unit="% of a core", median=share * 100)]


def _wait_in_vain(backend: LMDBBackend, task_ids: Sequence[str], timeout: float) -> None:
    with suppress(ResultTimeout):
        list(backend.get_many(task_ids, timeout=timeout))
