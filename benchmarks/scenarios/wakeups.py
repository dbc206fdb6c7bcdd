"""How long after one process has stored a result another one that waits for it is awake, and what waiting costs.

The waiter says which id comes next and begins to wait; the producer gives it two milliseconds to fall asleep, then
stores. Both read CLOCK_MONOTONIC, which is the same in all processes. The limit is a bare datagram.
"""

import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from celery import Celery
from celery.result import AsyncResult

from benchmarks.bench import Bench, Field, scenario
from benchmarks.measure import Key
from benchmarks.peers import celery
from benchmarks.peers.base import KEY_PREFIX, new_ids
from benchmarks.peers.plain import OursPlain
from benchmarks.rows import LIMIT, MEMORY, OURS, Row
from lmdbresults.backends import LMDBBackend
from lmdbresults.errors import ResultTimeout

RESULT = 42
#: Seconds after which a waiter has waited for nothing, and which a waiter gets to fall asleep.
PATIENCE = 30.0
PAUSE = 0.002

now = time.monotonic_ns


class Way(ABC):
    """A way from producer to waiter. Each of the two opens it for itself, and uses its side."""

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """Open it in this process."""

    @abstractmethod
    def send(self, task_id: str) -> int:
        """Store the result; return the moment to count from."""

    def prepare(self, task_id: str) -> None:  # noqa: B027 - most need nothing
        """Do what has to be done before the producer may send."""

    @abstractmethod
    def wait(self, task_id: str) -> int:
        """Return the moment at which the result has arrived."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""


class Datagram(Way):
    """The limit: a socket for each result, and a process that sleeps in recv()."""

    name = LIMIT
    configuration = "a bare datagram, the same for every work"
    durability = MEMORY

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        """It needs nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def send(self, task_id: str) -> int:
        address = str(self.folder / task_id)
        start = now()
        self.socket.sendto(b"%d" % RESULT, address)
        return start

    def prepare(self, task_id: str) -> None:
        self.socket.close()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.folder / task_id))

    def wait(self, task_id: str) -> int:
        message = self.socket.recv(64)
        moment = now()
        check(message == b"%d" % RESULT)
        return moment

    def close(self) -> None:
        self.socket.close()


class Plain(Way):
    """Our backend, without Celery, from the call of store_result()."""

    def __init__(self, folder: Path) -> None:
        self.backend = LMDBBackend(folder / "plain.lmdb", options={"durability": "none"})

    def send(self, task_id: str) -> int:
        start = now()
        self.backend.store_result(task_id, RESULT, "SUCCESS")
        return start

    def wait(self, task_id: str) -> int:
        meta = self.backend.wait_for(task_id, timeout=PATIENCE)
        moment = now()
        check(meta["result"] == RESULT)
        return moment

    def close(self) -> None:
        self.backend.process_cleanup()


class PlainFromCommit(Plain):
    """Our backend, from the moment at which the commit is done and the news goes out."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        wakes: Any = self.backend.store._wakes
        self.send_news = wakes.send
        wakes.send = self.send_from_now
        self.committed = 0

    def send_from_now(self, news: Any) -> None:
        self.committed = now()
        self.send_news(news)

    def send(self, task_id: str) -> int:
        super().send(task_id)
        return self.committed


class Publish(Way):
    """PUBLISH of the meta that Celery's Redis backend publishes; it is decoded as there."""

    def __init__(self, folder: Path) -> None:
        from redis import Redis

        self.client = Redis(unix_socket_path=str(redis_socket(folder)))
        self.messages = self.client.pubsub(ignore_subscribe_messages=True)

    def send(self, task_id: str) -> int:
        key, meta = KEY_PREFIX + task_id.encode(), encoded_meta(task_id, RESULT)
        start = now()
        self.client.publish(key, meta)
        return start

    def prepare(self, task_id: str) -> None:
        self.messages.subscribe(KEY_PREFIX + task_id.encode())
        self.messages.get_message(timeout=PATIENCE)  # the confirmation

    def wait(self, task_id: str) -> int:
        message = self.messages.get_message(timeout=PATIENCE)
        meta = json_backend().decode_result(message["data"])
        moment = now()
        check(meta["result"] == RESULT)
        self.messages.unsubscribe(message["channel"])
        self.messages.get_message(timeout=PATIENCE)
        return moment

    def close(self) -> None:
        self.messages.close()
        self.client.close()


class SetAndPublish(Publish):
    """The pipeline by which Celery's Redis backend stores a result."""

    def send(self, task_id: str) -> int:
        key = KEY_PREFIX + task_id.encode()
        start = now()
        meta = encoded_meta(task_id, RESULT)
        with self.client.pipeline() as pipe:
            pipe.setex(key, 86400, meta)
            pipe.publish(key, meta)
            pipe.execute()
        return start


class ThroughCelery(Way):
    """A result backend of Celery, from the call of store_result() to the return of AsyncResult.get()."""

    about: type[celery.CeleryPeer]

    def __init__(self, folder: Path) -> None:
        self.app = self.about.make_app(Celery, folder)
        self.backend = self.app.backend

    def send(self, task_id: str) -> int:
        start = now()
        self.backend.store_result(task_id, RESULT, "SUCCESS")
        return start

    def wait(self, task_id: str) -> int:
        result = AsyncResult(task_id, app=self.app).get(timeout=PATIENCE)
        moment = now()
        check(result == RESULT)
        return moment

    def close(self) -> None:
        self.about.end(self.backend)


class OursInCelery(ThroughCelery):
    about = celery.Ours


class RedisInCelery(ThroughCelery):
    about = celery.Redis


def check(is_as_sent: bool) -> None:
    if not is_as_sent:
        raise RuntimeError("something else than what was stored has arrived")


def redis_socket(folder: Path) -> Path:
    return folder / "redis.sock"


def encoded_meta(task_id: str, result: Any) -> bytes:
    """The bytes that Celery's key-value backends store for a success."""
    meta: dict[str, Any] = {"status": "SUCCESS", "result": result, "traceback": None, "children": []}
    meta |= {"date_done": "2026-01-01T00:00:00.000000+00:00", "task_id": task_id}
    return json_backend().encode(meta).encode()  # type: ignore[no-any-return]


@cache
def json_backend() -> Any:
    return Celery("benchmark", backend="cache+memory://", set_as_current=False).backend


WAYS: Mapping[str, Mapping[str, type[Way]]] = {
    "commit to awake": {OURS: PlainFromCommit, celery.Redis.name: Publish, LIMIT: Datagram},
    "call to awake": {OURS: Plain, celery.Redis.name: SetAndPublish, LIMIT: Datagram},
    "AsyncResult.get()": {OURS: OursInCelery, celery.Redis.name: RedisInCelery, LIMIT: Datagram},
}


@scenario(
    "wakeups",
    "From the commit (or PUBLISH), or from the call of store_result(), or through Celery's AsyncResult, until a waiter "
    "in another process has the decoded result",
)
def wakeups(bench: Bench) -> list[Row]:
    field = bench.serve((celery.Ours, celery.Redis, Datagram))
    producer = start_producer(bench, field)
    blocks = {}
    for work, ways in WAYS.items():
        for name, way in ways.items():
            if name in field.folders:
                opened = way(field.folders[name])
                bench.stack.callback(opened.close)
                blocks[Key(name, work)] = partial(_block, bench, opened, (work, name), producer)
    return field.rows(bench.interleave(blocks, bench.size(1, 15, 50)), alike=True)


def _block(bench: Bench, way: Way, place: tuple[str, str], producer: Connection) -> list[int]:
    """Have results stored one by one, and wait for each."""
    times = []
    for task_id in new_ids(bench.size(3, 20, 20), bench.rng):
        way.prepare(task_id)
        producer.send((*place, task_id))
        awake = way.wait(task_id)
        start: int = producer.recv()
        times.append(awake - start)
    return times


def start_producer(bench: Bench, field: Field) -> Connection:
    """Start the other process; return the line to it. It ends when that is closed."""
    context = get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=produce, args=(field.folders, its), daemon=True)
    process.start()
    its.close()
    bench.stack.callback(process.join, PATIENCE)
    bench.stack.callback(ours.close)
    return ours


def produce(folders: Mapping[str, Path], orders: Connection) -> None:
    """Store whatever is asked for: the work of the producer."""
    ways: dict[tuple[str, str], Way] = {}
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            work, name, task_id = orders.recv()
            if (work, name) not in ways:
                ways[work, name] = WAYS[work][name](folders[name])
            time.sleep(PAUSE)
            orders.send(ways[work, name].send(task_id))
    for way in ways.values():
        way.close()


@scenario("idle", "What it costs to wait for results that do not come: get_many() of so many", grows_with="results")
def idle(bench: Bench) -> list[Row]:
    waiters, seconds = bench.size(10, 1_000, 10_000), bench.size(0.1, 3.0, 10.0)
    backend = LMDBBackend(bench.folder / "idle.lmdb", options={"durability": "none"})
    settled = seconds / 3
    task_ids = new_ids(waiters, bench.rng)
    thread = threading.Thread(target=_wait_in_vain, args=(backend, task_ids, settled + seconds + 0.5))
    thread.start()
    time.sleep(settled)
    start = time.process_time()
    time.sleep(seconds)
    share = (time.process_time() - start) / seconds
    thread.join()
    backend.process_cleanup()
    field = Field({OURS: OursPlain}, {}, {})
    return [field.row(OURS, "waiting", waiters, unit="% of a core", median=share * 100)]


def _wait_in_vain(backend: LMDBBackend, task_ids: Sequence[str], timeout: float) -> None:
    with suppress(ResultTimeout):
        list(backend.get_many(task_ids, timeout=timeout))
