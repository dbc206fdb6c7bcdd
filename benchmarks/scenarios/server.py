"""Results on a server, for those who have outgrown one machine: the same server, by lmdbresults and by Celery's own."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, scenario
from benchmarks.measure import Block, Key, time_each
from benchmarks.peers import celery
from benchmarks.peers.base import stored
from benchmarks.rows import OWN, Row
from benchmarks.scenarios.one_result import get_any, store_new


class OnServer(celery.Redis):
    """The Celery backend of lmdbresults over a Redis server."""

    @classmethod
    def url(cls, folder: Path, **_: str) -> str:
        return f"lmdbresults+unix://{folder}/redis.sock"

    def fill(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            self.store(self.request(task_id))

    def close(self) -> None:
        self.backend.close()


PEERS = (
    replace(
        celery.REDIS, name=OWN, client=OnServer, configuration="lmdbresults+unix://, a Redis server, nothing on disk"
    ),
    celery.REDIS,
)
#: Results that are read in one call.
MANY = 100


@scenario(
    "server",
    f"Celery's backend classes over a Redis server: store, read, read {MANY} in one call; each has its own server",
)
def server(bench: Bench) -> list[Row]:
    field = bench.open(PEERS)
    blocks: dict[Key, Block] = {}
    for name, client in field.clients.items():
        present = stored(client, bench.size(5, MANY, MANY), bench.rng)
        blocks[Key(name, "store")] = partial(store_new, bench, client)
        blocks[Key(name, "read")] = partial(get_any, bench, client, present, bench.size(4, 200, 200))
        blocks[Key(name, f"read {MANY}")] = partial(time_each, partial(_read_all, client), [present])
    return field.rows(bench.interleave(blocks, bench.size(1, 15, 60)))


def _read_all(client: Any, task_ids: list[str]) -> None:
    if sum(meta["status"] == "SUCCESS" for _, meta in client.backend.get_many(task_ids)) != len(task_ids):
        raise RuntimeError(f"{client.about.name} does not return all that was stored")
