"""Bare LMDB, a lower bound: one py-lmdb transaction with the flags and the bytes of our store."""

import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lmdb

from benchmarks.peers.base import PATIENCE, RESULT, Client, Peer
from benchmarks.rows import BARE, BARE_ROW, DISK, KILL
from lmdbresults.app import Request
from lmdbresults.backends import LMDBBackend

Pair = tuple[bytes, bytes]

ANY_ID = "00000000-0000-4000-8000-000000000000"
FLAGS: dict[str, Any] = {"subdir": False, "map_size": 64 << 30, "max_spare_txns": 0, "readahead": False}


class BareLMDB(Client):
    """Puts and gets the record that our store writes for a result; decodes nothing."""

    def __init__(self, folder: Path, *, sync: bool = False, file: str = "bare.lmdb") -> None:
        self.place, self.value = template(folder)
        self.environment = lmdb.open(str(folder / file), sync=sync, metasync=sync, **FLAGS)

    def request(self, task_id: str) -> Pair:
        return self.place_of(task_id), self.value

    def store(self, request: Pair) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.put(*request)

    def fill(self, task_ids: Iterable[str]) -> None:
        with self.environment.begin(write=True) as transaction:
            for task_id in task_ids:
                transaction.put(*self.request(task_id))

    def start_and_store(self, request: Pair) -> None:
        self.store(request)
        self.store(request)

    def get(self, task_id: str) -> bytes | None:
        with self.environment.begin() as transaction:
            value: bytes | None = transaction.get(self.place_of(task_id))
        return value

    def get_many(self, task_ids: list[str]) -> list[bytes | None]:
        with self.environment.begin() as transaction:
            return [transaction.get(self.place_of(task_id)) for task_id in task_ids]

    def place_of(self, task_id: str) -> bytes:
        return self.place.replace(ANY_ID.encode(), task_id.encode())

    def holds(self, task_id: str) -> bool:
        return self.get(task_id) == self.value

    def forget(self, task_id: str) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.delete(self.place_of(task_id))

    def close(self) -> None:
        self.environment.close()


class BareWakeUp(BareLMDB):
    """The same with a datagram to the only waiter, which then reads the bytes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.address = str(folder / "waiter")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.committed = 0

    def store(self, request: Pair) -> None:
        super().store(request)
        self.committed = time.monotonic_ns()
        with suppress(FileNotFoundError):  # there is no waiter
            self.socket.sendto(b"stored", self.address)

    def prepare_wait(self, task_id: str) -> None:
        if not os.path.exists(self.address):
            self.socket.bind(self.address)

    def wait(self, task_id: str) -> Any:
        self.socket.recv(64)
        return RESULT if self.get(task_id) else None  # not decoded

    def close(self) -> None:
        self.socket.close()
        super().close()


NONE = Peer(
    name=BARE, configuration="py-lmdb transaction, sync=False, the same bytes", durability=KILL, client=BareLMDB,
    loss="the file",
)  # fmt: skip
COMMIT = Peer(
    name=BARE_ROW[DISK], configuration="py-lmdb transaction, sync=True, the same bytes", durability=DISK,
    client=BareLMDB, options={"sync": True}, loss="nothing", operations=20,
)  # fmt: skip
WAKE_UP = replace(
    NONE, client=BareWakeUp, configuration="py-lmdb transaction, sync=False, and a datagram; nothing decoded"
)


def template(folder: Path) -> Pair:
    """Return what a store's file holds for one result."""
    with TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary, "template.lmdb")
        backend = LMDBBackend(path, options={"durability": "none"})
        backend.store_result(ANY_ID, RESULT, "SUCCESS", request=Request(ANY_ID, "tasks.answer", (6, 7)))
        backend.process_cleanup()  # a process must not open a file twice
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment, environment.begin() as txn:
            return next((bytes(key), bytes(value)) for key, value in txn.cursor() if ANY_ID.encode() in key)
