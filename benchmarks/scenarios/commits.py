"""Results that are on disk before the call returns, from several processes and threads at once."""

import threading
import time
from dataclasses import replace
from itertools import chain
from statistics import median
from typing import NamedTuple

from benchmarks.bench import Bench, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Key, Rounds
from benchmarks.peers import bare, celery
from benchmarks.peers.base import Client
from benchmarks.rows import OWN_ROW, Row
from benchmarks.scenarios.processes import storing

#: SQLite is not among them: of eight writers that wait for its lock, one may wait for seconds (`sustained` shows it).
PEERS = (celery.COMMIT, celery.REDIS_ALWAYS, bare.COMMIT)


class Crowd(NamedTuple):
    """Writers at the same time."""

    processes: int
    threads: int
    per_second: int = 0
    """Stores of each thread; 0: as many as it can."""

    def __str__(self) -> str:
        pace = f", {self.per_second} a second each" if self.per_second else ""
        return f"{self.processes} x {self.threads}{pace}"


CROWDS = (Crowd(1, 1), Crowd(2, 1), Crowd(4, 1), Crowd(1, 8), Crowd(4, 8), Crowd(1, 1, 100), Crowd(4, 1, 100))


@scenario(
    "commits",
    "Celery's backend classes, each result on disk before the call returns: processes x threads that store at the same "
    "time; the rate is that of all together",
)
def commits(bench: Bench) -> list[Row]:
    field = bench.serve(PEERS)
    crowds = [Crowd(1, 1), Crowd(2, 2)] if bench.mode == "tiny" else CROWDS
    crew, seconds = Crew(bench, max(crowd.processes for crowd in crowds)), bench.size(0.05, 0.4, 1.0)
    keys = {Key(name, str(crowd)): crowd for crowd in crowds for name in field.folders}
    times: dict[Key, Rounds] = {key: [] for key in keys}
    rates: dict[Key, list[float]] = {key: [] for key in keys}
    for _ in bench.rounds(bench.size(1, 3, 5)):
        for key in bench.rng.sample(list(keys), len(keys)):
            found = crew.run(keys[key].processes, store, field, key.peer, keys[key], bench.rng.random(), seconds)
            times[key].append(list(chain.from_iterable(found)))
            rates[key].append(sum(map(len, found)) / seconds)
    rows = [
        replace(row, rate=median(rates[Key(row.peer, row.work)])) if row.median else row for row in field.rows(times)
    ]
    own = {row.work: row.rate for row in rows if row.peer == OWN_ROW[row.durability]}
    return [replace(row, to_own=_ratio(own.get(row.work), row.rate)) for row in rows]


def _ratio(own: float | None, rate: float | None) -> float | None:
    """Return how many times as many lmdbresults stores."""
    return own / rate if own and rate else None


def store(client: Client, number: int, crowd: Crowd, seed: float, seconds: float) -> list[int]:
    """Store new results in threads; return the nanoseconds of each."""
    until, found = time.monotonic() + seconds, list[int]()

    def work(thread: int) -> None:
        for took in storing(client, hash((seed, number, thread)), crowd.per_second):
            found.append(took)
            if time.monotonic() > until:
                return

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(crowd.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
