"""Lists of results, read without decoding any."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import msgpack
import pytest

from lmdbresults import states
from lmdbresults.app import App, Request
from lmdbresults.backends import StoreBackend
from lmdbresults.errors import DecodeError, NewerFormat
from lmdbresults.record import TaskRecord
from lmdbresults.results import AsyncResult, GroupResult
from lmdbresults.testing import FakeClock, MemoryStore
from tests.support.plain import opened

interface = pytest.mark.interface("iter_results")
HOUR = timedelta(hours=1)


@pytest.fixture(params=["lmdb", "memory"])
def backend(request: pytest.FixtureRequest, path: str, clock: FakeClock) -> Iterator[Any]:
    app = App({"result_extended": True})
    if request.param == "lmdb":
        with opened(path, app=app, clock=clock, expires=60) as backend:
            yield backend
    else:
        yield StoreBackend(app, store=MemoryStore(clock=clock), expires=60)


def ids(backend: Any, **wanted: Any) -> set[str]:
    return {listed.id for listed in backend.iter_results(**wanted)}


def store(backend: Any, task_id: str, name: str = "a", state: str = states.SUCCESS, **request: Any) -> None:
    result = ValueError("no") if state == states.FAILURE else 1
    backend.store_result(task_id, result, state, request=Request(task_id, name, **request))


@interface
def test_a_date_of_another_program_that_is_none_is_listed_as_unknown(backend):
    store(backend, "odd")
    store(backend, "other")
    key = backend.get_key_for_task("odd")
    record = TaskRecord.unpack(backend.store.get(key))
    backend.store.set(key, record._replace(date_done="yesterday").pack())
    assert {listed.id for listed in backend.iter_results() if listed.date_done is None} == {"odd"}
    assert ids(backend, since=HOUR) == {"other"}


@interface
def test_all_results_are_listed_with_what_a_list_needs(backend):
    store(backend, "one", "proj.add", group="group", parent_id="parent")
    (listed,) = backend.iter_results()
    meta = backend.get_task_meta("one")
    assert listed._asdict() == {
        "id": "one",
        "state": "SUCCESS",
        "date_done": datetime.fromisoformat(meta["date_done"]),
        "name": "proj.add",
        "worker": meta["worker"],
        "queue": meta["queue"],
        "retries": 0,
        "group_id": "group",
        "parent_id": "parent",
    }


@interface
def test_results_are_listed_by_one_state_or_several(backend):
    store(backend, "done")
    store(backend, "failed", state=states.FAILURE)
    store(backend, "own", state="PROGRESS")
    assert ids(backend, state="PROGRESS") == {"own"}
    assert ids(backend, state=states.READY_STATES) == {"done", "failed"}
    assert ids(backend, state=iter(["FAILURE"])) == {"failed"}
    assert ids(backend, state=()) == set()


@interface
def test_results_are_listed_by_the_name_of_the_task(backend):
    store(backend, "one", "a.b")
    store(backend, "two", "a.c")
    backend.store_result("three", 1, states.SUCCESS)
    assert ids(backend, name="a.c") == {"two"}
    assert ids(backend) == {"one", "two", "three"}


@interface
@pytest.mark.parametrize("offset", [-HOUR, HOUR])
@pytest.mark.parametrize("form", ["date", "naive date", "timestamp", "timedelta"])
def test_results_are_listed_since_a_time(backend, form, offset):
    store(backend, "done")
    store(backend, "running", state=states.STARTED)
    moment = datetime.now(timezone.utc) + offset
    since = {
        "date": moment.astimezone(timezone(HOUR)),
        "naive date": moment.replace(tzinfo=None),
        "timestamp": moment.timestamp(),
        "timedelta": -offset,
    }[form]
    assert ids(backend, since=since) == ({"done"} if offset < timedelta(0) else set())


@interface
def test_a_wrong_time_is_refused_before_anything_is_read(backend):
    with pytest.raises(TypeError):
        backend.iter_results(since="yesterday")


def test_an_expired_result_is_not_listed(backend, clock):
    store(backend, "done")
    clock.advance(60.0)
    assert ids(backend) == set()


def test_groups_and_chords_are_not_listed(backend):
    backend.save_group("group", GroupResult("group", [AsyncResult("one")]))
    backend.chords.open("group", 2, None, None)
    assert ids(backend) == set()


def test_listing_decodes_no_result(backend, monkeypatch):
    store(backend, "done")

    def refuse(*_: object) -> None:
        raise AssertionError("a result was decoded")

    monkeypatch.setattr(backend.codec, "value", refuse)
    assert ids(backend, state="SUCCESS", name="a") == {"done"}


@pytest.mark.parametrize("name", ["n" * 5000, "n\udcff", "\N{SNOWMAN}" * 300])
def test_a_record_whose_head_is_long_or_unusual_is_listed(backend, name):
    store(backend, "done", name)
    assert [listed.name for listed in backend.iter_results(name=name)] == [name]


def test_many_results_of_any_size_are_listed_once(backend):
    backend.store_many((str(number), "x" * (number % 3 * 30_000), states.SUCCESS) for number in range(1200))
    assert sorted(int(listed.id) for listed in backend.iter_results()) == list(range(1200))


@pytest.mark.parametrize(
    ("value", "error"), [(msgpack.packb([2, "SUCCESS"]), NewerFormat), (b"junk", DecodeError), (b"", DecodeError)]
)
def test_a_value_that_is_not_a_record_is_an_error(backend, value, error):
    key = backend.get_key_for_task("bad")
    backend.store.set(key, value)
    with pytest.raises(error):
        list(backend.iter_results())
    backend.store.delete(key)
