"""What one result costs through `LMDBBackend`, without Celery, beside the bare py-lmdb transactions that it ends in.

Run as python -m benchmarks.plain_backend. The bare transactions put what the store puts, made before the clock starts:
the record with its entry in the expiry index, or the record alone. All write to files that hold results already; into
an empty file (--existing 0) a transaction costs least, and so the ratio is at its highest.
"""

import time
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

import lmdb

from benchmarks import run
from benchmarks.peers import RESULT, Entry, Peer
from lmdbresults.app import Request
from lmdbresults.backends import LMDBBackend
from lmdbresults.store import records

Put = tuple[bytes, bytes, bool]
"""Key, value, and whether it may replace another."""


class PlainPeer:
    """The backend as plain worker processes use it."""

    def __init__(self, path: Path) -> None:
        self.backend = LMDBBackend(path, options={"durability": "none"})

    def request(self, task_id: str) -> Request:
        return Request(task_id, "tasks.answer", (6, 7))

    def store(self, request: Request) -> object:
        return self.backend.store_result(request.id, RESULT, "SUCCESS", request=request)

    def get(self, task_id: str) -> Any:
        return self.backend.get_task_meta(task_id, cache=False)

    def holds(self, task_id: str) -> bool:
        meta = self.get(task_id)
        return bool(meta["status"] == "SUCCESS" and meta["result"] == RESULT)

    def fill(self, task_ids: Iterable[str]) -> None:
        """Store results in one transaction."""
        record, key = self.record("any"), self.backend.get_key_for_task
        with self.backend.store.write() as txn:
            for task_id in task_ids:
                txn.set(key(task_id), record, self.backend.expires)

    def record(self, task_id: str) -> bytes:
        return self.backend._record(RESULT, "SUCCESS", None, self.request(task_id))

    def close(self) -> None:
        self.backend.process_cleanup()


class Recorder:
    """Stands for a transaction, and keeps what is put."""

    def __init__(self) -> None:
        self.puts: list[Put] = []

    def put(self, key: bytes, value: bytes, overwrite: bool = True) -> bool:
        self.puts.append((key, value, overwrite))
        return True


class BarePeer:
    """One py-lmdb transaction an operation. ``limit`` is how many of the puts of the store are made."""

    def __init__(self, path: Path, limit: int) -> None:
        self.environment = lmdb.open(
            str(path), subdir=False, sync=False, metasync=False, readahead=False, map_size=1 << 36
        )
        self.encoder = PlainPeer(path.with_suffix(".unused"))
        self.key = self.encoder.backend.get_key_for_task
        self.limit = limit

    def request(self, task_id: str) -> list[Put]:
        recorder, now = Recorder(), time.time()
        deadline = now + self.encoder.backend.expires
        records.put(cast(Any, recorder), self.key(task_id), self.encoder.record(task_id), deadline, now, [])
        return recorder.puts[: self.limit]

    def store(self, puts: list[Put]) -> None:
        with self.environment.begin(write=True) as transaction:
            for key, value, overwrite in puts:
                transaction.put(key, value, overwrite=overwrite)

    def get(self, task_id: str) -> bytes | None:
        with self.environment.begin() as transaction:
            value: bytes | None = transaction.get(b"k" + self.key(task_id))
        return value

    def holds(self, task_id: str) -> bool:
        with self.environment.begin() as transaction:
            value = records.lookup(transaction, self.key(task_id), time.time())
        return value is not None and self.encoder.backend.decode_result(value)["result"] == RESULT

    def fill(self, task_ids: Iterable[str]) -> None:
        """Store results in one transaction."""
        self.store([put for task_id in task_ids for put in self.request(task_id)])

    def close(self) -> None:
        self.environment.close()
        self.encoder.close()


def filled(peer: PlainPeer | BarePeer, existing: int) -> Peer:
    peer.fill(run.new_ids(existing, Random(existing)))
    return peer


def ours(existing: int, folder: Path, _: ExitStack) -> Peer:
    return filled(PlainPeer(folder / "ours.lmdb"), existing)


def same_puts(existing: int, folder: Path, _: ExitStack) -> Peer:
    return filled(BarePeer(folder / "same.lmdb", limit=2), existing)


def record_only(existing: int, folder: Path, _: ExitStack) -> Peer:
    return filled(BarePeer(folder / "record.lmdb", limit=1), existing)


REFERENCE = "bare, same puts"


def main() -> None:
    """Measure beside as many results as asked for."""
    parser = run.options("benchmarks.plain_backend", __doc__)
    parser.add_argument("--existing", type=int, default=20_000, help="results there before (default: %(default)s)")
    settings = parser.parse_args()
    beside = f"beside {settings.existing:,} results"
    bare = f"py-lmdb transaction, sync=False, {beside}"
    entries = (
        Entry("ours", f"LMDBBackend, durability=none, {beside}", "none", partial(ours, settings.existing)),
        Entry(REFERENCE, f"{bare}: record and expiry index", "none", partial(same_puts, settings.existing)),
        Entry("bare, record only", f"{bare}: the record alone", "none", partial(record_only, settings.existing)),
    )
    run.run(settings, entries, {"store": run.store, "get": run.get}, REFERENCE)


if __name__ == "__main__":
    main()
