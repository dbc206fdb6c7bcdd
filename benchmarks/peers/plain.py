"""What plain worker processes use, without Celery: our backend."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.peers.base import RESULT, Peer
from benchmarks.rows import BOUNDED, DISK, KILL, OUR_ROW, OURS
from lmdbresults.app import Request
from lmdbresults.backends import LMDBBackend


class Plain(Peer):
    """The backend as plain worker processes use it."""

    name = OURS
    configuration = "LMDBBackend, durability=none"
    durability = KILL
    option = "none"

    def __init__(self, folder: Path, *, file: str = "plain.lmdb") -> None:
        self.backend = LMDBBackend(folder / file, options={"durability": self.option})

    def request(self, task_id: str) -> Request:
        return Request(task_id, "tasks.answer", (6, 7))

    def store(self, request: Request) -> object:
        return self.backend.store_result(request.id, RESULT, "SUCCESS", request=request)

    def fill(self, task_ids: Iterable[str]) -> None:
        backend = self.backend
        record = backend._record(RESULT, "SUCCESS", None, self.request("any"))
        keys = [backend.get_key_for_task(task_id) for task_id in task_ids]
        backend.store.update(lambda txn: [txn.set(key, record, backend.expires) for key in keys])

    def get(self, task_id: str) -> Any:
        return self.backend.get_task_meta(task_id, cache=False)

    def holds(self, task_id: str) -> bool:
        meta = self.get(task_id)
        return bool(meta["status"] == "SUCCESS" and meta["result"] == RESULT)

    def forget(self, task_id: str) -> None:
        self.backend.forget(task_id)

    def close(self) -> None:
        self.backend.process_cleanup()


class OursPlain(Plain):
    """Where it stands beside our backend for Celery."""

    name = f"{OURS}, plain"


class PlainCheckpoint(Plain):
    name = OUR_ROW[BOUNDED]
    configuration = "LMDBBackend, durability=checkpoint (the default)"
    durability = BOUNDED
    option = "checkpoint"


class PlainCommit(Plain):
    name = OUR_ROW[DISK]
    configuration = "LMDBBackend, durability=commit"
    durability = DISK
    option = "commit"
    operations = 20
