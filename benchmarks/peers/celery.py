"""Result backends of Celery: ours, and the ones that come with it."""

import gc
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

from celery import Celery
from celery.app.task import Context

from benchmarks.peers.base import RESULT, Peer, require
from benchmarks.rows import BOUNDED, DISK, KILL, MEMORY, OUR_ROW, OURS
from benchmarks.servers import IN_MEMORY, Unavailable, redis_server


class CeleryPeer(Peer):
    """A result backend of Celery, default settings but for those given."""

    polls: ClassVar[bool] = False
    """Whether who waits for a result looks every half a second."""

    @classmethod
    def url(cls, folder: Path) -> str:
        """As a user writes it."""
        raise NotImplementedError

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """What a user sets besides the URL."""
        return {}

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.app = self.make_app(Celery, folder, **settings)
        self.backend = self.app.backend

    @classmethod
    def make_app(cls, kind: type[Celery], folder: Path, **settings: Any) -> Any:
        """An application with this result backend."""
        app = kind("benchmark", backend=cls.url(folder), set_as_current=False)
        app.conf.update({**cls.settings(), **settings})
        return app

    @classmethod
    def end(cls, backend: Any) -> None:
        """Let go of all that a backend holds."""
        backend.process_cleanup()

    def request(self, task_id: str) -> Any:
        return Context(worker_request(), id=task_id, root_id=task_id, correlation_id=task_id)

    def renamed(self, request: Any, task_id: str) -> Any:
        request.id = task_id
        return request

    def store(self, request: Any) -> object:
        return self.backend.store_result(request.id, RESULT, "SUCCESS", request=request)

    def start_and_store(self, request: Any) -> None:
        """STARTED, then SUCCESS, as of a task with ``track_started``."""
        self.backend.store_result(request.id, {"pid": 1, "hostname": "w"}, "STARTED", request=request)
        self.backend.store_result(request.id, RESULT, "SUCCESS", request=request)

    def get(self, task_id: str) -> Any:
        return self.backend.get_task_meta(task_id, cache=False)

    def get_cached(self, task_id: str) -> Any:
        """The second look at a result that the client has read."""
        return self.backend.get_task_meta(task_id)

    def holds(self, task_id: str) -> bool:
        meta = self.get(task_id)
        return bool(meta["status"] == "SUCCESS" and meta["result"] == RESULT)

    def forget(self, task_id: str) -> object:
        return self.backend.forget(task_id)

    def close(self) -> None:
        self.end(self.backend)


@cache
def worker_request() -> dict[str, Any]:
    """A request as a worker builds it from a message: the message's headers, and what the worker adds to them."""
    app = Celery("benchmark", set_as_current=False)
    headers, properties, _, _ = app.amqp.as_task_v2("", "tasks.answer", args=(6, 7), kwargs={"unit": "m"})
    delivery = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    call = {"args": [6, 7], "kwargs": {"unit": "m"}, "called_directly": False, "hostname": "celery@worker"}
    return {**headers, **properties, "properties": properties, "delivery_info": delivery, **call}


class Ours(CeleryPeer):
    """This project's backend, the way its users name it."""

    name = OURS
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


class OursCheckpoint(Ours):
    name = OUR_ROW[BOUNDED]
    configuration = "lmdb://, durability=checkpoint (the default)"
    durability = BOUNDED
    loss = "1 s, or 64 MiB"
    option = "checkpoint"


class OursCommit(Ours):
    name = OUR_ROW[DISK]
    configuration = "lmdb://, durability=commit"
    durability = DISK
    loss = "nothing"
    option = "commit"
    operations = 20


class Redis(CeleryPeer):
    """Celery's Redis backend with a server of our own."""

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
        """In one pipeline; what it stores is what storing the first one has left there."""
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
            pending.clear()  # groups that nobody has joined
        gc.collect()  # results that go talk to the server once more
        backend.result_consumer.stop()
        backend.client.connection_pool.disconnect()


class RedisDefault(Redis):
    """As it comes; slower than the one above only while it writes a snapshot."""

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
    name = "files"
    configuration = "file://"
    durability = KILL
    loss = "30 s, torn"
    polls = True

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        (folder / "results").mkdir()

    @classmethod
    def url(cls, folder: Path) -> str:
        return f"file://{folder}/results"


class SQLite(CeleryPeer):
    """Celery's database backend, keeping its connection as it does in the children of a worker."""

    name = "SQLite"
    configuration = "db+sqlite://, WAL, synchronous=NORMAL, pooled"
    durability = BOUNDED
    loss = "4 MB of WAL"
    synchronous = "NORMAL"
    operations = 40
    polls = True

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
        require("sqlalchemy")
        peer = cls(folder)
        if not hasattr(peer.backend, "session_manager"):
            raise Unavailable("cannot be tuned before Celery 5.7")
        peer.get("none")  # makes the tables, which two processes cannot do at once
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
        """Readers do not block writers."""
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


#: One of each kind, none of which syncs.
KINDS = (Ours, Redis, Files, SQLiteOff, Memory)
EVERY = (
    Ours,
    OursCheckpoint,
    OursCommit,
    Redis,
    RedisEverysec,
    RedisAlways,
    Files,
    SQLiteOff,
    SQLite,
    SQLiteFull,
    Memory,
)
