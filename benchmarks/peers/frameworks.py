"""Other task frameworks, with brokers and results as their documentation sets them up; and their workers' tasks."""

# mypy: disallow-untyped-decorators=False

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

from benchmarks.peers import celery
from benchmarks.peers.base import PATIENCE, RESULT, Peer, require
from benchmarks.peers.stacks import redis_cpu
from benchmarks.rows import BOUNDED, DISK
from benchmarks.servers import ROOT, process

#: The variables in which a worker finds its framework and its folder.
FOLDER, NAME = "LMDBRESULTS_BENCHMARK_FRAMEWORK_FOLDER", "LMDBRESULTS_BENCHMARK_FRAMEWORK"
MODULE: Final = "benchmarks.peers.frameworks"


class Framework:
    """An application with its broker, results, and one task that returns what all scenarios store."""

    about: Peer
    command: ClassVar[tuple[str, ...]]
    """Runs a worker with two processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        """Start what the framework needs. Raises `Unavailable`."""

    @contextmanager
    def worker(self) -> Iterator[int]:
        """Run a worker until the block ends; yield its process id."""
        variables = {**os.environ, FOLDER: str(self.folder), NAME: type(self).__name__}
        command = [sys.executable, "-m", *self.command]
        with process(command, self.folder / "worker.log", cwd=ROOT, env=variables) as worker:
            yield worker.pid

    def send(self, number: int) -> Any:
        """Send a task."""
        raise NotImplementedError

    def result(self, sent: Any) -> Any:
        """Wait for the result of a task."""
        raise NotImplementedError

    def served(self) -> float:
        """Return the seconds of processor time that a server has taken so far."""
        return 0.0


class Huey(Framework):
    command = ("huey.bin.huey_consumer", f"{MODULE}.app", "--workers", "2", "--worker-type", "process")

    def __init__(self, folder: Path) -> None:
        from huey import SqliteHuey

        super().__init__(folder)
        self.app = SqliteHuey("benchmark", filename=str(folder / "huey.sqlite"))

        @self.app.task(name="answer")
        def answer(number: int) -> dict[str, Any]:
            return RESULT

        self.answer = answer

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        require("huey")

    def send(self, number: int) -> Any:
        return self.answer(number)

    def result(self, sent: Any) -> Any:
        return sent.get(blocking=True, timeout=PATIENCE)


class Dramatiq(Framework):
    command = ("dramatiq", f"{MODULE}:app", "--processes", "2", "--threads", "1")

    def __init__(self, folder: Path) -> None:
        import dramatiq
        from dramatiq.brokers.redis import RedisBroker
        from dramatiq.results import Results
        from dramatiq.results.backends.redis import RedisBackend

        super().__init__(folder)
        url = f"unix://{folder}/redis.sock"
        self.app = RedisBroker(url=url)
        self.results = RedisBackend(url=url)
        self.app.add_middleware(Results(backend=self.results))
        self.answer = dramatiq.actor(
            _answer, broker=self.app, actor_name="answer", queue_name="default", store_results=True
        )

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        require("dramatiq")
        celery.REDIS_EVERYSEC.serve(folder, stack)

    def send(self, number: int) -> Any:
        return self.answer.send(number)

    def result(self, sent: Any) -> Any:
        return sent.get_result(backend=self.results, block=True, timeout=int(PATIENCE * 1000))

    def served(self) -> float:
        return redis_cpu(self.folder)


def _answer(number: int) -> dict[str, Any]:
    return RESULT


EVERY: Final = (
    Peer(
        name="dramatiq, Redis", configuration="dramatiq, RedisBroker and RedisBackend, appendfsync everysec",
        durability=BOUNDED, client=Dramatiq, loss="1 to 2 s",
    ),
    Peer(
        name="huey, SQLite", configuration="huey, SqliteHuey with its default settings (WAL, synchronous=FULL)",
        durability=DISK, client=Huey, loss="nothing",
    ),
)  # fmt: skip

if NAME in os.environ:  # in a worker
    app = {each.__name__: each for each in (Huey, Dramatiq)}[os.environ[NAME]](Path(os.environ[FOLDER])).app
