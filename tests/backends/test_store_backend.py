"""A backend over any store, and what it does in fewer steps than the general way."""

from lmdbresults.backends import StoreBackend
from lmdbresults.testing import FakeClock, MemoryStore


def test_results_expire_by_the_clock_of_the_store() -> None:
    clock = FakeClock()
    backend = StoreBackend(store=MemoryStore(clock=clock), expires=10)
    backend.store_result("id", 1, "SUCCESS")
    clock.advance(9.0)
    assert backend.get_result("id") == 1
    clock.advance(1.0)
    assert backend.get_state("id") == "PENDING"


def test_a_late_duplicate_does_not_overwrite_a_success() -> None:
    backend = StoreBackend(store=MemoryStore())
    for result, state in [(1, "SUCCESS"), (2, "SUCCESS"), (ValueError(), "FAILURE"), ({}, "STARTED")]:
        backend.store_result("id", result, state)
    assert backend.get_result("id") == 1
