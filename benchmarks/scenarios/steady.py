"""The steady state: for each result that is stored, one expires.

Each peer runs alone, in a process of its own. It begins with as many results as it keeps; they expire one after the
other. lmdbresults and bare LMDB read a clock that shows a thousand stores a second, however long they take. Redis
expires by the real time: its TTL is how long it takes to store as many results as it keeps. Celery deletes from SQLite
and files only in ``cleanup()``, which beat calls once a day, the default time to live; here it is called once a
lifetime, and its time counts.
"""

import shutil
import sqlite3
import time
from array import array
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from heapq import heappop, heappush
from itertools import cycle
from pathlib import Path
from random import Random
from struct import Struct
from typing import Any, ClassVar

from benchmarks import filling, measure
from benchmarks.bench import Bench, scenario
from benchmarks.crew import Crew
from benchmarks.filling import Expiring
from benchmarks.measure import CPU, Key, disk_usage
from benchmarks.peers import bare, celery
from benchmarks.peers.bare import Pair
from benchmarks.peers.base import Client, Peer
from benchmarks.rows import LOOKS, OWN, Row, with_ratios
from lmdbresults.integrations.celery import LMDBBackend
from lmdbresults.store.lmdb import LMDBStore, open_store

#: Seconds between two stores, by the clock of lmdbresults and bare LMDB.
TICK = 0.001
#: Of a record in bare LMDB.
DEADLINE = Struct(">d")
#: After so many a row is complete.
LIFETIMES = 10
#: How much longer lmdbresults may take, to see its expired share over several lifetimes.
LONGER = 3

# -- the peers ---------------------------------------------------------------------------------------------------------


class Steady:
    """What the scenario asks of a peer, besides storing."""

    folder: Path
    time = 0.0
    ttl = 0.0

    def begin(self, kept: int) -> list[float]:
        """Fill the store with results that expire one by one; return their deadlines."""
        self.set_ttl(self.lifetime(kept))
        start = self.now()
        results = [(filling.random_id(number), self.ttl * (number + 1) / kept) for number in range(kept)]
        self.fill_with(results)
        return [start + ttl for _, ttl in results]

    def fill_with(self, results: list[Expiring]) -> None:
        """Store copies of one result."""
        raise NotImplementedError

    def lifetime(self, kept: int) -> float:
        """Return the seconds in which so many results are stored."""
        return kept * TICK

    def set_ttl(self, ttl: float) -> None:
        """Let results expire after so many seconds."""
        self.ttl = ttl

    def now(self) -> float:
        """Return the time by which results expire."""
        return self.time

    def tick(self) -> None:
        """Let the time of one store pass."""
        self.time += TICK

    def clean(self) -> None:
        """Delete what has expired, once a lifetime; peers that do so as they store need nothing."""

    def present(self) -> int:
        """Return the number of results, expired ones included."""
        raise NotImplementedError

    def written(self) -> int:
        """Return the bytes written to files so far."""
        return written_by("self")

    def served(self) -> float:
        """Return the seconds of processor time that a server has taken so far."""
        return 0.0

    def size(self) -> int:
        """Return the bytes on disk."""
        return disk_usage(self.folder)


def written_by(process: int | str) -> int:
    """Return the bytes that a process has passed to write()."""
    return int(Path(f"/proc/{process}/io").read_text().partition("wchar: ")[2].split()[0])


class Clocked(LMDBBackend):
    """The Celery backend with a clock of the scenario."""

    def _open(self, url: str | None, options: Any) -> LMDBStore:
        self.time = time.time()
        return open_store(url or "", **options, clock=lambda: self.time)


class Ours(Steady, celery.LMDBResults):
    """Expired results are deleted by those that store."""

    @cached_property
    def backend(self) -> Any:
        backend = Clocked(app=self.app, url=self.app.conf.result_backend)
        self.time = backend.time
        return backend

    def set_ttl(self, ttl: float) -> None:
        self.ttl = self.backend.expires = ttl

    def tick(self) -> None:
        self.backend.time = self.time = self.time + TICK

    def fill_with(self, results: list[Expiring]) -> None:
        filling.fill(self, results)

    def present(self) -> int:
        return int(self.backend.store.stats().records)

    def progress(self, request: Any) -> None:
        """Store STARTED, three states of progress, and SUCCESS."""
        for state in ("STARTED", *["PROGRESS"] * 3):
            self.backend.store_result(request.id, {"pid": 1, "hostname": "w"}, state, request=request)
        self.store(request)


class Redis(Steady, celery.Redis):
    """Expires by the real time: samples ten times a second."""

    def now(self) -> float:
        return time.time()

    def tick(self) -> None:
        """Nothing: time passes by itself."""

    def lifetime(self, kept: int) -> float:
        count, start = min(kept, 500), time.time()
        for number in range(count):
            self.store(self.request(f"calibration {number}"))
        return max(1, round((time.time() - start) / count * kept))  # SETEX takes whole seconds

    def set_ttl(self, ttl: float) -> None:
        self.ttl = self.backend.expires = int(ttl)

    def fill_with(self, results: list[Expiring]) -> None:
        key_of, client = self.backend.get_key_for_task, self.backend.client
        self.store(self.request("any"))
        value = client.get(key_of("any"))
        client.flushall()
        for batch in filling.batches(results):
            with client.pipeline(transaction=False) as pipe:
                for task_id, ttl in batch:
                    pipe.set(key_of(task_id), value, px=max(1, round(ttl * 1000)))
                pipe.execute()

    def present(self) -> int:
        return int(self.backend.client.dbsize())

    def written(self) -> int:
        about = self.backend.client.info()
        sent_to_clients = int(about["total_net_output_bytes"])
        return written_by(about["process_id"]) - sent_to_clients

    def served(self) -> float:
        about = self.backend.client.info("cpu")
        return float(about["used_cpu_sys"] + about["used_cpu_user"])


class Cleaned(Steady):
    """Deletes only in ``cleanup()``."""

    backend: Any
    cleaned = 0.0
    second: ClassVar[Any] = 1
    """In the unit of the backend."""

    def begin(self, kept: int) -> list[float]:
        deadlines = super().begin(kept)
        self.cleaned = time.time()
        return deadlines

    def clean(self) -> None:
        now = time.time()
        self.backend.expires = (now - self.cleaned) * self.second
        self.backend.cleanup()
        self.cleaned = now


class SQLite(Cleaned, celery.SQLite):
    second = timedelta(seconds=1)
    columns: ClassVar[str] = "status, result, date_done, traceback, children"

    def fill_with(self, results: list[Expiring]) -> None:
        self.store(self.request("any"))
        copy = f"""
            WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?)
            INSERT INTO celery_taskmeta (task_id, {self.columns})
            SELECT lower(hex(randomblob(16))), {self.columns} FROM numbers, celery_taskmeta WHERE task_id = 'any'"""
        with closing(sqlite3.connect(self.folder / "results.sqlite")) as database, database:
            database.execute(copy, [len(results)])
        self.backend.forget("any")

    def present(self) -> int:
        with closing(sqlite3.connect(self.folder / "results.sqlite")) as database:
            return int(database.execute("SELECT count(*) FROM celery_taskmeta").fetchone()[0])


class Files(Cleaned, celery.Files):
    def fill_with(self, results: list[Expiring]) -> None:
        self.store(self.request("any"))
        key_of = self.backend.get_key_for_task
        value = self.backend.get(key_of("any"))
        self.backend.forget("any")
        for task_id, _ in results:
            self.backend.set(key_of(task_id), value)

    def present(self) -> int:
        return sum(1 for _ in (self.folder / "results").iterdir())


class Walking(Steady, bare.BareLMDB):
    """A lower bound: a record and no index, and a hand that walks over the tree as results are stored."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.hand, self.stores = b"", 0
        self.expired: list[bytes] = []

    def pair(self, task_id: str, ttl: float) -> Pair:
        """Return key and value; a value starts with its deadline."""
        return self.place_of(task_id), DEADLINE.pack(self.now() + ttl) + self.value[DEADLINE.size :]

    def request(self, task_id: str) -> Pair:
        return self.pair(task_id, self.ttl)

    def store(self, request: Pair) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.put(*request)
            self.look(transaction.cursor(), DEADLINE.pack(self.now()))
            self.stores += 1
            if self.stores % 16 == 0:
                for place in self.expired:
                    transaction.delete(place)
                self.expired.clear()

    def look(self, cursor: Any, now: bytes) -> None:
        """Note the expired ones of the four records at the hand, and move it."""
        more = cursor.set_range(self.hand)
        for _ in range(4):
            if more:
                if cursor.value()[: DEADLINE.size] <= now:
                    self.expired.append(cursor.key())
                more = cursor.next()
        self.hand = cursor.key() if more else b""

    def fill_with(self, results: list[Expiring]) -> None:
        for batch in filling.batches(results):
            with self.environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti(sorted(self.pair(task_id, ttl) for task_id, ttl in batch))

    def present(self) -> int:
        return int(self.environment.stat()["entries"])


CLIENTS: dict[type[Client], tuple[type[Steady], str]] = {
    celery.LMDBResults: (Ours, ""),
    celery.Redis: (Redis, ""),
    celery.SQLite: (SQLite, "; cleanup() once a lifetime"),
    celery.Files: (Files, "; cleanup() once a lifetime"),
    bare.BareLMDB: (Walking, "; looks at 4 records a store, deletes every 16"),
}
PEERS = [
    replace(peer, client=CLIENTS[peer.client][0], configuration=peer.configuration + CLIENTS[peer.client][1])
    for peer in (
        celery.NONE, celery.CHECKPOINT, celery.COMMIT, celery.REDIS, celery.REDIS_EVERYSEC, celery.SQLITE,
        celery.FILES, bare.NONE, bare.COMMIT,
    )
]  # fmt: skip

# -- the measurement ---------------------------------------------------------------------------------------------------

ONE_TTL, MIXED, STARTED, PROGRESS = "one TTL", "mixed TTLs", "STARTED, SUCCESS", "progress"
#: How a result is stored, and shares of the lifetime after which results expire in turn. They average 1.
WORKS: dict[str, tuple[str, tuple[float, ...]]] = {
    ONE_TTL: ("store", (1.0,)),
    MIXED: ("store", (0.01, 1.99)),
    STARTED: ("start_and_store", (1.0,)),
    PROGRESS: ("progress", (1.0,)),
}


@scenario(
    "steady",
    "Celery's backend classes: store a result while another expires, with so many that have not; processor time (with "
    "the server's) and bytes written for each, expired results in the file (the most that was seen, % of the others), "
    "and the file at the end",
    grows_with="kept results",
)
def steady(bench: Bench) -> list[Row]:
    seconds, rows = bench.size(0.05, 4.0, 12.0, 60.0), []
    sizes = bench.size([40], [10_000], [10_000, 200_000], [10_000, 200_000, 1_000_000])
    for kept in sizes:
        for number, work in enumerate(WORKS if kept == sizes[0] else (ONE_TTL,)):
            peers = [about for about in bench.few(PEERS) if work == ONE_TTL or about.name == OWN]
            with ExitStack() as stack:
                rows += _each_alone(replace(bench, stack=stack), peers, work, kept, seconds, f"{kept}{number}")
    return with_ratios(rows, lambda row: row.mean)


def _each_alone(bench: Bench, peers: list[Peer], work: str, kept: int, seconds: float, group: str) -> list[Row]:
    """Run peers one after the other; their servers and files go afterwards."""
    field = bench.serve(peers, group)
    found = {}
    for name in field.folders:
        bench.step(f"{kept:,} {work}, {name}")
        with ExitStack() as stack:
            longest = seconds * (LONGER if name == OWN else 1)
            (found[Key(name, work, kept)],) = Crew(replace(bench, stack=stack), 1).run(
                1, run, field, name, work, kept, longest
            )
        shutil.rmtree(field.folders[name], ignore_errors=True)
    return field.table(found)


def run(client: Any, number: int, work: str, kept: int, seconds: float) -> dict[str, Any]:
    """Store for so many lifetimes or seconds, and return the figures of a row."""
    how, shares = WORKS[work]
    deadlines, rng, cpu = client.begin(kept), Random(kept), CPU(getattr(client, how))
    ttls = cycle([share * client.ttl for share in shares])
    looks, times, cleaning = [share_of_expired(client, deadlines)], array("q"), 0
    written, served, until = client.written(), client.served(), time.monotonic() + seconds
    while len(times) < LIFETIMES * kept and time.monotonic() < until:
        for _ in range(max(kept // LOOKS, 1)):
            client.set_ttl(next(ttls))
            request = client.request(filling.random_id(rng.getrandbits(63)))
            heappush(deadlines, client.now() + client.ttl)
            times.append(cpu.time(request))
            client.tick()
        looks.append(share_of_expired(client, deadlines))
        if len(times) % kept == 0:
            (took,) = measure.time_each(lambda _: client.clean(), [None])
            cleaning += took
    return {
        **measure.summary([times]),
        "mean": (sum(times) + cleaning) / len(times) / 1000,
        "cpu": (cpu.total() / 1000 + (client.served() - served) * 1e6) / len(times),
        "written": (client.written() - written) / len(times),
        "expired": max(looks),
        "size": client.size(),
        "looks": looks,
        "note": f"{len(times) / kept:.2g} lifetimes",
    }


def share_of_expired(client: Any, deadlines: list[float]) -> float:
    """Return how many results have expired and are not deleted, as a share of the others; ``deadlines`` is a heap."""
    now = client.now()
    while deadlines and deadlines[0] <= now:
        heappop(deadlines)
    present: int = client.present()
    return round(present / max(len(deadlines), 1) - 1, 3)
