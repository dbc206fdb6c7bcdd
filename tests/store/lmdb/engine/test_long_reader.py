"""A read transaction that stays open: statistics and the error of a full store name its process and its cost."""

import os
import time

import pytest

from lmdbresults import LMDBStore, StoreFull, open_store
from tests.support.processes import FORKS_WITH_THREADS, PATIENCE, child

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


def read_on(path: str, told: int) -> None:
    with open_store(path, durability="none", max_size=8 << 20) as store, store.read() as txn:
        txn.get(b"key")
        os.write(told, b".")
        time.sleep(PATIENCE)


def fill(store: LMDBStore) -> None:
    for _ in range(5000):
        store.set(b"key", bytes(10_000))


def test_long_read_is_named_with_process_time_and_bytes(path: str) -> None:
    before = time.time()
    ours, theirs = os.pipe()
    with open_store(path, durability="none", max_size=8 << 20) as store:
        store.set(b"key", b"value")
        assert store.stats().oldest_reader is None
        with child(read_on, path, theirs) as other:
            os.read(ours, 1)
            for _ in range(50):
                store.set(b"key", bytes(10_000))
            reader = store.stats().oldest_reader
            assert reader.pid == other.pid
            assert before - 1 <= reader.since <= time.time()
            assert 50 * 10_000 <= reader.kept <= store.stats().file_size
            assert str(other.pid) in str(reader)
            with pytest.raises(StoreFull, match=rf"process {other.pid} \(.*\) has been reading since .* bytes"):
                fill(store)
            other.kill()


def test_pin_of_a_checkpoint_is_not_a_long_read(path: str) -> None:
    with open_store(path, checkpoint_interval=3600) as store:
        store.set(b"key", b"value")
        store.set(b"key", b"later")
        assert store.stats().oldest_reader is None
