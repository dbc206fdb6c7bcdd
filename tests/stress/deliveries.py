"""A queue in a folder that delivers at least once, and plain worker processes.

A message is a file. A worker takes it by renaming it into its own folder, and deletes it when it is done. The messages
of a dead worker are redelivered.
"""

import json
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmdbresults import Store
from lmdbresults.app import App, Signature
from lmdbresults.backends import open_backend
from lmdbresults.testing import die_at
from tests.support.processes import Child


class QueueApp(App):
    """Dispatches into a folder, and logs which bodies have run."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.task(lambda number: number, name="same")
        self.task(self._gather, name="gather")
        for name in ("queue", "new"):
            (folder / name).mkdir(exist_ok=True)
        self.results: Any = open_backend(folder / "results.lmdb", app=self, durability="none")

    @property
    def store(self) -> Store:
        """The store of its backend."""
        store: Store = self.results.store
        return store

    def _gather(self, values: list[int]) -> list[int]:
        with (self.folder / "ran").open("a") as log:
            log.write("ran\n")
        return values

    def runs(self) -> int:
        """Return how often a body has run."""
        log = self.folder / "ran"
        return len(log.read_text().split()) if log.exists() else 0

    def dispatch(self, signature: Signature, args: Sequence[Any] = ()) -> None:
        name = f"{time.monotonic_ns():020}-{uuid.uuid4()}"
        (self.folder / "new" / name).write_text(json.dumps([signature, args]))
        (self.folder / "new" / name).rename(self.folder / "queue" / name)


def work(folder: Path, point: str | None, flag: Path) -> None:
    """Run tasks until the file ``stop`` exists."""
    if point is not None:
        die_at(point, flag)
    app, mine = QueueApp(folder), folder / f"taken-{os.getpid()}"
    mine.mkdir()
    while not (folder / "stop").exists():
        for message in sorted((folder / "queue").iterdir()):
            with suppress(FileNotFoundError):
                taken = message.rename(mine / message.name)
                task, args = json.loads(taken.read_text())
                app.run(task, tuple(args))
                taken.unlink()
        time.sleep(0.005)


class Pool:
    """Plain worker processes. A dead one is replaced, and its messages are redelivered."""

    def __init__(self, folder: Path, point: str, *, size: int = 2, redelivers: bool = True) -> None:
        self.folder, self._redelivers = folder, redelivers
        #: The number of dead workers.
        self.replaced = 0
        self.workers = [Child(work, folder, point, folder / "flag") for _ in range(size)]

    def replace_dead(self) -> None:
        """Replace dead workers."""
        for worker in list(self.workers):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                worker.status = os.waitstatus_to_exitcode(status)
                self.replaced += 1
                self.workers.remove(worker)
                worker.close()
                if self._redelivers:
                    for message in (self.folder / f"taken-{pid}").iterdir():
                        message.rename(self.folder / "queue" / message.name)
                self.workers.append(Child(work, self.folder, None, self.folder / "flag"))

    def close(self) -> None:
        """Stop all workers."""
        self.replace_dead()
        (self.folder / "stop").touch()
        for worker in self.workers:
            try:
                worker.join()
            finally:
                worker.close()
