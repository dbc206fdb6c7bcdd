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
def test_each_is_stored_as_store_result_does_which_is_what_is_returned(backend: Any) -> None:
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
def test_a_success_is_not_overwritten_be_it_from_before_or_from_the_same_call(backend: Any) -> None:
    backend.store_result("before", 1, "SUCCESS")
    backend.store_many([("before", 2, "FAILURE"), ("same", 1, "SUCCESS"), ("same", 2, "SUCCESS")])
    assert [backend.get_result("before"), backend.get_result("same")] == [1, 1]


@interface
def test_of_nothing_nothing_is_stored(backend: Any) -> None:
    assert backend.store_many([]) == []


@interface
def test_any_iterable_will_do(backend: Any) -> None:
    assert backend.store_many((str(number), number, "SUCCESS") for number in range(500)) == list(range(500))
    assert [backend.get_result(str(number)) for number in (0, 250, 499)] == [0, 250, 499]


@interface
def test_if_one_cannot_be_encoded_none_is_stored(path: str) -> None:
    with opened(path) as backend:
        with pytest.raises(EncodeError):
            backend.store_many([("first", 1, "SUCCESS"), ("second", object(), "SUCCESS")])
        assert backend.get_state("first") == "PENDING"


@interface
def test_if_there_is_no_room_for_all_none_is_stored(path: str) -> None:
    with opened(path, max_size=1 << 20) as backend:
        with pytest.raises(StoreFull):
            backend.store_many((str(number), "x" * 1000, "SUCCESS") for number in range(2000))
        assert [backend.get_state("0"), list(backend.store.scan())] == ["PENDING", []]
        backend.store_result("0", 1, "SUCCESS")


@interface
def test_all_of_it_is_one_transaction(path: str) -> None:
    with opened(path) as backend:
        before = backend.store.moment()
        backend.store_many((str(number), number, "SUCCESS") for number in range(100))
        assert backend.store.moment() == before + 1


def test_they_expire_like_any_result(path: str, clock: FakeClock) -> None:
    with opened(path, clock=clock, expires=60) as backend:
        backend.store_many([("id", 1, "SUCCESS")])
        clock.advance(60.0)
        assert backend.get_state("id") == "PENDING"


@interface
def test_whoever_waits_is_woken_and_only_by_the_end_of_it(path: str) -> None:
    with opened(path) as backend:
        seen = []

        def store() -> None:
            if not seen:
                backend.store_many([("id", {"done": 1}, "PROGRESS"), ("other", 2, "SUCCESS")])
            else:
                backend.store_many([("id", 3, "SUCCESS")])
            seen.append(1)

        assert backend.wait_for("id", timeout=10, interval=0.01, on_interval=store)["result"] == 3
        assert len(seen) == 2
