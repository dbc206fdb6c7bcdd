"""Result backends of Celery: lmdbresults, and those that come with Celery."""

import gc
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult

from benchmarks.peers.base import PATIENCE, RESULT, Peer, require
from benchmarks.rows import BOUNDED, DISK, KILL, MEMORY, OWN, OWN_ROW
from benchmarks.servers import IN_MEMORY, Unavailable, redis_server


class CeleryPeer(Peer):
    """A result backend of Celery with its default settings, except for those given."""

    app_class: ClassVar[type[Celery]] = Celery

    @classmethod
    def url(cls, folder: Path) -> str:
        """Return the URL of the backend."""
        raise NotImplementedError

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Return the other settings."""
        return {}

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.app = self.make_app(folder, **settings)
        self.backend = self.app.backend

    @classmethod
    def make_app(cls, folder: Path, **settings: Any) -> Any:
        """Return an application with this result backend."""
        app = cls.app_class("benchmark", backend=cls.url(folder), set_as_current=False)
        app.conf.update({**cls.settings(), **settings})
        return app

    @classmethod
    def end(cls, backend: Any) -> None:
        """Close files and connections of a backend."""
        backend.process_cleanup()

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
        self.end(self.backend)


@cache
def worker_request() -> dict[str, Any]:
    """Return a request as a worker builds it: the headers of the message, and what the worker adds."""
    app = Celery("benchmark", set_as_current=False)
    headers, properties, _, _ = app.amqp.as_task_v2("", "tasks.answer", args=(6, 7), kwargs={"unit": "m"})
    delivery = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    call = {"args": [6, 7], "kwargs": {"unit": "m"}, "called_directly": False, "hostname": "celery@worker"}
    return {**headers, **properties, "properties": properties, "delivery_info": delivery, **call}


class LMDBResults(CeleryPeer):
    """The Celery backend of lmdbresults."""

    name = OWN
    configuration = "lmdb://, durability=none"
    durability = KILL
    loss = "the file"
    option = "none"

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        if not entry_points(group="celery.result_backends", name="lmdb"):
            raise Unavailable("not installed: pip install -e '.[bench]'")

    @classmethod
    def url(cls, folder: Path) -> str:
        return f"lmdb://{folder}/results.lmdb?durability={cls.option}"

    @classmethod
    def end(cls, backend: Any) -> None:
        backend.close()


class LMDBResultsCheckpoint(LMDBResults):
    name = OWN_ROW[BOUNDED]
    configuration = "lmdb://, durability=checkpoint (the default)"
    durability = BOUNDED
    loss = "1 s, or 64 MiB"
    option = "checkpoint"


class LMDBResultsCommit(LMDBResults):
    name = OWN_ROW[DISK]
    configuration = "lmdb://, durability=commit"
    durability = DISK
    loss = "nothing"
    option = "commit"
    operations = 20


class Redis(CeleryPeer):
    """Celery's Redis backend, with a private server."""

    name = "Redis"
    configuration = "redis+socket://, nothing written to disk"
    durability = KILL
    loss = "all"
    persistence: ClassVar[Mapping[str, str]] = IN_MEMORY

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        require("redis")
        stack.enter_context(redis_server(folder, cls.persistence))

    @classmethod
    def url(cls, folder: Path) -> str:
        return f"redis+socket://{folder}/redis.sock"

    def fill(self, task_ids: Iterable[str]) -> None:
        """Store copies of the first one's record, in one pipeline."""
        first, *others = task_ids
        self.store(self.request(first))
        key_of, client = self.backend.get_key_for_task, self.backend.client
        value = client.get(key_of(first))
        with client.pipeline(transaction=False) as pipe:
            for task_id in others:
                pipe.set(key_of(task_id), value.replace(first.encode(), task_id.encode()), ex=self.backend.expires)
            pipe.execute()

    @classmethod
    def end(cls, backend: Any) -> None:
        for pending in backend._pending_results:
            pending.clear()  # groups that were not joined
        gc.collect()  # deleting a result sends a command to the server
        backend.result_consumer.stop()
        backend.client.connection_pool.disconnect()


class RedisDefault(Redis):
    """Redis with its default settings: slower than in memory only while it writes a snapshot."""

    name = "Redis, default"
    configuration = "redis+socket://, snapshots as shipped (60 s and 10,000 changes, ...)"
    loss = "1 min to 1 h"
    persistence: ClassVar[Mapping[str, str]] = {"save": "3600 1 300 100 60 10000", "appendonly": "no"}


class RedisEverysec(Redis):
    name = "Redis, everysec"
    configuration = "redis+socket://, appendonly, appendfsync everysec"
    durability = BOUNDED
    loss = "1 to 2 s"
    persistence: ClassVar[Mapping[str, str]] = {"save": "", "appendonly": "yes", "appendfsync": "everysec"}


class RedisAlways(Redis):
    name = "Redis, always"
    configuration = "redis+socket://, appendonly, appendfsync always"
    durability = DISK
    loss = "nothing"
    persistence: ClassVar[Mapping[str, str]] = {"save": "", "appendonly": "yes", "appendfsync": "always"}
    operations = 20


class Files(CeleryPeer):
    name = "file://"
    configuration = "file://"
    durability = KILL
    loss = "30 s, torn"

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        (folder / "results").mkdir()

    @classmethod
    def url(cls, folder: Path) -> str:
        return f"file://{folder}/results"


class SQLite(CeleryPeer):
    """Celery's database backend. It keeps its connection, as in the pool processes of a worker."""

    name = "SQLite"
    configuration = "db+sqlite://, WAL, synchronous=NORMAL, pooled"
    durability = BOUNDED
    loss = "4 MB of WAL"
    synchronous = "NORMAL"
    operations = 40

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        require("sqlalchemy")
        peer = cls(folder)
        if not hasattr(peer.backend, "session_manager"):
            raise Unavailable("cannot be tuned before Celery 5.7")
        peer.get("none")  # creates the tables, which two processes cannot do at the same time
        peer.close()

    @classmethod
    def url(cls, folder: Path) -> str:
        return f"db+sqlite:///{folder}/results.sqlite"

    @classmethod
    def settings(cls) -> dict[str, Any]:
        return {"database_engine_callback": cls.tune, "database_engine_options": {"connect_args": {"timeout": 60}}}

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        if hasattr(self.backend, "session_manager"):
            self.backend.session_manager.forked = True

    @classmethod
    def tune(cls, engine: Any) -> None:
        """Set WAL, so that readers do not block writers."""
        from sqlalchemy import event

        def connected(connection: Any, _: object) -> None:
            connection.execute("PRAGMA journal_mode=WAL").close()
            connection.execute(f"PRAGMA synchronous={cls.synchronous}").close()

        event.listen(engine, "connect", connected)


class SQLiteOff(SQLite):
    name = "SQLite, OFF"
    configuration = "db+sqlite://, WAL, synchronous=OFF, pooled"
    durability = KILL
    loss = "the file"
    synchronous = "OFF"


class SQLiteFull(SQLite):
    name = "SQLite, FULL"
    configuration = "db+sqlite://, WAL, synchronous=FULL, pooled"
    durability = DISK
    loss = "nothing"
    synchronous = "FULL"
    operations = 20


class Memory(CeleryPeer):
    name = "memory"
    configuration = "cache+memory://, a dictionary"
    durability = MEMORY
    loss = "all"
    shared = False

    @classmethod
    def url(cls, folder: Path) -> str:
        return "cache+memory://"


#: One of each kind; none of them syncs.
KINDS = (LMDBResults, Redis, Files, SQLiteOff, Memory)
EVERY = (
    LMDBResults,
    LMDBResultsCheckpoint,
    LMDBResultsCommit,
    Redis,
    RedisEverysec,
    RedisAlways,
    Files,
    SQLiteOff,
    SQLite,
    SQLiteFull,
    Memory,
)
