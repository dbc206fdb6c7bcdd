"""The small app: settings, tasks, signatures, and running a task here."""

import asyncio
import json
import pickle
from datetime import timedelta
from typing import Any

import pytest

from lmdbresults import states
from lmdbresults.app import App, Request, Settings, Signature, current_request
from lmdbresults.errors import EncodeError, NotRegistered, TaskError, UnknownOption
from lmdbresults.results import AsyncResult
from tests.support.plain import DictBackend

interface = pytest.mark.interface


@pytest.fixture
def app() -> App:
    app = App()
    DictBackend(app)
    app.task(lambda x, y=0: x + y, name="add")
    return app


def failing(app: App, error: BaseException) -> Any:
    def fail(*args: Any) -> None:
        raise error

    return app.task(fail, name="fail")


# -- settings --------------------------------------------------------------------------------------------------------


@interface("App: conf")
@pytest.mark.parametrize("conf", [None, {}, Settings()])
def test_settings_have_the_defaults_of_celery(conf):
    settings = App(conf).conf
    assert (settings.result_serializer, settings.result_expires) == ("json", timedelta(days=1))
    assert (settings.result_cache_max, settings.result_chord_join_timeout) == (-1, 3.0)


@interface("App: conf")
def test_settings_are_given_as_a_mapping_by_name_or_both():
    expected = Settings(result_expires=60, result_extended=True)
    assert App({"result_expires": 60, "result_extended": True}).conf == expected
    assert App(result_expires=60, result_extended=True).conf == expected
    assert App(Settings(result_expires=60), result_extended=True).conf == expected
    assert App({"result_expires": 60, "result_extended": False}, result_extended=True).conf == expected


@interface("App: conf")
def test_an_unknown_setting_raises_an_error_that_lists_the_known_ones():
    with pytest.raises(UnknownOption, match=r"result_expire; there are: .*result_expires"):
        App({"result_expire": 60})
    with pytest.raises(UnknownOption, match=r"result_expire; there are: .*result_expires"):
        App(result_expire=60)


@interface("App: conf")
def test_now_is_in_utc():
    assert App().now().utcoffset() == timedelta(0)


# -- tasks -----------------------------------------------------------------------------------------------------------


@interface("App: task")
def test_a_task_is_named_after_its_function_unless_a_name_is_given():
    app = App()

    @app.task
    def double(x: int) -> int:
        return 2 * x

    @app.task(name="triple it", queue="slow")
    def triple(x: int) -> int:
        return 3 * x

    assert (double(2), triple(2)) == (4, 6)
    assert app.tasks == {"double": double, "triple it": triple}
    assert triple.options == {"queue": "slow"}


@interface("App: task", "App: signature")
def test_a_task_sends_itself(app):
    @app.task(name="multiply")
    def times(x: int, y: int = 2) -> int:
        """Multiply two numbers."""
        return x * y

    assert (times.__name__, times.__doc__) == ("times", "Multiply two numbers.")
    assert times.delay(3).get(timeout=0) == times.delay(x=3).get(timeout=0) == 6
    assert times.apply_async((3,), {"y": 5}, task_id="id").get(timeout=0) == 15
    assert app.backend.get_result("id") == 15
    assert dict(times.s(3, y=4)) == dict(app.signature("multiply", (3,), {"y": 4}))


@interface("App: task", "App: run")
@pytest.mark.parametrize(("options", "stored"), [({}, False), ({"ignore_result": False}, True)])
def test_a_signature_has_the_options_of_its_task_and_can_override_them(app, options, stored):
    quiet = app.task(lambda: 42, name="quiet", ignore_result=True)
    result = app.send(app.signature(quiet, **options))
    assert result.ready() is stored


@interface("App: task")
def test_a_task_can_have_a_backend_of_its_own(app):
    elsewhere = DictBackend()
    app.tasks["add"].backend = elsewhere
    result = app.send(app.signature("add", (1, 2)))
    assert (result.state, elsewhere.get_result(result.id)) == ("PENDING", 3)


# -- signatures ------------------------------------------------------------------------------------------------------


@interface("App: signature")
def test_a_signature_names_a_task_its_arguments_and_its_options(app):
    for task in ("add", app.tasks["add"]):
        signature = app.signature(task, (1,), {"y": 2}, queue="slow")
        assert (signature.task, signature.args, signature.kwargs) == ("add", (1,), {"y": 2})
        assert (signature.options, signature.id) == ({"queue": "slow"}, None)


@interface("App: signature")
@pytest.mark.parametrize("carried", [json, pickle], ids=["json", "pickle"])
def test_a_signature_is_a_mapping_that_json_and_pickle_carry(app, carried):
    signature = app.signature("add", (1,), {"y": 2}, queue="slow")
    signature.link_error(app.signature("errback"))
    mapping = carried.loads(carried.dumps(signature))
    assert type(mapping) is dict
    arrived = app.signature(mapping)
    assert (arrived.task, arrived.args, arrived.kwargs) == ("add", (1,), {"y": 2})
    assert carried.loads(carried.dumps(arrived)) == mapping
    assert arrived.app is app


@interface("App: signature")
def test_a_clone_gets_its_arguments_first_and_does_not_change_the_original(app):
    signature = app.signature("add", (1,), {"y": 2}, link_error=app.signature("first"))
    clone = signature.clone((0,), {"z": 3}, queue="slow")
    clone.link_error(app.signature("second"))
    assert (clone.args, clone.kwargs, clone.options["queue"]) == ((0, 1), {"y": 2, "z": 3}, "slow")
    assert [errback["task"] for errback in clone.options["link_error"]] == ["first", "second"]
    assert (signature.args, signature.kwargs) == ((1,), {"y": 2})
    assert signature.clone().options == {"link_error": [app.signature("first")]}


@interface("App: signature")
def test_an_immutable_signature_keeps_its_arguments_and_takes_options(app):
    signature = Signature(app, {"task": "add", "args": [1], "immutable": True})
    clone = signature.clone((0,), {"z": 3}, queue="slow")
    assert (clone.args, clone.kwargs, clone.options["queue"]) == ((1,), {}, "slow")


@interface("App: signature")
@pytest.mark.parametrize("given", [{"task": "errback"}, [{"task": "errback"}]], ids=["one", "list"])
def test_one_errback_or_a_list_of_errbacks_can_be_given(app, given):
    signature = app.signature("add").set(link_error=given)
    assert signature.link_error({"task": "another"}) == {"task": "another"}
    assert [errback["task"] for errback in Request.of(signature).errbacks] == ["errback", "another"]


@interface("App: signature")
def test_freezing_a_signature_gives_it_the_id_of_its_result(app):
    signature = app.signature("add", (1,))
    result = signature.freeze(group_id="group")
    assert (result, result.backend) == (AsyncResult(signature.id), app.backend)
    assert signature.options["group_id"] == "group"
    assert signature.freeze() == result
    assert signature.freeze("another").id == signature.id == "another"


# -- running ---------------------------------------------------------------------------------------------------------


@interface("App: dispatch", "App: run")
def test_a_task_that_is_sent_runs_here_and_stores_its_result(app):
    result = app.send(app.signature("add", (1,), {"y": 2}))
    assert (result.state, result.get(timeout=0)) == (states.SUCCESS, 3)


@interface("App: dispatch")
def test_arguments_given_to_send_come_before_those_of_the_signature(app):
    app.task(lambda *args: list(args), name="args")
    assert app.send(app.signature("args", (2, 3)), (0, 1)).get(timeout=0) == [0, 1, 2, 3]


@interface("App: dispatch")
def test_a_signature_that_is_sent_twice_makes_two_results_unless_it_was_frozen(app):
    signature = app.signature("add", (1,))
    assert app.send(signature) != app.send(signature)
    assert signature.id is None
    frozen = signature.freeze()
    assert app.send(signature) == app.send(signature) == frozen


@interface("App: run")
def test_the_exception_of_a_task_is_its_result(app):
    failing(app, KeyError("why"))
    result = app.send(app.signature("fail"))
    with pytest.raises(KeyError, match="why"):
        result.get(timeout=0)
    assert "in fail" in result.traceback


@interface("App: run", "errbacks")
@pytest.mark.parametrize("style", ["new", "old"])
def test_the_errbacks_of_a_task_that_fails_are_called(app, style):
    calls: list[Any] = []
    error = KeyError("why")
    failing(app, error)
    app.task(lambda request, exc, traceback: calls.append((request.id, exc, "in fail" in traceback)), name="new")
    app.task(lambda task_id: calls.append((task_id, current_request().parent_id)), name="old")
    signature = app.signature("fail", link_error=app.signature(style))
    result = app.send(signature)
    assert calls == [(result.id, error, True)] if style == "new" else [(result.id, result.id)]


@interface("App: run")
def test_a_task_that_is_not_registered_fails_with_not_registered(app):
    with pytest.raises(NotRegistered, match=r"'nowhere' .* there are: .*add"):
        app.send(app.signature("nowhere")).get(timeout=0)


@interface("App: run")
def test_a_result_that_cannot_be_encoded_is_a_failure(app):
    result = app.send(app.signature(app.task(object, name="object")))
    with pytest.raises(EncodeError, match="object"):
        result.get(timeout=0)


@interface("App: run")
def test_a_worker_runs_what_it_receives_as_a_plain_mapping(app):
    app.run({"task": "add", "args": [2], "kwargs": {"y": 3}, "options": {"task_id": "id"}}, ())
    assert app.backend.get_result("id") == 5


@interface("App: run")
def test_a_task_knows_its_request_while_it_runs(app):
    seen: list[Any] = []
    app.task(lambda *args, **kwargs: seen.append(current_request()), name="look")
    result = app.send(app.signature("look", (1,), {"y": 2}, parent_id="parent", queue="slow"))
    (request,) = seen
    assert (request.id, request.task, request.args, request.kwargs) == (result.id, "look", (1,), {"y": 2})
    assert (request.parent_id, request.root_id, request.group) == ("parent", None, None)
    assert current_request() is None


@interface("App: dispatch", "current_task_children")
def test_a_task_sent_by_a_running_task_runs_after_it_as_its_child(app):
    order: list[str] = []

    def parent() -> str:
        child = app.send(app.signature("child"))
        order.append("parent")
        return child.id

    app.task(parent)
    app.task(lambda: order.extend([current_request().parent_id, current_request().root_id]), name="child")
    result = app.send(app.signature("parent", root_id="root"))
    assert order == ["parent", result.id, "root"]
    assert [child.id for child in result.children] == [result.get(timeout=0)]
    assert AsyncResult(result.get(timeout=0), app.backend)._meta()["parent_id"] == result.id


@interface("App: dispatch")
def test_dispatch_is_overridden_to_use_a_queue():
    class Queued(App):
        def dispatch(self, signature: Signature, args: Any = ()) -> None:
            queue.append((dict(signature), args))

    queue: list[Any] = []
    app = Queued()
    DictBackend(app)
    app.task(lambda x, y: x + y, name="add")
    result = app.send(app.signature("add", (2,)), (1,))
    assert result.state == states.PENDING
    ((mapping, args),) = queue
    app.run(mapping, args)
    assert result.get(timeout=0) == 3


@interface("App: run")
@pytest.mark.parametrize("error", [SystemExit("usage: ..."), asyncio.CancelledError(), GeneratorExit()], ids=repr)
def test_an_exit_or_a_cancellation_of_a_task_is_its_failure_and_raised_as_a_task_error(app, error):
    failing(app, error)
    result = app.send(app.signature("fail"))
    assert (result.state, type(result.result)) == (states.FAILURE, type(error))
    with pytest.raises(TaskError, match=type(error).__name__) as raised:
        result.get(timeout=0)
    assert isinstance(raised.value.__cause__, type(error))


@interface("App: run")
def test_an_exception_whose_argument_has_no_repr_is_a_failure(app):
    class Detached:
        def __repr__(self) -> str:
            raise RuntimeError("not bound to a session")

    failing(app, ValueError("cannot save", Detached()))
    with pytest.raises(ValueError, match="cannot save"):
        app.send(app.signature("fail")).get(timeout=0)


@interface("App: dispatch")
def test_a_keyboard_interrupt_stops_the_worker_once_the_failure_is_stored(app):
    failing(app, KeyboardInterrupt())
    sent: list[AsyncResult] = []
    app.task(lambda: app.send(app.signature("add", (1,))) and sent.append(app.send(app.signature("fail"))), name="both")
    with pytest.raises(KeyboardInterrupt):
        app.send(app.signature("both"))
    assert sent[0].state == states.FAILURE
    assert current_request() is None
    assert app.send(app.signature("add", (1,))).get(timeout=0) == 1
