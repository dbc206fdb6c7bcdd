"""Handles of results: of one task, of many, of groups in groups."""

import asyncio
import pickle
from datetime import datetime, timezone
from typing import Any

import pytest

from lmdbresults import states
from lmdbresults.app import App, Request
from lmdbresults.errors import ConfigurationError, ResultTimeout, TaskError
from lmdbresults.results import AsyncResult, GroupResult, ResultSet, result_from_tuple
from tests.support.plain import DictBackend, opened

interface = pytest.mark.interface


@pytest.fixture
def backend() -> DictBackend:
    return DictBackend(App({"result_extended": True}))


@pytest.fixture
def result(backend: DictBackend) -> AsyncResult:
    return AsyncResult("id", backend)


def end(backend: DictBackend, **values: Any) -> None:
    """Let tasks end: by an exception with a failure, by anything else well."""
    for id_, value in values.items():
        if isinstance(value, BaseException):
            backend.mark_as_failure(id_, value, f"traceback of {id_}")
        else:
            backend.mark_as_done(id_, value)


def handles(backend: DictBackend | None, ids: str) -> list[AsyncResult]:
    return [AsyncResult(id_, backend) for id_ in ids]


def nested(backend: DictBackend | None) -> GroupResult:
    """A group of ``a``, a group of ``b`` and ``c``, and ``d``."""
    a, b, c, d = handles(backend, "abcd")
    return GroupResult("outer", [a, GroupResult("inner", [b, c], backend), d], backend)


# -- one: what it returns --------------------------------------------------------------------------------------------


@interface("AsyncResult: get")
@pytest.mark.parametrize("value", [42, None, [1, {"a": "b"}]])
def test_get_returns_the_result_and_calls_the_callback_with_it(backend, result, value):
    got = []
    end(backend, id=value)
    assert result.get(timeout=0, callback=lambda *call: got.append(call)) == value
    assert result.wait(timeout=0) == result.maybe_throw() == value
    assert got == [("id", value)]


@interface("AsyncResult: get")
def test_get_waits_for_the_result(backend, result):
    assert result.get(timeout=240, interval=0.001, on_interval=lambda: end(backend, id=42)) == 42


@interface("AsyncResult: get")
@pytest.mark.parametrize("read", ["get", "wait", "maybe_throw"])
def test_get_raises_a_failure_unless_propagate_is_false(backend, result, read):
    end(backend, id=KeyError("why"))
    with pytest.raises(KeyError, match="why"):
        getattr(result, read)()
    returned = getattr(result, read)(propagate=False)
    assert (type(returned), returned.args) == (KeyError, ("why",))


@interface("AsyncResult: get")
def test_get_raises_a_timeout(result):
    with pytest.raises(ResultTimeout, match="task id"):
        result.get(timeout=0)


@interface("AsyncResult: get")
def test_a_failure_without_an_exception_raises_a_task_error(backend, result):
    backend.store_result("id", None, states.FAILURE)
    with pytest.raises(TaskError, match="Task id"):
        result.get(timeout=0)


@interface("AsyncResult: get")
def test_maybe_throw_does_not_wait_for_a_task_that_has_not_ended(backend, result):
    assert result.maybe_throw() is None
    backend.mark_as_retry("id", KeyError("again"))
    assert type(result.maybe_throw()) is KeyError


@interface("AsyncResult: await")
def test_awaiting_a_result_does_not_block_the_event_loop(backend, result):
    async def work() -> Any:
        waiting = asyncio.ensure_future(wait_for(result))
        await asyncio.sleep(0)
        end(backend, id=42)
        return await waiting

    async def wait_for(result: AsyncResult) -> Any:
        return await result

    assert asyncio.run(work()) == 42


@interface("AsyncResult: await")
def test_awaiting_a_failure_raises_it(backend, result):
    async def work() -> None:
        await result

    end(backend, id=KeyError("why"))
    with pytest.raises(KeyError, match="why"):
        asyncio.run(work())


# -- one: what is known ----------------------------------------------------------------------------------------------


@interface("AsyncResult: state")
@pytest.mark.parametrize(
    ("state", "ready", "successful", "failed"),
    [
        ("PENDING", False, False, False),
        ("STARTED", False, False, False),
        ("RETRY", False, False, False),
        ("PROGRESS", False, False, False),
        ("SUCCESS", True, True, False),
        ("FAILURE", True, False, True),
        ("REVOKED", True, False, False),
    ],
)
def test_the_state_of_a_result_is_read_from_the_backend(backend, result, state, ready, successful, failed):
    if state != "PENDING":
        backend.store_result("id", None, state)
    assert result.state == result.status == state
    assert (result.ready(), result.successful(), result.failed()) == (ready, successful, failed)


@interface("AsyncResult: state")
def test_a_result_has_its_value_and_the_date_of_its_end(backend, result):
    assert (result.result, result.date_done, result.traceback) == (None, None, None)
    before = datetime.now(timezone.utc)
    end(backend, id=42)
    assert result.result == result.info == 42
    assert before <= result.date_done <= datetime.now(timezone.utc)


@interface("AsyncResult: state")
def test_a_failure_has_its_exception_and_traceback(backend, result):
    end(backend, id=KeyError("why"))
    assert type(result.result) is KeyError
    assert result.traceback == "traceback of id"


@interface("AsyncResult: state")
def test_a_custom_state_has_the_value_that_was_stored_with_it(backend, result):
    backend.store_result("id", {"done": 0.5}, "PROGRESS")
    assert (result.state, result.info) == ("PROGRESS", {"done": 0.5})


@interface("AsyncResult: extended")
def test_an_extended_result_has_the_fields_of_the_call(backend, result):
    request = Request("id", "add", (1,), {"y": 2}, hostname="w", retries=1, delivery_info={"routing_key": "q"})
    backend.mark_as_done("id", 3, request)
    assert (result.name, result.args, result.kwargs) == ("add", [1], {"y": 2})
    assert (result.worker, result.retries, result.queue) == ("w", 1, "q")


@interface("AsyncResult: extended")
def test_a_plain_result_has_no_fields_of_the_call(backend):
    plain = DictBackend()
    plain.mark_as_done("id", 3, Request("id", "add"))
    result = AsyncResult("id", plain)
    assert {result.name, result.args, result.kwargs, result.worker, result.retries, result.queue} == {None}


@interface("AsyncResult: forget")
def test_a_result_can_be_forgotten(backend, result):
    end(backend, id=42)
    result.forget()
    assert (result.state, backend.data) == ("PENDING", {})


# -- one: identity ---------------------------------------------------------------------------------------------------


@interface("AsyncResult: identity")
def test_results_are_equal_by_their_id():
    assert AsyncResult("a", DictBackend()) == AsyncResult("a") == "a"
    assert AsyncResult("a") != AsyncResult("b")
    assert AsyncResult("a") != GroupResult("a")
    assert AsyncResult("a") != 1
    assert {AsyncResult("a"), AsyncResult("a"), "a"} == {"a"}
    assert (str(AsyncResult("a")), repr(AsyncResult("a"))) == ("a", "<AsyncResult: a>")


@interface("AsyncResult: identity")
@pytest.mark.parametrize("empty", ["", None])
def test_a_handle_without_an_id_raises_value_error(empty):
    with pytest.raises(ValueError, match="id"):
        AsyncResult(empty)
    with pytest.raises(ValueError, match="id"):
        GroupResult(empty)


@interface("AsyncResult: identity")
@pytest.mark.parametrize(
    "handle", [AsyncResult("id"), GroupResult("group"), ResultSet([])], ids=lambda handle: type(handle).__name__
)
def test_a_handle_without_a_backend_raises_an_error_that_says_how_to_give_one(handle):
    with pytest.raises(ConfigurationError, match="backend"):
        handle.backend  # noqa: B018 - looked at for its error


@interface("AsyncResult: identity", "pickling")
@pytest.mark.parametrize("copy_of", [lambda result: result, lambda result: GroupResult("group", [result])])
def test_a_handle_pickles_with_its_backend(path, copy_of):
    with opened(path) as backend:
        end(backend, id=42)
        handle = copy_of(AsyncResult("id", backend, parent=AsyncResult("parent")))
        copy = pickle.loads(pickle.dumps(handle))
        assert copy == handle
        assert copy.as_tuple() == handle.as_tuple()
        assert copy.get(timeout=0) == handle.get(timeout=0)
        copy.backend.process_cleanup()


@interface("as_tuple")
@pytest.mark.parametrize("form", [lambda tree: tree, lambda tree: [*map(list_of, tree)]], ids=["tuples", "lists"])
def test_a_handle_is_made_again_from_its_tuple(backend, form):
    parent = AsyncResult("parent", parent=GroupResult("grandparent", handles(None, "x")))
    for handle in (AsyncResult("id", parent=parent), nested(None), GroupResult("empty", (), parent=parent)):
        again = result_from_tuple(form(handle.as_tuple()), backend)
        assert (again, type(again)) == (handle, type(handle))
        assert again.as_tuple() == handle.as_tuple()
        assert again.backend is backend


def list_of(tree: Any) -> Any:
    return [list_of(each) for each in tree] if isinstance(tree, tuple | list) else tree


@interface("as_tuple")
def test_a_tuple_holds_plain_values_in_a_form_that_celery_reads():
    assert AsyncResult("id").as_tuple() == (("id", None), None)
    assert nested(None).as_tuple() == (
        ("outer", None),
        [(("a", None), None), (("inner", None), [(("b", None), None), (("c", None), None)]), (("d", None), None)],
    )
    handle = AsyncResult("id")
    assert result_from_tuple(handle) is handle


# -- family ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def family(backend: DictBackend) -> AsyncResult:
    """A task that has sent ``a`` and the group of ``b`` and ``c``; ``a`` has sent ``d``."""
    a, b, c, d = handles(backend, "abcd")
    backend.mark_as_done("id", "root", Request("id", children=[a, GroupResult("group", [b, c])]))
    backend.mark_as_done("a", "a", Request("a", children=[d]))
    end(backend, b="b", c="c", d="d")
    return AsyncResult("id", backend)


@interface("AsyncResult: family")
def test_a_result_has_its_children_and_its_parent(backend, family):
    assert family.children == ["a", "group"]
    assert [str(result) for result in family.children[1].children] == ["b", "c"]
    assert AsyncResult("unknown", backend).children is None
    assert AsyncResult("x", backend, parent=family).parent is family


@interface("AsyncResult: family")
def test_iterdeps_yields_descendants_breadth_first_with_their_parents(family):
    met = [(parent and str(parent), str(result)) for parent, result in family.iterdeps()]
    assert met == [(None, "id"), ("id", "a"), ("id", "group"), ("a", "d"), ("group", "b"), ("group", "c")]


@interface("AsyncResult: family")
def test_collect_yields_descendants_with_their_values(family):
    collected = [(str(result), value) for result, value in family.collect(timeout=0)]
    assert collected == [("id", "root"), ("a", "a"), ("group", ["b", "c"]), ("d", "d"), ("b", "b"), ("c", "c")]


@interface("AsyncResult: family")
def test_iterdeps_raises_for_a_task_that_has_not_ended(backend, family):
    backend.forget("a")
    with pytest.raises(ResultTimeout, match="a has not ended"):
        list(family.iterdeps())
    assert [str(result) for _, result in family.iterdeps(intermediate=True)] == ["id", "a", "group", "b", "c"]
