"""The backend of lmdbresults without Celery."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.peers.base import PATIENCE, RESULT, Peer
from benchmarks.rows import BOUNDED, DISK, KILL, OWN, OWN_ROW
from lmdbresults.app import App, Request
from lmdbresults.backends import LMDBBackend
from lmdbresults.options import options_from_url


class Plain(Peer):
    """The backend as plain worker processes use it."""

    name = OWN
    configuration = "LMDBBackend, durability=none"
    durability = KILL
    option = "none"

    def __init__(self, folder: Path, *, file: str = "plain.lmdb", app: App | None = None, **options: Any) -> None:
        path = folder / file
        options = {"durability": self.option, **options}
        self.backend = LMDBBackend(path, app=app, options=options_from_url(path, **options))

    def request(self, task_id: str) -> Request:
        return Request(task_id, "tasks.answer", (6, 7))

    def store(self, request: Request) -> object:
        return self.backend.store_result(request.id, RESULT, "SUCCESS", request=request)

    def fill(self, task_ids: Iterable[str]) -> None:
        self.backend.store_many((task_id, RESULT, "SUCCESS", None, self.request(task_id)) for task_id in task_ids)

    def get(self, task_id: str) -> Any:
        return self.backend.get_task_meta(task_id, cache=False)

    def holds(self, task_id: str) -> bool:
        meta = self.get(task_id)
        return bool(meta["status"] == "SUCCESS" and meta["result"] == RESULT)

    def forget(self, task_id: str) -> None:
        self.backend.forget(task_id)

    def wait(self, task_id: str) -> Any:
        return self.backend.wait_for(task_id, timeout=PATIENCE)["result"]

    def close(self) -> None:
        self.backend.process_cleanup()


class PlainBesideCelery(Plain):
    """The same under another name, for scenarios that also have the Celery backend."""

    name = f"{OWN}, plain"


class PlainCheckpoint(Plain):
    name = OWN_ROW[BOUNDED]
    configuration = "LMDBBackend, durability=checkpoint (the default)"
    durability = BOUNDED
    option = "checkpoint"


class PlainCommit(Plain):
    name = OWN_ROW[DISK]
    configuration = "LMDBBackend, durability=commit"
    durability = DISK
    option = "commit"
    operations = 20
