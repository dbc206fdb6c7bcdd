"""Waiting for results: how often it looks, when it gives up, and what it returns."""

from typing import Any

import pytest

from lmdbresults.backends.waiting import looks
from lmdbresults.errors import ResultTimeout
from lmdbresults.results import AsyncResult, GroupResult, ResultSet
from tests.support.plain import DictBackend

interface = pytest.mark.interface


class Time:
    """A clock, and pauses that take no time but are counted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def looks(self, timeout: float | None, interval: float, on_interval: Any = None) -> Any:
        return looks(timeout, interval, on_interval, "task id", clock=lambda: self.now, pause=self.sleep)

    def run_out(self, timeout: float, interval: float, on_interval: Any = None) -> list[float]:
        """Look until time is up; return when there was a look."""
        at: list[float] = []
        with pytest.raises(ResultTimeout, match="task id"):
            at.extend(self.now for _ in self.looks(timeout, interval, on_interval))
        return at


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def backend() -> DictBackend:
    return DictBackend()


def stores_at(backend: DictBackend, number: int, result: Any = 42, id_: str = "id") -> Any:
    """An ``on_interval`` that stores a result the so-manieth time that it is called."""
    calls = []

    def on_interval() -> None:
        calls.append(None)
        if len(calls) == number:
            backend.mark_as_done(id_, result)

    return on_interval


# -- when to look ----------------------------------------------------------------------------------------------------


@interface("timeouts")
@pytest.mark.parametrize("timeout", [0, -1])
def test_without_time_there_is_one_look_and_no_pause(time, timeout):
    called = []
    assert time.run_out(timeout, 0.5, on_interval=lambda: called.append(1)) == [0]
    assert called == time.pauses == []


@interface("timeouts")
def test_the_last_look_comes_when_time_is_up_and_not_later(time):
    assert time.run_out(1.25, 0.5) == [0, 0.5, 1.0, 1.25]


@interface("timeouts")
def test_a_pause_is_never_longer_than_the_time_that_is_left(time):
    time.run_out(0.125, 0.5)
    assert time.pauses == [0.125]


@interface("timeouts")
def test_time_is_measured_by_the_clock_and_not_by_adding_pauses(time):
    def slow() -> None:
        time.now += 3

    time.run_out(10, 0.5, on_interval=slow)
    assert time.pauses == [0.5, 0.5, 0]  # 3.5 + 3.5 + 3 seconds


@interface("timeouts")
@pytest.mark.parametrize("interval", [0, 0.5])
def test_without_a_timeout_it_looks_for_ever(time, interval):
    forever = time.looks(None, interval)
    assert [next(forever) for _ in range(1000)] == [None] * 1000


@interface("wait_for")
def test_the_callback_comes_before_each_pause(time):
    at = []
    time.run_out(1, 0.5, on_interval=lambda: at.append(time.now))
    assert at == [0, 0.5]


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
def test_waiting_ends_when_the_result_is_there(backend):
    backend.mark_as_started("id")
    meta = backend.wait_for("id", timeout=60, interval=0.001, on_interval=stores_at(backend, 3))
    assert (meta["status"], meta["result"]) == ("SUCCESS", 42)


@interface("timeouts", "wait_for")
@pytest.mark.parametrize("timeout", [0, -1])
def test_a_result_that_is_there_wins_over_a_timeout_that_has_run_out(backend, timeout):
    backend.mark_as_done("id", 42)
    assert backend.wait_for("id", timeout=timeout)["result"] == 42


@interface("wait_for", "attributes")
def test_the_error_of_time_is_the_builtin_one_too(backend):
    with pytest.raises(TimeoutError, match="task id within 0 seconds"):
        backend.wait_for("id", timeout=0)
    with pytest.raises(backend.TimeoutError):
        backend.wait_for("id", timeout=0)


@interface("wait_for_pending")
def test_the_callback_gets_what_is_returned(backend):
    got = []
    result = AsyncResult("id", backend)
    value = backend.wait_for_pending(
        result,
        timeout=60,
        interval=0.001,
        on_interval=stores_at(backend, 1),
        callback=lambda id_, value: got.append((id_, value)),
    )
    assert (value, got) == (42, [("id", 42)])


@interface("wait_for_pending")
def test_what_the_task_raised_is_raised_unless_it_is_not_to_propagate(backend):
    got = []
    backend.mark_as_failure("id", KeyError("why"))
    with pytest.raises(KeyError, match="why"):
        backend.wait_for_pending(AsyncResult("id"), callback=lambda *call: got.append(call))
    assert got == []
    returned = backend.wait_for_pending(AsyncResult("id"), propagate=False, callback=lambda *call: got.append(call))
    assert (type(returned), returned.args) == (KeyError, ("why",))
    assert got == [("id", returned)]


@interface("wait_for_pending")
def test_a_result_that_is_forgotten_right_after_it_was_seen_is_returned_all_the_same(backend):
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
def test_results_are_yielded_as_they_end_and_groups_inside_are_left_alone(backend):
    tasks = [AsyncResult(id_, backend) for id_ in ("slow", "fast")]
    inner = GroupResult("inner", [AsyncResult("never", backend)])
    backend.mark_as_done("fast", 1)
    messages = []
    found = backend.iter_native(
        ResultSet([*tasks, inner]),
        timeout=60,
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
def test_nobody_needs_to_register(backend):
    result = AsyncResult("id", backend)
    assert backend.is_async is False
    assert backend.add_pending_result(result) is result
    assert backend.add_pending_result(result, weak=True) is result
    assert backend.remove_pending_result(result) is result
    assert backend.data == {}
