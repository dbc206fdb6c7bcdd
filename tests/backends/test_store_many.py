"""Several results stored at once."""

from collections.abc import Iterator
from typing import Any

import pytest

from lmdbresults.app import App, Request
from lmdbresults.backends import StoreBackend
from lmdbresults.errors import EncodeError, StoreFull
from lmdbresults.results import AsyncResult
from lmdbresults.testing import FakeClock, MemoryStore
from tests.support.plain import DictBackend, opened

interface = pytest.mark.interface("store_many")


@pytest.fixture(params=["lmdb", "memory", "plain"])
def backend(request: pytest.FixtureRequest, path: str, app: App, clock: FakeClock) -> Iterator[Any]:
    if request.param == "lmdb":
        with opened(path, app=app, clock=clock, expires=60) as backend:
            yield backend
    elif request.param == "memory":
        yield StoreBackend(app, store=MemoryStore(clock=clock), expires=60)
    else:
        yield DictBackend(app)


@interface
def test_store_many_stores_and_returns_as_store_result_does(backend: Any) -> None:
    request = Request("whole", "name", group="group", parent_id="parent")
    many: list[tuple[Any, ...]] = [
        ("plain", 1, "SUCCESS"),
        ("handle", AsyncResult("other"), "SUCCESS"),
        ("failed", ValueError("no"), "FAILURE", "a traceback"),
        ("whole", {"a": None}, "PROGRESS", None, request),
    ]
    returned = backend.store_many(many)
    metas = [backend.get_task_meta(id_, cache=False) for id_, *_ in many]
    for (id_, *arguments), encoded, meta in zip(many, returned, metas, strict=True):
        backend.forget(id_)
        assert backend.store_result(id_, *arguments) == encoded
        alone = backend.get_task_meta(id_, cache=False)
        assert {**alone, "date_done": None, "result": repr(alone["result"])} == {
            **meta,
            "date_done": None,
            "result": repr(meta["result"]),
        }


@interface
def test_store_many_does_not_overwrite_a_success_even_of_the_same_call(backend: Any) -> None:
    backend.store_result("before", 1, "SUCCESS")
    backend.store_many([("before", 2, "FAILURE"), ("same", 1, "SUCCESS"), ("same", 2, "SUCCESS")])
    assert [backend.get_result("before"), backend.get_result("same")] == [1, 1]


@interface
def test_store_many_of_nothing_stores_nothing(backend: Any) -> None:
    assert backend.store_many([]) == []


@interface
def test_store_many_takes_any_iterable(backend: Any) -> None:
    assert backend.store_many((str(number), number, "SUCCESS") for number in range(500)) == list(range(500))
    assert [backend.get_result(str(number)) for number in (0, 250, 499)] == [0, 250, 499]


@interface
def test_store_many_stores_none_if_one_cannot_be_encoded(path: str) -> None:
    with opened(path) as backend:
        with pytest.raises(EncodeError):
            backend.store_many([("first", 1, "SUCCESS"), ("second", object(), "SUCCESS")])
        assert backend.get_state("first") == "PENDING"


@interface
def test_store_many_stores_none_if_the_store_is_full(path: str) -> None:
    with opened(path, max_size=1 << 20) as backend:
        with pytest.raises(StoreFull):
            backend.store_many((str(number), "x" * 1000, "SUCCESS") for number in range(2000))
        assert [backend.get_state("0"), list(backend.store.scan())] == ["PENDING", []]
        backend.store_result("0", 1, "SUCCESS")


@interface
def test_store_many_is_one_transaction(path: str) -> None:
    with opened(path) as backend:
        before = backend.store.moment()
        backend.store_many((str(number), number, "SUCCESS") for number in range(100))
        assert backend.store.moment() == before + 1


def test_results_of_store_many_expire(path: str, clock: FakeClock) -> None:
    with opened(path, clock=clock, expires=60) as backend:
        backend.store_many([("id", 1, "SUCCESS")])
        clock.advance(60.0)
        assert backend.get_state("id") == "PENDING"


@interface
def test_waiters_are_woken_after_store_many_has_committed(path: str) -> None:
    with opened(path) as backend:
        seen = []

        def store() -> None:
            if not seen:
                backend.store_many([("id", {"done": 1}, "PROGRESS"), ("other", 2, "SUCCESS")])
            else:
                backend.store_many([("id", 3, "SUCCESS")])
            seen.append(1)

        assert backend.wait_for("id", timeout=240, interval=0.01, on_interval=store)["result"] == 3
        assert len(seen) == 2
