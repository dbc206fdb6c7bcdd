"""Brokers together with result backends, as a project configures them; and their workers' tasks."""

# mypy: disallow-untyped-decorators=False

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from celery import Celery
from celery.signals import worker_ready

from benchmarks.peers import celery, django
from benchmarks.peers.base import PATIENCE, RESULT, Peer, in_each_durability, require
from benchmarks.rows import DISK, KILL
from benchmarks.servers import celery_worker

FOLDER: Final = "LMDBRESULTS_BENCHMARK_FOLDER"
#: The stack of a worker, in its folder.
STACK: Final = "stack.pickle"
#: A queue that no worker has.
PARKED: Final = "parked"


class Stack:
    """An application with its broker and result backend; by default both are one file of lmdbresults."""

    about: Peer

    def __init__(self, folder: Path, **options: Any) -> None:
        self.app = self.make_app(folder, **options)
        self.folder = folder
        register_tasks(self.app)

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **options: Any) -> None:
        """Start what the stack needs."""

    def make_app(self, folder: Path, **options: Any) -> Celery:
        """Return an application without tasks."""
        url = f"lmdb://{folder}/celery.lmdb?durability={options['durability']}"
        return Celery("benchmark", broker=url, backend=url, set_as_current=False)

    def send(self, number: int) -> Any:
        """Send a task."""
        return self.app.tasks["answer"].delay(number)

    def result(self, sent: Any) -> Any:
        """Wait for the result of a task."""
        return sent.get(timeout=PATIENCE)

    def served(self) -> float:
        """Return the seconds of processor time that a server has taken so far."""
        return 0.0

    @contextmanager
    def worker(self) -> Iterator[int]:
        """Run a worker until the block ends; yield its process id once it is ready."""
        (self.folder / STACK).write_bytes(pickle.dumps(self.about))
        with celery_worker(self.folder, __name__, {FOLDER: str(self.folder)}) as pid:
            wait_for(self.folder / f"ready-{pid}")
            yield pid


class OnRedis(Stack):
    """Redis as the broker, and results in one of `benchmarks.peers.celery`; if that is Redis, in the same server."""

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, *, results: Peer) -> None:  # type: ignore[override]
        results.serve(folder, stack)
        if results.client is not celery.Redis:
            celery.REDIS.serve(folder, stack)

    def make_app(self, folder: Path, *, results: Peer) -> Celery:  # type: ignore[override]
        settings = {"broker_url": celery.Redis.url(folder)}
        return results.open(folder, settings=settings).app

    def served(self) -> float:
        return redis_cpu(self.folder)


class OnFiles(Stack):
    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **options: Any) -> None:
        celery.FILES.serve(folder, stack)
        for name in ("queue", "control"):
            (folder / name).mkdir()

    def make_app(self, folder: Path, **options: Any) -> Celery:
        queue, control = str(folder / "queue"), str(folder / "control")
        folders = {"data_folder_in": queue, "data_folder_out": queue, "control_folder": control}
        settings = {"broker_url": "filesystem://", "broker_transport_options": folders}
        return celery.FILES.open(folder, settings=settings).app


class OnSQLite(Stack):
    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **options: Any) -> None:
        require("sqlalchemy")

    def make_app(self, folder: Path, **options: Any) -> Celery:
        broker, results = f"sqla+sqlite:///{folder}/broker.sqlite", f"db+sqlite:///{folder}/results.sqlite"
        return Celery("benchmark", broker=broker, backend=results, set_as_current=False)


def redis_cpu(folder: Path) -> float:
    """Return the seconds of processor time that the server in a folder has taken so far."""
    from redis import Redis

    with Redis(unix_socket_path=str(folder / "redis.sock")) as client:
        about = client.info("cpu")
    return float(about["used_cpu_sys"] + about["used_cpu_user"])


def on_redis(results: Peer, about_results: str, **changes: Any) -> Peer:
    """Return the peer with Redis as the broker."""
    configuration = f"redis+socket:// as the broker; results in {about_results}"
    return replace(results, client=OnRedis, configuration=configuration, options={"results": results}, **changes)


OURS = in_each_durability("lmdb://, one file as the broker and for results", Stack)
EVERY = (
    *OURS,
    on_redis(celery.REDIS, "it, nothing written to disk"),
    on_redis(celery.REDIS_EVERYSEC, "it, appendonly, appendfsync everysec"),
    on_redis(celery.REDIS_ALWAYS, "it, appendonly, appendfsync always"),
    on_redis(celery.NONE, celery.NONE.configuration, name="Redis, results in lmdb://"),
    on_redis(django.RESULTS, django.RESULTS.configuration, name="Redis, results in Django"),
    Peer(
        name="filesystem", configuration="filesystem:// as the broker, results in file://", durability=KILL,
        client=OnFiles,
    ),
    Peer(
        name="SQLite", configuration="sqla+sqlite:// as the broker, results in db+sqlite://", durability=DISK,
        client=OnSQLite,
    ),
)  # fmt: skip
#: Result backends beside the same broker.
RESULTS = [
    on_redis(results, results.configuration)
    for results in (celery.NONE, celery.CHECKPOINT, celery.REDIS, celery.FILES, celery.SQLITE_OFF)
]


def register_tasks(app: Celery) -> None:
    """Add the tasks."""

    @app.task(name="answer", shared=False)
    def answer(number: int) -> dict[str, Any]:
        """Return what all scenarios store."""
        return RESULT

    @app.task(name="count", shared=False)
    def count(results: list[Any]) -> int:
        """Return the number of results of a chord's header."""
        return len(results)

    @app.task(name="hold", shared=False, acks_late=True)
    def hold(path: str) -> None:
        """Note when the task starts; the first time, go on until the worker is killed."""
        with open(path, "a") as file:
            file.write(f"{time.monotonic_ns()}\n")
        if len(Path(path).read_text().split()) == 1:
            time.sleep(60)


def wait_for(path: Path, timeout: float = 30.0) -> None:
    """Return once a file exists."""
    until = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"{path} was not made: {(path.parent / 'worker.log').read_text()[-2000:]}")
        time.sleep(0.01)


if FOLDER in os.environ:  # in a worker
    _folder = Path(os.environ[FOLDER])
    app = pickle.loads((_folder / STACK).read_bytes()).open(_folder).app
    worker_ready.connect(lambda **_: (_folder / f"ready-{os.getpid()}").touch(), weak=False)
