"""Waiting for results without messages: how often it looks, when it gives up, and what it returns."""

import time
from typing import Any

import pytest

from lmdbresults.errors import ResultTimeout
from lmdbresults.results import AsyncResult, GroupResult, ResultSet
from lmdbresults.store import following
from tests.support.plain import DictBackend

interface = pytest.mark.interface


@pytest.fixture
def backend() -> DictBackend:
    return DictBackend()


def stores_at(backend: DictBackend, number: int, result: Any = 42, id_: str = "id") -> Any:
    """Return an ``on_interval`` that stores a result at its n-th call."""
    calls = []

    def on_interval() -> None:
        calls.append(None)
        if len(calls) == number:
            backend.mark_as_done(id_, result)

    return on_interval


# -- when to look ----------------------------------------------------------------------------------------------------


@interface("timeouts")
@pytest.mark.parametrize("timeout", [0, -1])
def test_without_time_there_is_one_look(backend, timeout, monkeypatch):
    looks, called = [], []
    monkeypatch.setattr(backend, "get", lambda key: looks.append(key))
    monkeypatch.setattr(backend, "mget", lambda keys: looks.append(keys) or [None] * len(keys))
    with pytest.raises(ResultTimeout):
        backend.wait_for("id", timeout=timeout, on_interval=lambda: called.append(1))
    assert (len(looks), called) == (1, [])


@interface("timeouts")
def test_the_last_look_comes_when_time_is_up(monkeypatch):
    class StoredAfterTheFirstLooks(DictBackend):
        looks = 0

        def mget(self, keys: Any) -> Any:
            values = super().mget(keys)
            self.looks += 1
            if self.looks == 1:
                self.mark_as_done("id", 42)
            return values

    monkeypatch.setattr(following, "FIRST_PAUSE", 3600.0)
    backend = StoredAfterTheFirstLooks()
    assert backend.wait_for("id", timeout=0.01)["result"] == 42
    assert backend.looks == 2


@interface("timeouts", "wait_for")
def test_a_callback_that_takes_long_uses_the_time_up(backend, monkeypatch):
    called, now = [], time.monotonic

    def slow() -> None:
        called.append(1)
        monkeypatch.setattr(time, "monotonic", lambda: now() + 3600.0)

    with pytest.raises(ResultTimeout):
        backend.wait_for("id", timeout=240, interval=0.001, on_interval=slow)
    assert called == [1]


# -- one result ------------------------------------------------------------------------------------------------------


@interface("wait_for")
@pytest.mark.parametrize("mark", ["done", "failure", "revoked"])
def test_a_task_that_has_ended_need_not_be_waited_for(backend, mark):
    ends = {
        "done": lambda: backend.mark_as_done("id", 42),
        "failure": lambda: backend.mark_as_failure("id", KeyError()),
        "revoked": lambda: backend.mark_as_revoked("id"),
    }
    ends[mark]()
    assert backend.wait_for("id", timeout=0)["status"] in backend.READY_STATES


@interface("wait_for")
def test_waiting_ends_when_the_result_exists(backend):
    backend.mark_as_started("id")
    meta = backend.wait_for("id", timeout=240, interval=0.001, on_interval=stores_at(backend, 3))
    assert (meta["status"], meta["result"]) == ("SUCCESS", 42)


@interface("timeouts", "wait_for")
@pytest.mark.parametrize("timeout", [0, -1])
def test_a_result_that_exists_wins_over_a_timeout_that_has_run_out(backend, timeout):
    backend.mark_as_done("id", 42)
    assert backend.wait_for("id", timeout=timeout)["result"] == 42


@interface("wait_for", "attributes")
def test_result_timeout_is_a_builtin_timeout_error(backend):
    with pytest.raises(TimeoutError, match="after 0 s waiting for task id"):
        backend.wait_for("id", timeout=0)
    with pytest.raises(backend.TimeoutError):
        backend.wait_for("id", timeout=0)


@interface("wait_for_pending")
def test_the_callback_gets_the_returned_value(backend):
    got = []
    result = AsyncResult("id", backend)
    value = backend.wait_for_pending(
        result,
        timeout=240,
        interval=0.001,
        on_interval=stores_at(backend, 1),
        callback=lambda id_, value: got.append((id_, value)),
    )
    assert (value, got) == (42, [("id", 42)])


@interface("wait_for_pending")
def test_a_failure_is_raised_unless_propagate_is_false(backend):
    got = []
    backend.mark_as_failure("id", KeyError("why"))
    with pytest.raises(KeyError, match="why"):
        backend.wait_for_pending(AsyncResult("id"), callback=lambda *call: got.append(call))
    assert got == []
    returned = backend.wait_for_pending(AsyncResult("id"), propagate=False, callback=lambda *call: got.append(call))
    assert (type(returned), returned.args) == (KeyError, ("why",))
    assert got == [("id", returned)]


@interface("wait_for_pending")
def test_a_result_that_is_forgotten_right_after_it_was_read_is_returned(backend):
    class Forgetful(DictBackend):
        def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
            meta = super().get_task_meta(task_id, cache)
            self.forget(task_id)
            return meta

    forgetful = Forgetful()
    forgetful.mark_as_done("id", 42)
    assert forgetful.wait_for_pending(AsyncResult("id", forgetful), timeout=0) == 42


# -- several ---------------------------------------------------------------------------------------------------------


@interface("iter_native")
def test_results_are_yielded_as_they_end_and_groups_inside_are_not_entered(backend):
    tasks = [AsyncResult(id_, backend) for id_ in ("slow", "fast")]
    inner = GroupResult("inner", [AsyncResult("never", backend)])
    backend.mark_as_done("fast", 1)
    messages = []
    found = backend.iter_native(
        ResultSet([*tasks, inner]),
        timeout=240,
        interval=0.001,
        on_message=messages.append,
        on_interval=stores_at(backend, 2, result=2, id_="slow"),
    )
    assert [(id_, meta["result"]) for id_, meta in found] == [("fast", 1), ("slow", 2)]
    assert [meta["task_id"] for meta in messages] == ["fast", "slow"]


@interface("iter_native", "timeouts")
def test_results_that_do_not_end_in_time_raise_after_those_that_do(backend):
    backend.mark_as_done("a", 1)
    found = backend.iter_native(ResultSet([AsyncResult("a"), AsyncResult("b"), AsyncResult("c")]), timeout=0)
    assert next(found)[0] == "a"
    with pytest.raises(ResultTimeout):
        next(found)


@interface("pending results")
def test_nothing_needs_to_be_registered_before_a_wait(backend):
    result = AsyncResult("id", backend)
    assert backend.is_async is False
    assert backend.add_pending_result(result) is result
    assert backend.add_pending_result(result, weak=True) is result
    assert backend.remove_pending_result(result) is result
    assert backend.data == {}
