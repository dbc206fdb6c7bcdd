"""A backend over any store, and what it does in fewer steps than the general way."""

from datetime import datetime, timezone

import pytest

from lmdbresults.app import App, Request
from lmdbresults.backends import KeyValueStoreBackend, StoreBackend
from lmdbresults.results import AsyncResult
from lmdbresults.testing import FakeClock, MemoryStore

REQUESTS = {
    "none": None,
    "plain": Request("id", "name", (1,), {"two": 2}),
    "part": Request("id", "name", group="group", parent_id="parent", children=[AsyncResult("child")]),
    "worked": Request("id", "name", (1,), hostname="worker", retries=3, delivery_info={"routing_key": "queue"}),
}


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("state", ["STARTED", "SUCCESS", "FAILURE", "CUSTOM"])
def test_a_record_has_the_same_bytes_as_by_the_general_way(state: str, request_name: str, extended: bool) -> None:
    app = App({"result_extended": extended})
    app.now = lambda: datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    backend = StoreBackend(app, store=MemoryStore())
    record = ([1, {"a": None}], state, "a traceback", REQUESTS[request_name])
    assert backend._record(*record) == KeyValueStoreBackend._record(backend, *record)


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
