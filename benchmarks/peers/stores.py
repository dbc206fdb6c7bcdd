"""Stores without a task framework: lmdbresults, diskcache, SQLite, and Redis with a channel for each result."""

import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers.bare import template
from benchmarks.peers.base import KEY_PREFIX, PATIENCE, RESULT, Client, Peer, in_each_durability, off_and_full, require
from benchmarks.rows import BOUNDED, KILL
from benchmarks.servers import redis_server
from lmdbresults import open_store

Pair = tuple[bytes, bytes]
TTL = 86_400.0


class Bytes(Client):
    """Stores the record of a result as bytes."""

    def __init__(self, folder: Path) -> None:
        _, self.value = template(folder)

    def request(self, task_id: str) -> Pair:
        return KEY_PREFIX + task_id.encode(), self.value

    def holds(self, task_id: str) -> bool:
        return bool(self.get(task_id) == self.value)


class Store(Bytes):
    def __init__(self, folder: Path, *, durability: str) -> None:
        super().__init__(folder)
        self.opened = open_store(folder / "store.lmdb", durability=durability)

    def store(self, request: Pair) -> object:
        return self.opened.set(*request, TTL)

    def fill(self, task_ids: Iterable[str]) -> None:
        with self.opened.write() as txn:
            for task_id in task_ids:
                txn.set(*self.request(task_id), TTL)

    def get(self, task_id: str) -> Any:
        return self.opened.get(KEY_PREFIX + task_id.encode())

    def forget(self, task_id: str) -> object:
        return self.opened.delete(KEY_PREFIX + task_id.encode())

    def close(self) -> None:
        self.opened.close()


class DiskCache(Bytes):
    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **_: Any) -> None:
        require("diskcache")

    def __init__(self, folder: Path) -> None:
        from diskcache import Cache

        super().__init__(folder)
        self.cache = Cache(folder / "cache")

    def store(self, request: Pair) -> object:
        return self.cache.set(*request, expire=TTL)

    def fill(self, task_ids: Iterable[str]) -> None:
        with self.cache.transact():
            super().fill(task_ids)

    def get(self, task_id: str) -> Any:
        return self.cache.get(KEY_PREFIX + task_id.encode())

    def forget(self, task_id: str) -> object:
        return self.cache.delete(KEY_PREFIX + task_id.encode())

    def close(self) -> None:
        self.cache.close()


class SQLite(Bytes):
    def __init__(self, folder: Path, *, synchronous: str) -> None:
        super().__init__(folder)
        self.connection = sqlite3.connect(folder / "results.sqlite", isolation_level=None, timeout=60)
        self.run = self.connection.execute
        self.run("PRAGMA journal_mode=WAL")
        self.run(f"PRAGMA synchronous={synchronous}")
        self.run("CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, value BLOB, deadline REAL) WITHOUT ROWID")
        self.run("CREATE INDEX IF NOT EXISTS deadlines ON results (deadline)")

    def store(self, request: Pair) -> object:
        return self.run("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (*request, time.time() + TTL))

    def fill(self, task_ids: Iterable[str]) -> None:
        self.run("BEGIN")
        super().fill(task_ids)
        self.run("COMMIT")

    def get(self, task_id: str) -> Any:
        wanted = (KEY_PREFIX + task_id.encode(), time.time())
        found = self.run("SELECT value FROM results WHERE key = ? AND deadline > ?", wanted).fetchone()
        return found and found[0]

    def forget(self, task_id: str) -> object:
        return self.run("DELETE FROM results WHERE key = ?", (KEY_PREFIX + task_id.encode(),))

    def close(self) -> None:
        self.connection.close()


class RedisPubSub(Client):
    """What Celery's Redis backend does to store and to wait, by redis-py."""

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **_: Any) -> None:
        require("redis")
        stack.enter_context(redis_server(folder))

    def __init__(self, folder: Path) -> None:
        from redis import Redis

        self.client = Redis(unix_socket_path=str(folder / "redis.sock"))
        self.messages = self.client.pubsub(ignore_subscribe_messages=True)
        self.committed = 0

    def request(self, task_id: str) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "status": "SUCCESS",
            "result": RESULT,
            "traceback": None,
            "children": [],
            "task_id": task_id,
        }
        return {**meta, "date_done": "2026-01-01T00:00:00.000000+00:00"}

    def store(self, request: dict[str, Any]) -> object:
        key, meta = self.message(request)
        with self.client.pipeline() as pipe:
            return pipe.setex(key, int(TTL), meta).publish(key, meta).execute()

    def message(self, request: dict[str, Any]) -> tuple[bytes, str]:
        return KEY_PREFIX + request["task_id"].encode(), json.dumps(request)

    def get(self, task_id: str) -> Any:
        meta: Any = self.client.get(KEY_PREFIX + task_id.encode())
        return meta and json.loads(meta)["result"]

    def holds(self, task_id: str) -> bool:
        return bool(self.get(task_id) == RESULT)

    def forget(self, task_id: str) -> object:
        return self.client.delete(KEY_PREFIX + task_id.encode())

    def prepare_wait(self, task_id: str) -> None:
        self.messages.subscribe(KEY_PREFIX + task_id.encode())
        self.messages.get_message(timeout=PATIENCE)  # the confirmation

    def wait(self, task_id: str) -> Any:
        message = self.messages.get_message(timeout=PATIENCE)
        return json.loads(message["data"])["result"]

    def close(self) -> None:
        self.messages.close()
        self.client.close()


NONE, CHECKPOINT, COMMIT = in_each_durability("open_store()", Store)
SQLITE = Peer(
    name="sqlite3", configuration="sqlite3, a table and an index, WAL, synchronous=NORMAL", durability=BOUNDED,
    client=SQLite, options={"synchronous": "NORMAL"},
)  # fmt: skip
SQLITE_OFF, SQLITE_FULL = off_and_full(SQLITE)
DISKCACHE = Peer(
    name="diskcache", configuration="diskcache.Cache, default settings (WAL, synchronous=NORMAL)", durability=BOUNDED,
    client=DiskCache,
)  # fmt: skip
EVERY = (NONE, CHECKPOINT, COMMIT, SQLITE_OFF, SQLITE, SQLITE_FULL, DISKCACHE)

PUBSUB = Peer(
    name="Redis", configuration="redis-py, SETEX and PUBLISH in one pipeline, the meta as JSON", durability=KILL,
    client=RedisPubSub,
)  # fmt: skip
