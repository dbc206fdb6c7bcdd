"""The peers: what is compared, each behind the same few calls, with the configuration that its row is labelled with.

A peer that cannot run here raises Unavailable when it is opened and becomes a row that says so.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import lmdb
from celery import Celery
from celery.app.task import Context

from benchmarks.servers import Unavailable, redis_server

RESULT = {"answer": 42, "text": "x" * 200}
"""What every task returns."""

KEY_PREFIX = b"celery-task-meta-"


class Peer(Protocol):
    """A store under the common work."""

    def request(self, task_id: str) -> Any:
        """What a worker has in its hands when it comes to store; made before the clock starts."""

    def store(self, request: Any) -> object:
        """Store RESULT as the success of that request."""

    def get(self, task_id: str) -> Any:
        """Read a task's state and result, past every cache of the client."""

    def holds(self, task_id: str) -> bool:
        """Whether exactly RESULT comes back for this id."""

    def close(self) -> None:
        """Let go of files and connections."""


class CeleryPeer:
    """A result backend of Celery, default settings but for those given."""

    def __init__(self, url: str, **settings: Any) -> None:
        app = Celery("benchmark", backend=url, set_as_current=False)
        app.conf.update(settings)
        self.backend = app.backend

    def request(self, task_id: str) -> Any:
        return Context(worker_request(), id=task_id, root_id=task_id, correlation_id=task_id)

    def store(self, request: Any) -> object:
        return self.backend.store_result(request.id, RESULT, "SUCCESS", request=request)

    def get(self, task_id: str) -> Any:
        return self.backend.get_task_meta(task_id, cache=False)

    def holds(self, task_id: str) -> bool:
        meta = self.get(task_id)
        return bool(meta["status"] == "SUCCESS" and meta["result"] == RESULT)

    def close(self) -> None:
        self.backend.process_cleanup()


@cache
def worker_request() -> dict[str, Any]:
    """A request as a worker builds it from a message: the message's headers, and what the worker adds to them."""
    app = Celery("benchmark", set_as_current=False)
    headers, properties, _, _ = app.amqp.as_task_v2("", "tasks.answer", args=(6, 7), kwargs={"unit": "m"})
    delivery = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    call = {"args": [6, 7], "kwargs": {"unit": "m"}, "called_directly": False, "hostname": "celery@worker"}
    return {**headers, **properties, "properties": properties, "delivery_info": delivery, **call}


class BareLMDB:
    """The limit: one py-lmdb transaction an operation, with the bytes that Celery's JSON serializer makes."""

    def __init__(self, path: Path) -> None:
        self.environment = lmdb.open(str(path), subdir=False, sync=False, map_size=1 << 32)
        self.value = b""

    def request(self, task_id: str) -> tuple[bytes, bytes]:
        return KEY_PREFIX + task_id.encode(), encoded_meta(task_id)

    def store(self, request: tuple[bytes, bytes]) -> object:
        with self.environment.begin(write=True) as transaction:
            return transaction.put(*request)

    def get(self, task_id: str) -> Any:
        with self.environment.begin() as transaction:
            return transaction.get(KEY_PREFIX + task_id.encode())

    def holds(self, task_id: str) -> bool:
        return bool(self.get(task_id) == encoded_meta(task_id))

    def close(self) -> None:
        self.environment.close()


def encoded_meta(task_id: str, result: Any = RESULT) -> bytes:
    """The bytes that Celery's key-value backends store for a success."""
    meta: dict[str, Any] = {"status": "SUCCESS", "result": result, "traceback": None, "children": []}
    meta |= {"date_done": "2026-01-01T00:00:00.000000+00:00", "task_id": task_id}
    return json_backend().encode(meta).encode()  # type: ignore[no-any-return]


@cache
def json_backend() -> Any:
    return Celery("benchmark", backend="cache+memory://", set_as_current=False).backend


def ours(durability: str) -> "Opener":
    """Opener of this project's backend, the way its users name it."""

    def open_ours(folder: Path, _: ExitStack) -> Peer:
        if not entry_points(group="celery.result_backends", name="lmdb"):
            raise Unavailable("not installed: pip install -e '.[bench]'")
        return CeleryPeer(f"lmdb://{folder}/ours-{durability}.lmdb?durability={durability}")

    return open_ours


def limit(folder: Path, _: ExitStack) -> Peer:
    return BareLMDB(folder / "bare.lmdb")


def redis(folder: Path, stack: ExitStack) -> Peer:
    """Celery's Redis backend with a server of our own, nothing written to disk."""
    require("redis")
    return CeleryPeer(f"redis+socket://{stack.enter_context(redis_server(folder))}")


def files(folder: Path, _: ExitStack) -> Peer:
    (folder / "files").mkdir()
    return CeleryPeer(f"file://{folder}/files")


def sqlite(folder: Path, _: ExitStack) -> Peer:
    """Celery's database backend, keeping its connection as it does in the children of a worker."""
    require("sqlalchemy")
    peer = CeleryPeer(f"db+sqlite:///{folder}/results.sqlite", database_engine_callback=tune_sqlite)
    if not hasattr(peer.backend, "session_manager"):
        raise Unavailable("cannot be tuned before Celery 5.7")
    peer.backend.session_manager.forked = True
    return peer


def tune_sqlite(engine: Any) -> None:
    """Readers do not block writers, and a commit is not an fsync."""
    from sqlalchemy import event

    def connected(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL").close()
        connection.execute("PRAGMA synchronous=NORMAL").close()

    event.listen(engine, "connect", connected)


def require(module: str) -> None:
    if find_spec(module) is None:
        raise Unavailable(f"not installed: pip install {module}")


Opener = Callable[[Path, ExitStack], Peer]
"""Opens a peer with its files in this folder; what it has to end afterwards goes on the stack."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the tables."""

    name: str
    detail: str
    """How it is configured."""
    durability: str
    """memory, none, checkpoint or commit: what a power loss takes; only alike can be compared."""

    @property
    def comparable(self) -> bool:
        """Whether nothing is synced, as for the reference."""
        return self.durability in ("memory", "none")


@dataclass(frozen=True, slots=True)
class Entry(Row):
    """A row that is measured operation by operation."""

    open: Opener
    operations: int = 200
    """In each block; fewer for the slow, lest they take all the time."""


@dataclass(slots=True)
class Contestant:
    """An entry that is open and can be measured."""

    entry: Entry
    peer: Peer
    stored: list[str] = field(default_factory=list)
    """The ids it holds results of."""
