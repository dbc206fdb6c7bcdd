"""The backend without results: storing does nothing, reading raises an error that says how to turn results on."""

import pickle

import pytest

from lmdbresults import states
from lmdbresults.app import App, Request
from lmdbresults.backends import DisabledBackend, open_backend
from lmdbresults.results import AsyncResult, GroupResult

interface = pytest.mark.interface("DisabledBackend")

RESULT, GROUP = AsyncResult("id"), GroupResult("group", [AsyncResult("id")])

ASKING = {
    "get_state": ("id",),
    "get_status": ("id",),
    "get_result": ("id",),
    "get_traceback": ("id",),
    "get_children": ("id",),
    "get_task_meta": ("id",),
    "reload_task_result": ("id",),
    "forget": ("id",),
    "wait_for": ("id",),
    "wait_for_pending": (RESULT,),
    "iter_native": (GROUP,),
    "get_many": (["id"],),
    "wait_for_async": ("id",),
    "as_completed": (["id"],),
    "watch": ("id",),
    "save_group": ("group", GROUP),
    "restore_group": ("group",),
    "get_group_meta": ("group",),
    "reload_group_result": ("group",),
    "delete_group": ("group",),
    "ensure_chords_allowed": (),
    "apply_chord": (("group", [RESULT]), {"task": "body"}),
    "set_chord_size": ("group", 1),
    "add_to_chord": ("group", RESULT),
    "fallback_chord_unlock": (GROUP, {"task": "body"}),
}


@pytest.fixture
def backend() -> DisabledBackend:
    return DisabledBackend()


@interface
@pytest.mark.parametrize("operation", ASKING)
def test_reading_raises_an_error_that_says_how_to_turn_results_on(backend, operation):
    with pytest.raises(NotImplementedError, match="open_backend"):
        getattr(backend, operation)(*ASKING[operation])


@interface
def test_every_method_that_reads_is_disabled():
    does_nothing = {"store_result", "as_uri"}
    overridden = {name for name in vars(DisabledBackend) if not name.startswith("_")}
    assert overridden - does_nothing == set(ASKING)


@interface
def test_storing_does_nothing(backend):
    assert backend.store_result("id", object(), states.SUCCESS) is None
    backend.mark_as_started("id")
    backend.mark_as_done("id", object(), Request("id", group="group", chord={"task": "body"}))
    backend.mark_as_retry("id", ValueError())
    backend.mark_as_revoked("id")


@interface
def test_errbacks_are_called_without_results():
    app, calls = App(), []
    app.task(lambda request, exc, traceback: calls.append(exc), name="errback")
    error = ValueError()
    DisabledBackend(app).mark_as_failure("id", error, request=Request("id", errbacks=[app.signature("errback")]))
    assert calls == [error]


@interface
@pytest.mark.parametrize("include_password", [True, False])
def test_the_uri_is_disabled(backend, include_password):
    assert backend.as_uri(include_password) == "disabled://"


@interface
def test_tasks_run_and_reading_their_results_raises():
    app = App()
    open_backend("disabled://", app=app)
    ran = []
    result = app.send(app.signature(app.task(lambda: ran.append(1), name="task")))
    assert ran == [1]
    with pytest.raises(NotImplementedError, match="Results are turned off"):
        result.get(timeout=0)


@interface
def test_a_disabled_backend_pickles(backend):
    assert type(pickle.loads(pickle.dumps(backend))) is DisabledBackend
