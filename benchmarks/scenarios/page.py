"""The page of `lmdbresults web`: how long it takes to answer, and what a writer notices while it is open."""

import asyncio
import json
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import filling, measure
from benchmarks.bench import Bench, Field, scenario
from benchmarks.crew import Crew
from benchmarks.measure import Block, Key, time_each
from benchmarks.peers import plain
from benchmarks.peers.base import Peer
from benchmarks.rows import KILL, OWN, Row
from benchmarks.scenarios.sweep import pace
from lmdbresults.record import RECORD_VERSION, Payload, TaskRecord
from lmdbresults.store import LMDBStore, WriteTransaction, open_store

FILE = "page.lmdb"
HOST = {"type": "http", "method": "GET", "scheme": "http", "root_path": "", "headers": [(b"host", b"localhost")]}
#: What is asked for, and how.
PAGES = {
    "overview": ("/", b""),
    "newest 100": ("/tasks", b""),
    "newest 100 failures of a name": ("/tasks", b"state=FAILURE&name=proj.task_3"),
    "100 by text": ("/tasks", b"text=ab"),
    "one task": ("/task", f"id={filling.random_id(1)}".encode()),
}
WRITER = replace(
    plain.NONE, name="writer, page open", configuration=f"{plain.NONE.configuration}; the overview in a browser",
    options={**plain.NONE.options, "file": FILE},
)  # fmt: skip
ALONE = replace(WRITER, name="writer", configuration=plain.NONE.configuration)


@scenario(
    "page",
    "A page of lmdbresults web, made again by the server; and the stores of a worker while the overview is open in a "
    "browser that shows every change",
    grows_with="stored results",
)
def page(bench: Bench) -> list[Row]:
    own = Peer(name=OWN, configuration="Starlette, without HTTP", durability=KILL, client=plain.Plain)
    blocks: dict[Key, Block] = {}
    for count in bench.size([300], [10_000, 100_000], [10_000, 100_000], [10_000, 100_000, 1_000_000]):
        folder = bench.folder / str(count)
        folder.mkdir()
        store = bench.stack.enter_context(open_store(folder / FILE, durability="none", max_size=8 << 30))
        fill(store, count)
        for work, (path, query) in PAGES.items():
            ask = partial(answered, store, path, query)
            blocks[Key(OWN, work, count)] = partial(time_each, ask, range(bench.size(1, 3, 5)))
    rows = Field({OWN: own}).rows(bench.interleave(blocks, bench.size(1, 3, 5)), alike=True)
    return [*rows, *beside_a_writer(bench)]


def fill(store: LMDBStore, count: int) -> None:
    """Store results of some names, over a day."""
    now = datetime.now(timezone.utc)
    records = [_record(number, now - timedelta(seconds=number * 86)) for number in range(1000)]

    def put(txn: WriteTransaction, numbers: range) -> None:
        for id_, number in sorted((filling.random_id(number), number) for number in numbers):
            txn.set(b"celery-task-meta-" + id_.encode(), records[number % 1000], filling.DAY)

    for start in range(0, count, filling.BATCH):
        store.update(partial(put, numbers=range(start, min(start + filling.BATCH, count))))


def _record(number: int, ended: datetime) -> bytes:
    payload = Payload("application/json", "utf-8", None, b"true", json.dumps({"args": [number], "kwargs": {}}).encode())
    traceback = 'Traceback (most recent call last):\n  File "x.py"\nValueError: no\n' if number % 20 == 3 else None
    state = "FAILURE" if traceback else "SUCCESS"
    name, worker = f"proj.task_{number % 10}", f"worker{number % 3}@host"
    return TaskRecord(
        RECORD_VERSION, state, ended.isoformat(), name, worker, "celery", 0, None, None, [], traceback, payload
    ).pack()


def answered(store: LMDBStore, path: str, query: bytes, number: int) -> None:
    """Ask a new application for a page, so that it has nothing in memory."""
    from lmdbresults.web import create_app

    app, status = create_app(store), list[int]()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(app({**HOST, "path": path, "query_string": query}, receive, send))
    assert status == [200], f"{path} answers {status}"


# -- beside a writer ---------------------------------------------------------------------------------------------------


def beside_a_writer(bench: Bench) -> list[Row]:
    """Return rows of a writer's stores, with a page and without, in turns."""
    folder = bench.folder / "beside"
    folder.mkdir()
    with open_store(folder / FILE, durability="none", max_size=8 << 30) as store:
        fill(store, bench.size(300, 10_000, 100_000))
    field = Field({about.name: about for about in (ALONE, WRITER)}, dict.fromkeys((ALONE.name, WRITER.name), folder))
    crew, seconds = Crew(bench, 1), bench.size(0.05, 2.0, 5.0)
    alone: list[Sequence[float]] = []
    watched: list[Sequence[float]] = []
    memory = 0.0
    for _ in range(bench.size(1, 4, 4)):
        alone.append(crew.run(1, pace, field, ALONE.name, seconds, "")[0])
        with open_page(folder / FILE) as peak:
            watched.append(crew.run(1, pace, field, WRITER.name, seconds, "")[0])
            memory = max(memory, peak())
    work, before, during = "a worker's store", measure.summary(alone), measure.summary(watched)
    ratios = [_median(mine) / _median(other) for mine, other in zip(watched, alone, strict=True)]
    note = f"p50 {statistics.median(ratios):.2f} x that without a page; the server takes {memory:.0f} MB"
    return [
        field.row(ALONE.name, work, None, **before),
        field.row(WRITER.name, work, None, **during, note=note),
    ]


def _median(times: Sequence[float]) -> float:
    return statistics.median(times)


@contextmanager
def open_page(file: Path) -> Iterator[Callable[[], float]]:
    """Serve the page, and show its overview as a browser does; yields what returns the server's peak memory in MB."""
    command = [sys.executable, "-m", "lmdbresults", "web", str(file), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+:\d+", server.stdout.readline())
        assert found is not None, "the page is not served"
        urllib.request.urlopen(found[0]).read()
        stop = threading.Event()
        browser = threading.Thread(target=browse, args=(found[0], stop), daemon=True)
        browser.start()
        yield partial(_peak, server.pid)
        stop.set()
        server.terminate()
        browser.join(10)


def browse(address: str, stop: threading.Event) -> None:
    """Ask for the overview whenever the server says that something has changed, at most as often as page.js does."""
    with suppress(OSError):
        for line in urllib.request.urlopen(f"{address}/events"):
            if stop.is_set():
                break
            if line.startswith(b"event: changed"):
                began = time.monotonic()
                urllib.request.urlopen(address).read()
                stop.wait(max(0.3, 10 * (time.monotonic() - began)))


def _peak(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1000 if found else 0.0
