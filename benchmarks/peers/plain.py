"""The backend of lmdbresults without Celery."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.peers.base import PATIENCE, RESULT, Client, in_each_durability
from benchmarks.rows import OWN
from lmdbresults.app import App, Request
from lmdbresults.backends import LMDBBackend
from lmdbresults.options import options_from_url


class Plain(Client):
    """The backend as plain worker processes use it."""

    def __init__(self, folder: Path, *, file: str = "plain.lmdb", app: App | None = None, **options: Any) -> None:
        path = folder / file
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


NONE, CHECKPOINT, COMMIT = in_each_durability("LMDBBackend", Plain)
#: The first under another name, for scenarios that also have the Celery backend.
BESIDE_CELERY = replace(NONE, name=f"{OWN}, plain")
EVERY = (NONE, CHECKPOINT, COMMIT)
