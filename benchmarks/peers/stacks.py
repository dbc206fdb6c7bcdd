"""Brokers together with result backends, as a project configures them; and their workers' tasks."""

# mypy: disallow-untyped-decorators=False

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from celery import Celery
from celery.signals import worker_ready

from benchmarks.peers.base import RESULT, Peer, in_each_durability, require
from benchmarks.rows import BOUNDED, DISK, KILL
from benchmarks.servers import IN_MEMORY, celery_worker, redis_server

NAME: Final = "LMDBRESULTS_BENCHMARK_STACK"
FOLDER: Final = "LMDBRESULTS_BENCHMARK_FOLDER"
#: Tasks that no worker takes before it is told to.
PARKED: Final = "parked"


class Stack:
    """An application with its broker and result backend; by default both are one file of lmdbresults."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.app = Celery("benchmark", set_as_current=False)
        self.app.conf.update(self.settings(folder, **options))
        self.folder = folder
        register_tasks(self.app)

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **options: Any) -> None:
        """Start what the stack needs."""

    @classmethod
    def settings(cls, folder: Path, **options: Any) -> dict[str, Any]:
        """Return the settings of Celery."""
        url = f"lmdb://{folder}/celery.lmdb?durability={options['durability']}"
        return {"broker_url": url, "result_backend": url}

    def served(self) -> float:
        """Return the seconds of processor time that a server has taken so far."""
        return 0.0

    @contextmanager
    def worker(self) -> Iterator[int]:
        """Run a worker until the block ends; yield its process id once it is ready."""
        variables = {NAME: self.about.name, FOLDER: str(self.folder)}
        with celery_worker(self.folder, "benchmarks.peers.stacks", variables) as pid:
            wait_for(self.folder / f"ready-{pid}")
            yield pid

    about: Peer


class OnRedis(Stack):
    """Redis as the broker, and as the result backend unless that is lmdbresults."""

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **persistence: Any) -> None:
        require("redis")
        persistence.pop("results", None)
        stack.enter_context(redis_server(folder, persistence or IN_MEMORY))

    @classmethod
    def settings(cls, folder: Path, **options: Any) -> dict[str, Any]:
        url = f"redis+socket://{folder}/redis.sock"
        results = f"lmdb://{folder}/results.lmdb?durability=none" if "results" in options else url
        return {"broker_url": url, "result_backend": results}

    def served(self) -> float:
        from redis import Redis

        with Redis(unix_socket_path=str(self.folder / "redis.sock")) as client:
            about = client.info("cpu")
        return float(about["used_cpu_sys"] + about["used_cpu_user"])


class OnFiles(Stack):
    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **options: Any) -> None:
        for name in ("queue", "control", "results"):
            (folder / name).mkdir()

    @classmethod
    def settings(cls, folder: Path, **options: Any) -> dict[str, Any]:
        queue, control = str(folder / "queue"), str(folder / "control")
        folders = {"data_folder_in": queue, "data_folder_out": queue, "control_folder": control}
        results = f"file://{folder}/results"
        return {"broker_url": "filesystem://", "broker_transport_options": folders, "result_backend": results}


class OnSQLite(Stack):
    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **options: Any) -> None:
        require("sqlalchemy")

    @classmethod
    def settings(cls, folder: Path, **options: Any) -> dict[str, Any]:
        return {
            "broker_url": f"sqla+sqlite:///{folder}/broker.sqlite",
            "result_backend": f"db+sqlite:///{folder}/results.sqlite",
        }


OURS = in_each_durability("lmdb://, one file as the broker and for results", Stack)
REDIS = Peer(
    name="Redis", configuration="redis+socket:// as the broker and for results, nothing written to disk",
    durability=KILL, client=OnRedis,
)  # fmt: skip
EVERY = (
    *OURS,
    REDIS,
    replace(
        REDIS, name="Redis, everysec", configuration="the same, appendonly, appendfsync everysec", durability=BOUNDED,
        options={"save": "", "appendonly": "yes", "appendfsync": "everysec"},
    ),
    replace(
        REDIS, name="Redis, results in lmdb://", options={"results": "lmdb"},
        configuration="redis+socket:// as the broker, nothing written to disk; results in lmdb://, durability=none",
    ),
    Peer(
        name="filesystem", configuration="filesystem:// as the broker, results in file://", durability=KILL,
        client=OnFiles,
    ),
    Peer(
        name="SQLite", configuration="sqla+sqlite:// as the broker, results in db+sqlite://", durability=DISK,
        client=OnSQLite,
    ),
)  # fmt: skip


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


if NAME in os.environ:  # in a worker
    _folder = Path(os.environ[FOLDER])
    app = next(about for about in EVERY if about.name == os.environ[NAME]).open(_folder).app
    worker_ready.connect(lambda **_: (_folder / f"ready-{os.getpid()}").touch(), weak=False)
