"""Result backends of Celery: lmdbresults, and those that come with Celery."""

import gc
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult

from benchmarks.peers.base import PATIENCE, RESULT, Client, Peer, in_each_durability, off_and_full, require
from benchmarks.rows import BOUNDED, DISK, KILL
from benchmarks.rows import MEMORY as IN_PROCESS
from benchmarks.servers import IN_MEMORY, Unavailable, redis_server


class Backend(Client):
    """A result backend of Celery with its default settings, except for those given."""

    app_class: ClassVar[type[Celery]] = Celery

    def __init__(self, folder: Path, *, settings: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.app = self.app_class("benchmark", backend=self.url(folder, **options), set_as_current=False)
        self.app.conf.update(settings or {})

    @cached_property
    def backend(self) -> Any:
        """The backend; opened by the first use, so that a worker does not open it before it forks."""
        return self.app.backend

    @classmethod
    def url(cls, folder: Path, **options: Any) -> str:
        """Return the URL of the backend."""
        raise NotImplementedError

    def request(self, task_id: str) -> Any:
        return Context(worker_request(), id=task_id, root_id=task_id, correlation_id=task_id)

    def renamed(self, request: Any, task_id: str) -> Any:
        request.id = task_id
        return request

    def store(self, request: Any) -> object:
        return self.backend.store_result(request.id, RESULT, "SUCCESS", request=request)

    def start_and_store(self, request: Any) -> None:
        """Store STARTED, then SUCCESS, like a task with ``track_started``."""
        self.backend.store_result(request.id, {"pid": 1, "hostname": "w"}, "STARTED", request=request)
        self.backend.store_result(request.id, RESULT, "SUCCESS", request=request)

    def get(self, task_id: str) -> Any:
        return self.backend.get_task_meta(task_id, cache=False)

    def get_cached(self, task_id: str) -> Any:
        """Read a result that the client has in its cache."""
        return self.backend.get_task_meta(task_id)

    def holds(self, task_id: str) -> bool:
        meta = self.get(task_id)
        return bool(meta["status"] == "SUCCESS" and meta["result"] == RESULT)

    def forget(self, task_id: str) -> object:
        return self.backend.forget(task_id)

    def wait(self, task_id: str) -> Any:
        return AsyncResult(task_id, app=self.app).get(timeout=PATIENCE)

    def close(self) -> None:
        self.backend.process_cleanup()


@cache
def worker_request() -> dict[str, Any]:
    """Return a request as a worker builds it: the headers of the message, and what the worker adds."""
    app = Celery("benchmark", set_as_current=False)
    headers, properties, _, _ = app.amqp.as_task_v2("", "tasks.answer", args=(6, 7), kwargs={"unit": "m"})
    delivery = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    call = {"args": [6, 7], "kwargs": {"unit": "m"}, "called_directly": False, "hostname": "celery@worker"}
    return {**headers, **properties, "properties": properties, "delivery_info": delivery, **call}


class LMDBResults(Backend):
    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **_: Any) -> None:
        if not entry_points(group="celery.result_backends", name="lmdb"):
            raise Unavailable("not installed: pip install -e '.[bench]'")

    @classmethod
    def url(cls, folder: Path, *, durability: str) -> str:  # type: ignore[override]
        return f"lmdb://{folder}/results.lmdb?durability={durability}"

    def close(self) -> None:
        self.backend.close()


class Redis(Backend):
    """Celery's Redis backend, with a private server."""

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **persistence: str) -> None:
        require("redis")
        stack.enter_context(redis_server(folder, persistence or IN_MEMORY))

    @classmethod
    def url(cls, folder: Path, **_: str) -> str:
        return f"redis+socket://{folder}/redis.sock"

    def fill(self, task_ids: Iterable[str]) -> None:
        """Store copies of the first one's record, in one pipeline."""
        first, *others = task_ids
        self.store(self.request(first))
        key_of, client = self.backend.get_key_for_task, self.backend.client
        value = client.get(key_of(first))
        with client.pipeline(transaction=False) as pipe:
            for task_id in others:
                pipe.set(key_of(task_id), value, self.backend.expires)
            pipe.execute()

    def close(self) -> None:
        for pending in self.backend._pending_results:
            pending.clear()  # groups that were not joined
        gc.collect()  # deleting a result sends a command to the server
        self.backend.result_consumer.stop()
        self.backend.client.connection_pool.disconnect()


class Files(Backend):
    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **_: Any) -> None:
        (folder / "results").mkdir()

    @classmethod
    def url(cls, folder: Path, **_: Any) -> str:
        return f"file://{folder}/results"


class SQLite(Backend):
    """Celery's database backend, in WAL mode, so that readers do not block writers.

    It keeps its connection, as in the pool processes of a worker.
    """

    def __init__(self, folder: Path, *, synchronous: str, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.synchronous = synchronous
        self.app.conf.update(
            database_engine_callback=self.tune, database_engine_options={"connect_args": {"timeout": 60}}
        )

    @cached_property
    def backend(self) -> Any:
        backend = super().backend
        if hasattr(backend, "session_manager"):
            backend.session_manager.forked = True
        return backend

    def tune(self, engine: Any) -> None:
        """Set WAL and how often to sync."""
        from sqlalchemy import event

        def connected(connection: Any, _: object) -> None:
            connection.execute("PRAGMA journal_mode=WAL").close()
            connection.execute(f"PRAGMA synchronous={self.synchronous}").close()

        event.listen(engine, "connect", connected)

    def close(self) -> None:
        super().close()
        for engine in self.backend.session_manager._engines.values():
            engine.dispose()  # Python 3.13 warns of connections that are not closed

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **options: Any) -> None:
        require("sqlalchemy")
        client = cls(folder, **options)
        if not hasattr(client.backend, "session_manager"):
            raise Unavailable("cannot be tuned before Celery 5.7")
        client.get("none")  # creates the tables, which two processes cannot do at the same time
        client.close()

    @classmethod
    def url(cls, folder: Path, **_: Any) -> str:
        return f"db+sqlite:///{folder}/results.sqlite"


class Memory(Backend):
    @classmethod
    def url(cls, folder: Path, **_: Any) -> str:
        return "cache+memory://"


NONE, CHECKPOINT, COMMIT = in_each_durability("lmdb://", LMDBResults)

REDIS = Peer(
    name="Redis", configuration="redis+socket://, nothing written to disk", durability=KILL, client=Redis, loss="all"
)
#: Slower than in memory only while it writes a snapshot.
REDIS_DEFAULT = replace(
    REDIS, name="Redis, default", configuration="redis+socket://, snapshots as shipped (60 s and 10,000 changes, ...)",
    options={"save": "3600 1 300 100 60 10000", "appendonly": "no"}, loss="1 min to 1 h",
)  # fmt: skip
REDIS_EVERYSEC = replace(
    REDIS, name="Redis, everysec", configuration="redis+socket://, appendonly, appendfsync everysec",
    options={"save": "", "appendonly": "yes", "appendfsync": "everysec"}, durability=BOUNDED, loss="1 to 2 s",
)  # fmt: skip
REDIS_ALWAYS = replace(
    REDIS, name="Redis, always", configuration="redis+socket://, appendonly, appendfsync always",
    options={"save": "", "appendonly": "yes", "appendfsync": "always"}, durability=DISK, loss="nothing", operations=20,
)  # fmt: skip

FILES = Peer(name="file://", configuration="file://", durability=KILL, client=Files, loss="30 s, torn")

SQLITE = Peer(
    name="SQLite", configuration="db+sqlite://, WAL, synchronous=NORMAL, pooled", durability=BOUNDED, client=SQLite,
    options={"synchronous": "NORMAL"}, loss="4 MB of WAL", operations=40,
)  # fmt: skip
SQLITE_OFF, SQLITE_FULL = off_and_full(SQLITE)

MEMORY = Peer(
    name="memory", configuration="cache+memory://, a dictionary", durability=IN_PROCESS, client=Memory, loss="all"
)

#: One of each kind that processes can share; none of them syncs.
SHARED = (NONE, REDIS, FILES, SQLITE_OFF)
KINDS = (*SHARED, MEMORY)
EVERY = (
    NONE, CHECKPOINT, COMMIT, REDIS, REDIS_EVERYSEC, REDIS_ALWAYS, FILES, SQLITE_OFF, SQLITE, SQLITE_FULL, MEMORY
)  # fmt: skip
