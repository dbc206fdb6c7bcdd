"""How long after one process has stored a result another one that waits for it is awake.

Run as python -m benchmarks.wakeups. The waiter says which id comes next and begins to wait; the producer gives it two
milliseconds to fall asleep, then stores. Both read CLOCK_MONOTONIC, which is the same in all processes.

The limit is a bare datagram from one process to the other. Idle waiters are measured alone, before all else.
"""

import gc
import signal
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from rich.console import Console
from rich.progress import track

from benchmarks import machine, report, run
from benchmarks.measure import Rounds, Samples
from benchmarks.peers import KEY_PREFIX, Row, encoded_meta, json_backend, require
from benchmarks.servers import Unavailable, redis_server
from lmdbresults.backends import LMDBBackend
from lmdbresults.errors import ResultTimeout

RESULT = 42
#: Seconds after which a waiter has waited for nothing, and which a waiter gets to fall asleep.
PATIENCE = 30.0
PAUSE = 0.002
#: Results in a block; and where the backend cannot be told, but looks every half a second.
OPERATIONS, LOOKS = 20, 1

REFERENCE = "Redis"
ROWS = (
    Row("ours", "durability=none", "none"),
    Row(REFERENCE, "Unix socket, publish/subscribe, redis-py", "memory"),
    Row("limit", "bare datagram, the same in every table", "memory"),
)
LEGEND = """\
Microseconds until the waiter is awake; 1,000 results unless --rounds says otherwise. ratio: as in the other benchmarks.
commit to awake: from the end of the commit until wait_for() has returned; from PUBLISH until the meta is decoded.
call to awake: from store_result() until wait_for() has returned; from SET and PUBLISH until the meta is decoded.
AsyncResult.get(): from store_result() until get() has returned, through Celery's backends."""

now = time.monotonic_ns


class Way(ABC):
    """A way from producer to waiter. Each of the two opens it for itself, and uses its side."""

    operations = OPERATIONS
    """Results in a block."""

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
        wakes: Any = self.backend.store._wakes  # type: ignore[attr-defined]
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

    def __init__(self, url: str) -> None:
        self.app = Celery("benchmark", backend=url, set_as_current=False)
        self.backend = self.app.backend
        if not self.backend.is_async:  # it looks every half a second
            self.operations = LOOKS

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
        self.backend.process_cleanup()


def check(is_as_sent: bool) -> None:
    if not is_as_sent:
        raise RuntimeError("something else than what was stored has arrived")


def ours_in_celery(folder: Path) -> Way:
    return ThroughCelery(f"lmdb://{folder}/celery.lmdb?durability=none")


def redis_in_celery(folder: Path) -> Way:
    return ThroughCelery(f"redis+socket://{redis_socket(folder)}")


def redis_socket(folder: Path) -> Path:
    return folder / "redis.sock"


SCENARIOS: Mapping[str, Mapping[str, Callable[[Path], Way]]] = {
    "commit to awake": {"ours": PlainFromCommit, REFERENCE: Publish, "limit": Datagram},
    "call to awake": {"ours": Plain, REFERENCE: SetAndPublish, "limit": Datagram},
    "AsyncResult.get()": {"ours": ours_in_celery, REFERENCE: redis_in_celery, "limit": Datagram},
}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way that is open on the waiter's side."""

    scenario: str
    name: str
    way: Way

    def nanoseconds(self, task_id: str, producer: Connection) -> int:
        """Have one result stored and wait for it."""
        self.way.prepare(task_id)
        producer.send((self.scenario, self.name, task_id))
        awake = self.way.wait(task_id)
        start: int = producer.recv()
        return awake - start


def produce(folder: Path, orders: Connection) -> None:
    """Store whatever is asked for: the work of the producer."""
    ways: dict[tuple[str, str], Way] = {}
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            scenario, name, task_id = orders.recv()
            if (scenario, name) not in ways:
                ways[scenario, name] = SCENARIOS[scenario][name](folder)
            time.sleep(PAUSE)
            orders.send(ways[scenario, name].send(task_id))
    for way in ways.values():
        way.close()


def play(contestants: Sequence[Contestant], rounds: Iterable[int], rng: Random, producer: Connection) -> Samples:
    """Measure all in every round, in a new order each time; a first round is thrown away."""
    play_round(contestants, rng, producer)
    gc.collect()
    gc.freeze()
    samples: dict[tuple[str, str], Rounds] = defaultdict(list)
    for _ in rounds:
        for contestant, times in play_round(contestants, rng, producer):
            samples[contestant.scenario, contestant.name].append(times)
    return {(scenario, row.name): samples[scenario, row.name] for scenario in SCENARIOS for row in ROWS}


def play_round(
    contestants: Sequence[Contestant], rng: Random, producer: Connection
) -> list[tuple[Contestant, list[int]]]:
    """A block of each."""
    return [
        (one, [one.nanoseconds(task_id, producer) for task_id in run.new_ids(one.way.operations, rng)])
        for one in rng.sample(contestants, len(contestants))
    ]


def open_ways(folder: Path, stack: ExitStack) -> tuple[list[Contestant], dict[str, str]]:
    """Those that run here, and why the others do not."""
    missing = {}
    try:
        require("redis")
        stack.enter_context(redis_server(folder))
    except Unavailable as reason:
        missing[REFERENCE] = str(reason)
    contestants = [
        Contestant(scenario, name, open_way(folder))
        for scenario, ways in SCENARIOS.items()
        for name, open_way in ways.items()
        if name not in missing
    ]
    for contestant in contestants:
        stack.callback(contestant.way.close)
    return contestants, missing


def start_producer(folder: Path, stack: ExitStack) -> Connection:
    """Start the other process; return the line to it. It ends when that is closed."""
    context = get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=produce, args=(folder, its), daemon=True)
    process.start()
    its.close()
    stack.callback(process.join, PATIENCE)
    stack.callback(ours.close)
    return ours


def idle(folder: Path, waiters: int, seconds: float, rng: Random) -> str:
    """Have one thread wait for many results that do not come; say what that costs."""
    backend = LMDBBackend(folder / "idle.lmdb", options={"durability": "none"})
    settled = seconds / 10
    thread = threading.Thread(target=wait_in_vain, args=(backend, run.new_ids(waiters, rng), settled + seconds + 1))
    thread.start()
    time.sleep(settled)
    start = time.process_time()
    time.sleep(seconds)
    share = (time.process_time() - start) / seconds
    thread.join()
    backend.process_cleanup()
    return f"{waiters:,} pending results in one get_many(): {share:.3%} of a core over {seconds:g} s"


def wait_in_vain(backend: LMDBBackend, task_ids: Sequence[str], timeout: float) -> None:
    with suppress(ResultTimeout):
        list(backend.get_many(task_ids, timeout=timeout))


def main() -> None:
    """Measure idle waiters, then all ways in turns."""
    parser = run.options("benchmarks.wakeups", __doc__)
    parser.set_defaults(rounds=50)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of idle waiting (default: %(default)s)")
    settings = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rng = Random(settings.seed)
    with TemporaryDirectory(prefix="lmdbresults-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        header = machine.describe(folder)
        header["idle"] = idle(folder, 1000, settings.idle, rng)
        contestants, missing = open_ways(folder, stack)
        producer = start_producer(folder, stack)
        rounds = track(range(settings.rounds), "measuring", console=Console(stderr=True), transient=True)
        samples = play(contestants, rounds, rng, producer)
    measured = report.results(ROWS, missing, samples, REFERENCE)
    report.show(Console(), header, measured, LEGEND, rates=False)
    if settings.json:
        how = {key: value for key, value in vars(settings).items() if key != "json"}
        report.write_json(settings.json, header, how, measured)


if __name__ == "__main__":
    main()
