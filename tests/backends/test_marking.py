"""What a worker calls when a task starts or ends, and the errbacks that this calls."""

import gc
import logging
import weakref
from typing import Any

import pytest

from lmdbresults import states
from lmdbresults.app import Request
from lmdbresults.errors import ChordError, TaskRevokedError
from tests.support.plain import DictBackend, OwnApp

interface = pytest.mark.interface

ERROR = ValueError("why")


class Chorded(DictBackend):
    """Keeps the parts of chords that are returned to it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.returned: list[tuple[Any, ...]] = []

    def on_chord_part_return(self, request: Any, state: str, result: Any) -> None:
        self.returned.append((request, state, result))


@pytest.fixture
def app() -> OwnApp:
    return OwnApp()


@pytest.fixture
def backend(app: OwnApp) -> Chorded:
    return Chorded(app)


@pytest.fixture
def part() -> Request:
    """The request of a task that is a part of a chord."""
    return Request("id", group="group", group_index=0, chord={"task": "body"})


# -- marks -----------------------------------------------------------------------------------------------------------


@interface("mark_as_started")
def test_mark_as_started_stores_its_arguments(backend):
    backend.mark_as_started("id", pid=1, hostname="worker")
    assert (backend.get_state("id"), backend.get_result("id")) == (states.STARTED, {"pid": 1, "hostname": "worker"})


@interface("mark_as_done")
def test_mark_as_done_stores_the_result(backend):
    backend.mark_as_done("id", 42)
    assert (backend.get_state("id"), backend.get_result("id")) == (states.SUCCESS, 42)
    assert backend.returned == []


@interface("mark_as_failure")
def test_mark_as_failure_stores_exception_and_traceback(backend):
    backend.mark_as_failure("id", ERROR, "at line 1")
    assert (backend.get_state("id"), backend.get_traceback("id")) == (states.FAILURE, "at line 1")
    assert (type(backend.get_result("id")), backend.get_result("id").args) == (ValueError, ("why",))


@interface("mark_as_revoked")
@pytest.mark.parametrize("reason", ["", "too late"])
def test_mark_as_revoked_stores_the_reason(backend, reason):
    backend.mark_as_revoked("id", reason)
    assert backend.get_state("id") == states.REVOKED
    assert (type(backend.get_result("id")), str(backend.get_result("id"))) == (TaskRevokedError, reason)


@interface("mark_as_retry")
def test_mark_as_retry_stores_the_exception(backend, part):
    backend.mark_as_retry("id", ERROR, "at line 1", part)
    assert (backend.get_state("id"), backend.get_traceback("id")) == (states.RETRY, "at line 1")
    assert backend.get_result("id").args == ("why",)
    assert backend.returned == []


MARKS = {
    "done": lambda backend, request, **more: backend.mark_as_done("id", 42, request, **more),
    "failure": lambda backend, request, **more: backend.mark_as_failure("id", ERROR, None, request, **more),
    "revoked": lambda backend, request, **more: backend.mark_as_revoked("id", "late", request, **more),
    "retry": lambda backend, request, **more: backend.mark_as_retry("id", ERROR, None, request, **more),
}


@interface("mark_as_done", "mark_as_failure", "mark_as_revoked", "mark_as_retry")
@pytest.mark.parametrize(
    ("mark", "state"), [("done", "MINE"), ("failure", "REVOKED"), ("revoked", "FAILURE"), ("retry", "FAILURE")]
)
def test_any_mark_can_be_made_in_another_state(backend, mark, state):
    MARKS[mark](backend, Request("id"), state=state)
    assert backend.get_state("id") == state


@interface("mark_as_done", "mark_as_failure", "mark_as_revoked", "mark_as_retry")
@pytest.mark.parametrize("mark", MARKS)
def test_any_mark_can_be_made_without_storing_it(backend, mark):
    MARKS[mark](backend, Request("id"), store_result=False)
    assert backend.data == {}


@interface("mark_as_done")
def test_a_result_that_the_request_ignores_is_not_stored(backend):
    backend.mark_as_done("id", 42, Request("id", ignore_result=True))
    assert backend.data == {}


@interface("mark_as_done", "mark_as_failure", "mark_as_revoked", "on_chord_part_return")
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(("mark", "state"), [("done", "SUCCESS"), ("failure", "FAILURE"), ("revoked", "REVOKED")])
def test_the_part_of_a_chord_is_returned_whether_it_is_stored_or_not(backend, part, mark, state, stored):
    MARKS[mark](backend, part, store_result=stored)
    ((request, returned_state, result),) = backend.returned
    assert (request, returned_state) == (part, state)
    assert type(result) is {"done": int, "failure": ValueError, "revoked": TaskRevokedError}[mark]


# -- errbacks --------------------------------------------------------------------------------------------------------


def failed(app: OwnApp, *errbacks: Any, **options: Any) -> Request:
    return Request("failed", errbacks=[dict(errback) for errback in errbacks], **options)


@interface("errbacks", "mark_as_failure")
def test_an_errback_with_three_parameters_gets_request_exception_and_traceback(app, backend):
    calls = []
    app.add("errback", lambda request, exc, traceback: calls.append((request, exc, traceback)))
    request = failed(app, app.signature("errback"))
    backend.mark_as_failure("failed", ERROR, "at line 1", request)
    assert calls == [(request, ERROR, "at line 1")]
    assert app.dispatched == []


@interface("errbacks")
def test_the_arguments_of_an_errback_come_last(app, backend):
    calls = []
    app.add("errback", lambda request, exc, traceback, *own, **more: calls.append((exc, own, more)))
    backend.mark_as_failure("failed", ERROR, None, failed(app, app.signature("errback", (1, 2), {"more": 3})))
    assert calls == [(ERROR, (1, 2), {"more": 3})]


@interface("errbacks")
def test_an_errback_with_two_parameters_is_called_and_its_type_error_is_logged(app, backend, caplog):
    app.add("errback", lambda request, exc: None)
    backend.mark_as_failure("failed", ERROR, None, failed(app, app.signature("errback")))
    assert app.dispatched == []
    assert "3 were given" in caplog.text


@interface("errbacks")
def test_errbacks_with_one_parameter_are_dispatched_as_a_group_with_the_failed_task_as_parent(app, backend):
    app.add("old", lambda task_id: None)
    errbacks = [app.signature("old"), app.signature("old")]
    backend.mark_as_failure("failed", ERROR, None, failed(app, *errbacks, root_id="root"))
    (first, args), (second, same_args) = app.dispatched
    assert args == same_args == ("failed",)
    assert first.options["group_id"] == second.options["group_id"]
    assert (first.options["group_index"], second.options["group_index"]) == (0, 1)
    assert first.id != second.id
    for errback in (first, second):
        assert (errback.options["parent_id"], errback.options["root_id"]) == ("failed", "root")


@interface("errbacks")
def test_a_failed_task_without_a_root_is_the_root_of_its_errbacks(app, backend):
    backend.mark_as_failure("failed", ERROR, None, failed(app, app.signature("anywhere")))
    ((errback, _),) = app.dispatched
    assert errback.options["root_id"] == "failed"


@interface("errbacks")
@pytest.mark.parametrize(("args", "kwargs"), [((1, 2), None), ((), {"x": 1, "y": 2})])
def test_an_errback_whose_arguments_leave_room_for_the_id_only_is_dispatched(app, backend, args, kwargs):
    app.add("old", lambda task_id, x, y: None)
    backend.mark_as_failure("failed", ERROR, None, failed(app, app.signature("old", args, kwargs)))
    ((errback, ids),) = app.dispatched
    assert (errback.args, errback.kwargs, ids) == (args, kwargs or {}, ("failed",))


@interface("errbacks")
@pytest.mark.parametrize("run", [lambda: None, lambda *args: None], ids=["takes nothing", "takes anything"])
def test_an_immutable_errback_is_dispatched_whatever_it_takes(app, backend, run):
    app.add("errback", run)
    backend.mark_as_failure("failed", ERROR, None, failed(app, {**app.signature("errback"), "immutable": True}))
    ((errback, _),) = app.dispatched
    assert errback["immutable"]
    assert errback.clone(("failed",)).args == ()


@interface("errbacks")
def test_an_errback_that_is_not_registered_is_dispatched(app, backend):
    backend.mark_as_failure("failed", ERROR, None, failed(app, app.signature("elsewhere")))
    assert [(errback.task, args) for errback, args in app.dispatched] == [("elsewhere", ("failed",))]


@interface("errbacks")
def test_an_errback_that_raises_is_logged_and_stops_none_of_the_others(app, backend, caplog):
    calls = []

    def breaks(request: Any, exc: Any, traceback: Any) -> None:
        raise RuntimeError("errback broken")

    app.add("breaks", breaks)
    app.add("works", lambda request, exc, traceback: calls.append(exc))
    errbacks = [app.signature("breaks"), {"no": "task"}, app.signature("works"), app.signature("old")]
    backend.mark_as_failure("failed", ERROR, None, failed(app, *errbacks))
    assert calls == [ERROR]
    assert [errback.task for errback, _ in app.dispatched] == ["old"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.ERROR]
    assert "errback broken" in caplog.text


@interface("errbacks")
def test_an_errback_that_cannot_be_dispatched_is_logged_and_stops_none_of_the_others(app, backend, caplog):
    calls = []
    app.dispatch = lambda signature, args=(): 1 / 0
    app.add("works", lambda request, exc, traceback: calls.append(exc))
    backend.mark_as_failure("failed", ERROR, None, failed(app, app.signature("old"), app.signature("works")))
    assert calls == [ERROR]
    assert "ZeroDivisionError" in caplog.text


@interface("mark_as_failure")
def test_errbacks_are_called_after_the_failure_was_stored_unless_turned_off(app, backend):
    seen = []
    app.add("errback", lambda request, exc, traceback: seen.append(backend.get_state(request.id)))
    request = failed(app, app.signature("errback"))
    backend.mark_as_failure("failed", ERROR, None, request, call_errbacks=False)
    assert seen == []
    backend.mark_as_failure("failed", ERROR, None, request)
    assert seen == [states.FAILURE]


# -- from the exception in flight ------------------------------------------------------------------------------------


class Local:
    """Something in a frame that has to go when the frame does."""


def fail_in_a_frame(backend: DictBackend, kept: list[Any], given: bool) -> str:
    local = Local()
    kept.append(weakref.ref(local))
    try:
        raise KeyError("key")
    except KeyError as error:
        return backend.fail_from_current_stack("id", error if given else None)


@interface("fail_from_current_stack")
@pytest.mark.parametrize("given", [True, False])
def test_fail_from_current_stack_stores_the_traceback_and_keeps_no_frame_alive(backend, given):
    kept = []
    gc.disable()
    try:
        text = fail_in_a_frame(backend, kept, given)
        assert kept[0]() is None
    finally:
        gc.enable()
    assert "in fail_in_a_frame" in text
    assert backend.get_traceback("id") == text
    assert (backend.get_state("id"), backend.get_result("id").args) == (states.FAILURE, ("key",))


@interface("fail_from_current_stack")
def test_fail_from_current_stack_without_an_exception_raises(backend):
    with pytest.raises(RuntimeError, match="needs an exception"):
        backend.fail_from_current_stack("id")


# -- bodies of chords ------------------------------------------------------------------------------------------------


@interface("chord_error_from_stack")
def test_chord_error_from_stack_stores_the_failure_and_calls_the_errbacks(app, backend):
    calls = []
    app.add("errback", lambda request, exc, traceback: calls.append((request.id, exc)))
    body = app.signature("body", task_id="body-id", link_error=[app.signature("errback"), app.signature("old")])
    error = ChordError("part 3 failed")
    backend.chord_error_from_stack(body, error)
    assert calls == [("body-id", error)]
    assert [(errback.task, args) for errback, args in app.dispatched] == [("old", ("body-id",))]
    assert backend.get_state("body-id") == states.FAILURE
    assert str(backend.get_result("body-id")) == "part 3 failed"


@interface("chord_error_from_stack")
def test_a_body_fails_on_the_backend_of_its_task(app, backend):
    other = DictBackend(OwnApp())
    app.add("body", lambda values: None, backend=other)
    backend.chord_error_from_stack(app.signature("body", task_id="body-id"), ERROR)
    assert (other.get_state("body-id"), backend.get_state("body-id")) == (states.FAILURE, states.PENDING)


@interface("chord_error_from_stack")
def test_a_body_fails_with_the_exception_in_flight_if_none_is_given(app, backend):
    try:
        raise KeyError("in flight")
    except KeyError:
        backend.chord_error_from_stack(app.signature("body", task_id="body-id"))
    assert backend.get_result("body-id").args == ("in flight",)
    backend.chord_error_from_stack(app.signature("body", task_id="another"))
    assert type(backend.get_result("another")) is ChordError


@interface("chord_error_from_stack")
@pytest.mark.parametrize("where", ["called", "dispatched"])
def test_an_exception_of_an_errback_of_a_body_becomes_the_failure(app, backend, where, caplog):
    calls = []

    def breaks(*args: Any) -> None:
        raise RuntimeError("errback broken")

    app.add("works", lambda request, exc, traceback: calls.append(exc))
    if where == "called":
        app.add("breaks", breaks)
    else:
        app.dispatch = breaks
    errbacks = [app.signature("breaks"), app.signature("works")]
    backend.chord_error_from_stack(app.signature("body", task_id="body-id", link_error=errbacks), ERROR)
    assert (type(backend.get_result("body-id")), calls) == (RuntimeError, [ERROR])
    assert "errback broken" in caplog.text


@interface("chord_error_from_stack")
def test_a_body_that_has_no_id_yet_gets_one(app, backend):
    app.add("errback", lambda request, exc, traceback: ids.append(request.id))
    ids: list[str] = []
    backend.chord_error_from_stack(app.signature("body", link_error=app.signature("errback")), ERROR)
    assert [backend.get_state(id_) for id_ in ids] == [states.FAILURE]
