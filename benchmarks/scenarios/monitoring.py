"""What it takes to look into a file: lists, searches and figures, beside a plain scan of all results."""

import heapq
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Field, scenario
from benchmarks.filling import BATCH, DAY, random_id
from benchmarks.measure import Key
from benchmarks.peers.base import KEY_PREFIX, Peer
from benchmarks.peers.plain import Plain
from benchmarks.rows import KILL, OWN, Row
from lmdbresults import open_backend, open_store
from lmdbresults.monitoring import Filters, Monitor
from lmdbresults.record import RECORD_VERSION, pack_fields
from lmdbresults.store.base import WriteTransaction

_NAMES = ("app.tasks.add", "app.tasks.mail", "app.tasks.resize", "app.tasks.report", "app.tasks.fetch")
_SCAN = "iter_results()"
_TRACEBACK = (
    'Traceback (most recent call last):\n  File "app.py", line 1, in mail\n    send()\nValueError: no such user\n'
)
_PEERS = (
    Peer(name=OWN, configuration="Monitor", durability=KILL, client=Plain),
    Peer(
        name=_SCAN, configuration="reads the head of every result, verified, in Python", durability=KILL, client=Plain
    ),
)
_WORKS: dict[str, Callable[[Monitor], object]] = {
    "the newest 100": lambda monitor: monitor.tasks(limit=100),
    "the newest 100 of a name": lambda monitor: monitor.tasks(Filters(name=_NAMES[1]), limit=100),
    "the newest 100 failures": lambda monitor: monitor.tasks(Filters(states=frozenset({"FAILURE"})), limit=100),
    "search in names and ids": lambda monitor: monitor.tasks(Filters(text="7f3a9"), limit=100),
    "overview": lambda monitor: monitor.overview(),
}


@scenario(
    "monitoring",
    "Look into a file with so many results of five tasks, 3 % of them failures, that ended within a day",
    grows_with="results",
)
def monitoring(bench: Bench) -> list[Row]:
    field, blocks = Field({about.name: about for about in _PEERS}), {}
    for count in bench.size([200], [10_000, 100_000], [10_000, 100_000, 1_000_000]):
        path = bench.folder / f"{count}.lmdb"
        _fill(bench, path, count)
        store, backend = open_store(path, durability="none"), open_backend(path, durability="none")
        bench.stack.callback(store.close)
        bench.stack.callback(backend.process_cleanup)
        for work, look in _WORKS.items():
            blocks[Key(OWN, work, count)] = partial(_timed, partial(look, Monitor(store)))
        blocks[Key(_SCAN, "the newest 100", count)] = partial(_timed, partial(_newest, backend))
    return field.rows(bench.interleave(blocks, bench.size(1, 3, 3), warm_up=bench.mode != "tiny"), alike=True)


def _timed(look: Callable[[], object]) -> list[int]:
    start = time.perf_counter_ns()
    look()
    return [time.perf_counter_ns() - start]


def _newest(backend: Any) -> object:
    return heapq.nlargest(100, backend.iter_results(), key=lambda listed: listed.date_done)


def _fill(bench: Bench, path: Path, count: int) -> None:
    """Store results as Celery does with ``result_extended``."""
    now = datetime.now(timezone.utc)
    with open_store(path, durability="none") as store:
        for start in range(0, count, BATCH):
            bench.step(f"filling {start:,} of {count:,}")
            numbers = range(start, min(start + BATCH, count))
            records = sorted((random_id(number), _record(bench, now, number)) for number in numbers)
            store.update(partial(_store, records))


def _store(records: list[tuple[str, bytes]], txn: WriteTransaction) -> None:
    for task_id, record in records:
        txn.set(KEY_PREFIX + task_id.encode(), record, DAY)


def _record(bench: Bench, now: datetime, number: int) -> bytes:
    has_failed = bench.rng.random() < 0.03
    ended = (now - timedelta(seconds=bench.rng.random() * DAY)).isoformat(timespec="microseconds")
    body = b'{"exc_type": "ValueError", "exc_message": ["no such user"]}' if has_failed else b'{"answer": %d}' % number
    payload = ("application/json", "utf-8", None, body, b'{"args": [1, 2], "kwargs": {}}')
    call = (bench.rng.choice(_NAMES), f"celery@worker-{number % 4}", "celery", 0)
    state, traceback = ("FAILURE", _TRACEBACK) if has_failed else ("SUCCESS", None)
    return pack_fields((RECORD_VERSION, state, ended, *call, None, None, [], traceback, payload))
