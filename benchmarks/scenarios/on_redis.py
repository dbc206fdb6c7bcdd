"""What moving to a server keeps: lmdbresults over Redis, and Celery's own backend for Redis, each on its own server."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Field, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Key
from benchmarks.peers import celery
from benchmarks.peers.base import stored
from benchmarks.rows import OWN, Row
from benchmarks.scenarios.chords import CeleryChords, RedisChords, run_chord
from benchmarks.scenarios.many_results import _get_many
from benchmarks.scenarios.one_result import get_any, store_new
from benchmarks.scenarios.wakeups import _wake


class OverRedis(CeleryChords, celery.Redis):
    """Our backend for Celery over a server."""

    @classmethod
    def url(cls, folder: Path, **_: str) -> str:
        return f"lmdbresults+unix://{folder}/redis.sock"

    def fill(self, task_ids: Any) -> None:
        """Store copies of the first one's record, in one pipeline."""
        first, *others = task_ids
        self.store(self.request(first))
        store, key_of = self.backend.store, self.backend.records.key
        value = store.get(key_of(first))
        store.replace_many([(key_of(task_id), None, value, 86_400.0) for task_id in others])

    def close(self) -> None:
        self.backend.close()


PEERS = (
    replace(celery.REDIS, name=OWN, configuration="lmdbresults+unix://, nothing written to disk", client=OverRedis),
    replace(celery.REDIS, client=RedisChords),
)


@scenario("redis", "Celery's results on Redis: through lmdbresults+redis://, and through Celery's own backend")
def on_redis(bench: Bench) -> list[Row]:
    crew, field = Crew(bench, 1), bench.open(PEERS)
    many, parts = bench.size(20, 10_000, 10_000), bench.size(3, 100, 1_000)
    blocks: dict[Key, Any] = {}
    for name, client in field.clients.items():
        present = stored(client, many, bench.rng)
        blocks[Key(name, "store")] = partial(store_new, bench, client)
        blocks[Key(name, "get")] = partial(get_any, bench, client, present, bench.size(4, 200, 200))
        blocks[Key(name, f"get_many of {many:,}")] = partial(_get_many, client, present)
        blocks[Key(name, f"part of a chord of {parts:,}")] = partial(_chord, bench, client, parts)
    waiting = bench.open(PEERS, group="waiting")  # a client of its own: Celery's still follows what it has read
    for name, client in waiting.clients.items():
        blocks[Key(name, "wake-up")] = partial(_wake_ups, bench, crew, waiting, name, client)
    return field.rows(bench.interleave(blocks, bench.size(1, 15, 15)), alike=True)


def _wake_ups(bench: Bench, crew: Crew, field: Field, name: str, client: Any) -> list[int]:
    return [took for _ in range(bench.size(1, 20, 20)) for took in _wake(bench, crew, field, name, client, False)]


def _chord(bench: Bench, client: Any, parts: int) -> list[float]:
    """Return the time of a part, the end of the chord included."""
    took = run_chord(client, parts, bench.rng)
    return [(took.parts + took.end) / parts]
