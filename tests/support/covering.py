"""What checkpoints cover, and which process keeps a pin: for tests."""

import os
import time
from collections.abc import Callable

from lmdbresults import LMDBStore, open_store
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from tests.support.processes import PATIENCE

#: Seconds within which no checkpoint is made for its time.
LONG = 3600.0
SHORT = 0.02


def covered(store: LMDBStore) -> int:
    """The number of the commit that a power failure would go back to."""
    sidecar = Sidecar(store.options.path)
    try:
        return sidecar.read().durable.txn
    finally:
        sidecar.close()


def last_commit(store: LMDBStore) -> int:
    return store.moment()


def readers(store: LMDBStore) -> str:
    """LMDB's table of readers."""
    return store._environment.file.handle.readers()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for has not come"
        time.sleep(SHORT / 4)


def write_and_stay(path: str, started: int, options: dict[str, object]) -> None:
    """Store something, say so, and live on."""
    store = open_store(path, **options)
    store.set(b"written", b"value")
    os.write(started, b".")
    time.sleep(PATIENCE)
