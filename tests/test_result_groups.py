"""Results of many tasks: in an order, in groups, in groups of groups."""

import time
from typing import Any

import pytest

from lmdbresults.errors import ResultTimeout
from lmdbresults.results import AsyncResult, GroupResult, ResultSet
from tests.support.plain import DictBackend
from tests.test_results import end, handles, nested

interface = pytest.mark.interface

JOINS = pytest.mark.parametrize("join", ["join", "join_native", "get"])


@pytest.fixture
def backend() -> DictBackend:
    return DictBackend()


# -- joining ---------------------------------------------------------------------------------------------------------


@interface("join")
@JOINS
def test_join_returns_the_results_in_order_and_calls_the_callback(backend, join):
    got: list[Any] = []
    end(backend, c=3, a=1, b=2)
    results = ResultSet(handles(backend, "abc"))
    assert getattr(results, join)(timeout=0, callback=lambda *call: got.append(call)) == [1, 2, 3]
    assert sorted(got) == [("a", 1), ("b", 2), ("c", 3)]


@interface("join")
@JOINS
def test_join_waits_for_all_results(backend, join):
    end(backend, a=1)
    joined = getattr(ResultSet(handles(backend, "ab")), join)
    assert joined(timeout=240, interval=0.001, on_interval=lambda: end(backend, b=2)) == [1, 2]


@interface("join")
@JOINS
def test_join_raises_a_failure_unless_propagate_is_false(backend, join):
    end(backend, a=1, b=KeyError("why"))
    joined = getattr(ResultSet(handles(backend, "ab")), join)
    with pytest.raises(KeyError, match="why"):
        joined(timeout=0)
    one, error = joined(timeout=0, propagate=False)
    assert (one, type(error), error.args) == (1, KeyError, ("why",))


@interface("join", "timeouts")
@JOINS
def test_groups_inside_share_one_timeout(backend, join):
    waited: list[float] = []

    class Slow(GroupResult):
        def get(self, timeout=None, *_, **__):
            waited.append(timeout)
            time.sleep(0.02)

        join_native = get

    getattr(ResultSet([Slow("one"), Slow("two")], backend), join)(timeout=1)
    assert waited[1] <= waited[0] - 0.02


@interface("join", "timeouts")
@JOINS
def test_join_raises_a_timeout(backend, join):
    end(backend, a=1)
    with pytest.raises(ResultTimeout):
        getattr(ResultSet(handles(backend, "ab")), join)(timeout=0)


@interface("join")
def test_join_native_calls_on_message_with_each_meta(backend):
    messages: list[Any] = []
    end(backend, a=1, b=KeyError())
    ResultSet(handles(backend, "ab")).join_native(timeout=0, propagate=False, on_message=messages.append)
    assert [(meta["task_id"], meta["status"]) for meta in messages] == [("a", "SUCCESS"), ("b", "FAILURE")]


@interface("join")
def test_a_set_can_contain_a_task_twice(backend):
    end(backend, a=1)
    results = ResultSet(handles(backend, "aa"))
    assert results.join(timeout=0) == results.join_native(timeout=0) == [1, 1]


@interface("join")
def test_results_are_iterated_as_they_end(backend):
    end(backend, c=3)
    results = ResultSet(handles(backend, "abc")).iterate(timeout=240, interval=0.001)
    assert next(results) == 3
    end(backend, b=2)
    assert next(results) == 2
    end(backend, a=KeyError("why"))
    with pytest.raises(KeyError, match="why"):
        next(results)


@interface("join", "iter_native")
def test_iterate_returns_failures_if_propagate_is_false(backend):
    end(backend, a=KeyError("why"))
    (error,) = ResultSet(handles(backend, "a")).iterate(timeout=0, propagate=False)
    assert type(error) is KeyError


@interface("join")
@JOINS
def test_joining_an_empty_set_returns_an_empty_list(backend, join):
    assert getattr(ResultSet([], backend), join)(timeout=0) == []


# -- state -----------------------------------------------------------------------------------------------------------


@interface("group state")
@pytest.mark.parametrize(
    ("values", "completed", "true"),
    [
        ({}, 0, {"waiting"}),
        ({"a": 1}, 1, {"waiting"}),
        ({"a": 1, "b": 2}, 2, {"ready", "successful"}),
        ({"a": 1, "b": KeyError()}, 1, {"ready", "failed"}),
        ({"a": KeyError()}, 0, {"waiting", "failed"}),
    ],
)
def test_a_set_counts_the_results_that_are_ready(backend, values, completed, true):
    results = ResultSet(handles(backend, "ab"))
    end(backend, **values)
    assert results.completed_count() == completed
    assert {name for name in ("ready", "successful", "failed", "waiting") if getattr(results, name)()} == true


@interface("group state")
def test_maybe_throw_raises_the_first_failure_that_is_ready(backend):
    results = ResultSet(handles(backend, "ab"))
    assert results.maybe_throw() is None
    end(backend, b=KeyError("why"))
    with pytest.raises(KeyError, match="why"):
        results.maybe_throw()
    results.maybe_throw(propagate=False)


@interface("AsyncResult: forget")
def test_a_set_can_be_forgotten(backend):
    end(backend, a=1, b=2, c=3, d=4)
    nested(backend).forget()
    assert backend.data == {}


# -- as a list -------------------------------------------------------------------------------------------------------


@interface("group state")
def test_adding_a_handle_twice_keeps_it_once(backend):
    results = ResultSet(handles(backend, "ab"))
    results.add(AsyncResult("b"))
    results.add(AsyncResult("c"))
    assert (len(results), list(results), results[1]) == (3, ["a", "b", "c"], "b")
    assert results.backend is backend


@interface("AsyncResult: identity")
def test_sets_are_equal_by_their_results_and_groups_by_their_id_too():
    assert ResultSet(handles(None, "ab")) == ResultSet(handles(None, "ab"))
    assert ResultSet(handles(None, "ab")) != ResultSet(handles(None, "ba"))
    assert GroupResult("g", handles(None, "ab")) == GroupResult("g", handles(None, "ab")) == "g"
    assert GroupResult("g", handles(None, "ab")) != GroupResult("g", handles(None, "a"))
    assert GroupResult("g", handles(None, "ab")) != GroupResult("h", handles(None, "ab"))
    assert len({GroupResult("g"), GroupResult("g"), "g"}) == 1
    assert (str(GroupResult("g")), repr(GroupResult("g", handles(None, "ab")))) == ("g", "<GroupResult: g [a, b]>")


@interface("AsyncResult: identity")
def test_a_set_is_not_hashable():
    with pytest.raises(TypeError, match="unhashable"):
        hash(ResultSet([]))


# -- saving ----------------------------------------------------------------------------------------------------------


@interface("group save", "groups")
def test_a_group_that_was_saved_is_restored_with_its_results(backend):
    group = GroupResult("group", handles(backend, "ab"))
    assert group.save() is group
    end(backend, a=1, b=2)
    restored = GroupResult.restore("group", backend)
    assert restored == group
    assert restored.join(timeout=0) == [1, 2]
    restored.delete()
    assert GroupResult.restore("group", backend) is None
    assert backend.get_result("a") == 1


@interface("group save")
def test_a_group_can_be_saved_in_another_backend(backend):
    other = DictBackend()
    group = GroupResult("group", handles(backend, "ab"))
    group.save(backend=other)
    assert (GroupResult.restore("group", other), GroupResult.restore("group", backend)) == (group, None)
    group.delete(backend=other)
    assert other.data == {}


# -- groups in groups ------------------------------------------------------------------------------------------------


@interface("nesting", "join")
@JOINS
def test_a_group_inside_a_group_is_joined_to_a_list_in_its_place(backend, join):
    end(backend, a=1, b=2, c=3, d=4)
    assert getattr(nested(backend), join)(timeout=0) == [1, [2, 3], 4]


@interface("nesting")
@JOINS
def test_a_failure_inside_a_group_inside_a_group_is_raised(backend, join):
    end(backend, a=1, b=2, c=KeyError("why"), d=4)
    with pytest.raises(KeyError, match="why"):
        getattr(nested(backend), join)(timeout=0)
    one, (two, error), four = getattr(nested(backend), join)(timeout=0, propagate=False)
    assert (one, two, type(error), four) == (1, 2, KeyError, 4)


@interface("nesting", "group state")
def test_a_group_inside_a_group_counts_with_all_its_tasks(backend):
    group = nested(backend)
    end(backend, a=1, b=2)
    assert (group.completed_count(), group.waiting(), group.ready()) == (2, True, False)
    end(backend, c=3, d=4)
    assert (group.completed_count(), group.waiting(), group.successful()) == (4, False, True)


@interface("nesting", "group save")
def test_groups_inside_groups_are_restored(backend):
    nested(backend).save()
    end(backend, a=1, b=2, c=3, d=4)
    restored = GroupResult.restore("outer", backend)
    assert restored.as_tuple() == nested(None).as_tuple()
    assert restored.join(timeout=0) == [1, [2, 3], 4]
