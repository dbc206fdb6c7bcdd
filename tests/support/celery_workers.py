"""Real Celery workers in subprocesses, bounded in time and killed together with all processes that they forked."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from celery import Celery, current_app

from tests.support.celery_tasks import ACKNOWLEDGED, SETTINGS, make_app

#: Seconds after which a test gives up waiting for a result, or for a worker to stop.
PATIENCE = 240.0

Result = TypeVar("Result")

ROOT = Path(__file__).parents[2]
OPTIONS = ["--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]


def wait_for(condition: Callable[[], Result | None]) -> Result:
    """Return what a condition returns once that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.005)
    return result


class Worker:
    """A ``celery worker`` on an application whose files, and its log, are in a folder."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        pool: str = "prefork",
        concurrency: int = 2,
        variables: Mapping[str, str] | None = None,
        options: Sequence[str] = OPTIONS,
    ) -> None:
        self.log, self._acknowledged = folder / "worker.log", folder / "acknowledged"
        self._is_gone = False
        command = [sys.executable, "-m", "celery", "--app", "tests.support.celery_tasks", "worker", *options]
        environment = {SETTINGS: json.dumps(settings), ACKNOWLEDGED: str(self._acknowledged)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--pool", pool, "--concurrency", str(concurrency)],
                cwd=ROOT,
                env={**os.environ, **environment, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # its process group holds all that it forks
            )

    def acknowledged(self) -> dict[str, int]:
        """Return the ids of all tasks whose results were stored, and for each the process that stored it."""
        lines = self._acknowledged.read_text().splitlines() if self._acknowledged.exists() else []
        return {task_id: int(process) for task_id, process in map(str.split, lines)}

    def kill_one(self, choose: Random) -> None:
        """Kill one process of the pool by SIGKILL: one that has stored a result lately."""
        recent = list(self.acknowledged().values())[-20:]
        choose.shuffle(recent)
        for process in recent:
            with suppress(ProcessLookupError):  # it has been killed before
                if os.getpgid(process) == self.process.pid:
                    return os.kill(process, signal.SIGKILL)
        raise AssertionError(f"none of the processes {recent} is left")

    def stop(self) -> int:
        """Ask the worker to finish its tasks and end; return its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the worker and all processes that it forked by SIGKILL, if they still run."""
        if not self._is_gone:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)
            self._is_gone = True


@contextmanager
def running_worker(folder: Path, settings: dict[str, Any], pool: str = "prefork") -> Iterator[Celery]:
    """Run a worker during the block and yield its client, which is the current application. Both must end cleanly."""
    former, app, worker = current_app._get_current_object(), make_app(settings), Worker(folder, settings, pool)
    app.set_current()
    try:
        yield app
        wait_for(lambda: _is_idle(app))
        assert worker.stop() == 0, f"{pool} worker failed: see {worker.log}"
    finally:
        worker.kill()
        former.set_current()
        app.backend.store.close()
        app.close()


def _is_idle(app: Celery) -> bool:
    # A prefork worker that is stopped while its processes still report to it may take a minute to end.
    replies = app.control.inspect(limit=1, timeout=10).active()
    return bool(replies) and not any(replies.values())
