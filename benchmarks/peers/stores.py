"""Stores of bytes with a time to live: ours, diskcache, and sqlite3 by hand."""

import sqlite3
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers.base import KEY_PREFIX, RESULT, Peer, require
from benchmarks.peers.limit import template
from benchmarks.rows import BOUNDED, DISK, KILL, OUR_ROW, OURS
from lmdbresults import open_store

Pair = tuple[bytes, bytes]
TTL = 86_400.0


class BytesPeer(Peer):
    """A key, and the bytes of a record."""

    def __init__(self, folder: Path) -> None:
        self.value = template(folder, RESULT)[0][0][1]

    def request(self, task_id: str) -> Pair:
        return KEY_PREFIX + task_id.encode(), self.value

    def holds(self, task_id: str) -> bool:
        return bool(self.get(task_id) == self.value)


class OurStore(BytesPeer):
    name = OURS
    configuration = "open_store(), durability=none"
    durability = KILL
    option = "none"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.opened = open_store(folder / "store.lmdb", durability=self.option)

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


class OurStoreCheckpoint(OurStore):
    name = OUR_ROW[BOUNDED]
    configuration = "open_store(), durability=checkpoint (the default)"
    durability = BOUNDED
    option = "checkpoint"


class OurStoreCommit(OurStore):
    name = OUR_ROW[DISK]
    configuration = "open_store(), durability=commit"
    durability = DISK
    option = "commit"
    operations = 20


class DiskCache(BytesPeer):
    name = "diskcache"
    configuration = "diskcache.Cache, default settings (WAL, synchronous=NORMAL)"
    durability = BOUNDED

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack) -> None:
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


class SQLiteByHand(BytesPeer):
    """A table, prepared statements, no layer in between."""

    name = "sqlite3"
    configuration = "sqlite3 by hand, WAL, synchronous=NORMAL"
    durability = BOUNDED
    synchronous = "NORMAL"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.connection = sqlite3.connect(folder / "by-hand.sqlite", isolation_level=None, timeout=60)
        self.run = self.connection.execute
        self.run("PRAGMA journal_mode=WAL")
        self.run(f"PRAGMA synchronous={self.synchronous}")
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


class SQLiteOff(SQLiteByHand):
    name = "sqlite3, OFF"
    configuration = "sqlite3 by hand, WAL, synchronous=OFF"
    durability = KILL
    synchronous = "OFF"


class SQLiteFull(SQLiteByHand):
    name = "sqlite3, FULL"
    configuration = "sqlite3 by hand, WAL, synchronous=FULL"
    durability = DISK
    synchronous = "FULL"
    operations = 20


KINDS = (OurStore, SQLiteOff, DiskCache)
EVERY = (OurStore, OurStoreCheckpoint, OurStoreCommit, SQLiteOff, SQLiteByHand, SQLiteFull, DiskCache)
