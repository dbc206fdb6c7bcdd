"""MemoryStore keeps what the port promises, in one process."""

import pickle

import pytest

from lmdbresults.errors import NestedTransaction, StoreClosed
from lmdbresults.testing import FakeClock, MemoryStore, StoreConformance


class TestMemoryStore(StoreConformance):
    def make_store(self, clock: FakeClock) -> MemoryStore:
        return MemoryStore(clock=clock)


def test_what_it_held_is_gone_once_it_is_closed() -> None:
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


def test_it_does_not_travel_to_another_process() -> None:
    with pytest.raises(TypeError, match="lives in one process"):
        pickle.dumps(MemoryStore())


def test_its_figures_count_what_has_expired_until_it_is_swept() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    store.set(b"key", b"value", ttl=1.0)
    clock.advance(1.0)
    assert store.stats() == {"entries": 1}
    assert store.sweep() == 1
    assert store.stats() == {"entries": 0}
