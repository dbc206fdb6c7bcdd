"""MemoryStore keeps the promises of the port, in one process."""

import pickle

import pytest

from lmdbresults.errors import NestedTransaction, StoreClosed
from lmdbresults.testing import FakeClock, MemoryStore, StoreConformance


class TestMemoryStore(StoreConformance):
    def make_store(self, clock: FakeClock) -> MemoryStore:
        return MemoryStore(clock=clock)


def test_closing_it_loses_what_it_holds() -> None:
    store = MemoryStore()
    store.set(b"key", b"value")
    store.close()
    with pytest.raises(StoreClosed, match="gone"):
        store.get(b"key")


def test_closing_it_inside_a_transaction_is_refused_and_the_transaction_goes_on() -> None:
    store = MemoryStore()
    with store.write() as txn:
        with pytest.raises(NestedTransaction):
            store.close()
        txn.set(b"key", b"value")
    assert store.get(b"key") == b"value"


def test_it_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="lives in one process"):
        pickle.dumps(MemoryStore())


def test_stats_count_expired_records_until_they_are_swept() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    store.set(b"key", b"value", ttl=1.0)
    clock.advance(1.0)
    assert store.stats() == {"records": 1}
    assert store.sweep() == 1
    assert store.stats() == {"records": 0}
