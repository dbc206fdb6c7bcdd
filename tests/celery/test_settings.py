"""Every setting of Celery that concerns results, and every way to read a result, does what Celery documents."""

import math
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import celery
import pytest
from celery import chain, states
from celery.beat import Scheduler
from celery.exceptions import ImproperlyConfigured
from celery.result import AsyncResult, GroupResult
from kombu import serialization
from kombu.compression import encoders as compressions
from kombu.exceptions import EncodeError
from kombu.utils import json as kombu_json

from lmdbresults import LMDBStore, StoreFull, open_store
from lmdbresults.errors import DiskFailed, StoreBusy, TooManyReaders
from lmdbresults.integrations.celery.backend import LMDBBackend
from lmdbresults.testing import FakeClock
from tests.support.celery_needed import SERIALIZERS, needs_5_7
from tests.support.celery_tasks import OwnError, add, echo, fail, ignored, make_app, not_json, settings_for

EAGER = {"task_always_eager": True, "task_store_eager_result": True}


def on_clock(app: Any, clock: FakeClock) -> LMDBBackend:
    """Return the backend of an application, its store opened again with a fake clock."""
    backend: LMDBBackend = app.backend
    backend.store.close()
    backend.store = open_store(app.conf.result_backend, clock=clock)
    return backend


def ttl_of(backend: LMDBBackend, task_id: str) -> float | None:
    return backend.store.ttl(backend.get_key_for_task(task_id))


# -- expiry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("expires", "seconds"), [(60, 60), (timedelta(minutes=1), 60), (0.25, 0.25)])
def test_a_result_is_gone_once_result_expires_has_passed(
    application: Any, clock: FakeClock, expires: Any, seconds: float
) -> None:
    backend = on_clock(application(result_expires=expires), clock)
    backend.store_result("id", 1, states.SUCCESS)
    clock.advance(seconds * 0.99)
    assert backend.get_task_meta("id", cache=False)["status"] == "SUCCESS"
    clock.advance(seconds * 0.01)
    assert backend.get_task_meta("id", cache=False)["status"] == "PENDING"


@pytest.mark.parametrize("expires", [None, 0, timedelta(0)])
def test_a_result_stays_if_result_expires_is_none_or_zero(application: Any, clock: FakeClock, expires: Any) -> None:
    backend = on_clock(application(result_expires=expires), clock)
    backend.store_result("id", 1, states.SUCCESS)
    assert ttl_of(backend, "id") == math.inf


def test_a_result_stays_a_day_by_default(app: Any, clock: FakeClock) -> None:
    backend = on_clock(app, clock)
    backend.store_result("id", 1, states.SUCCESS)
    assert ttl_of(backend, "id") == 24 * 3600


def test_each_new_state_extends_the_expiry(application: Any, clock: FakeClock) -> None:
    backend = on_clock(application(result_expires=60), clock)
    backend.mark_as_started("id")
    clock.advance(59)
    backend.mark_as_done("id", 1)
    assert ttl_of(backend, "id") == 60


@needs_5_7
@pytest.mark.parametrize(("failure_expires", "ttl"), [(600, 600), (0, math.inf), (None, 60)])
def test_result_failure_expires_applies_to_failures_only(
    application: Any, clock: FakeClock, failure_expires: Any, ttl: float
) -> None:
    backend = on_clock(application(result_expires=60, result_failure_expires=failure_expires), clock)
    backend.mark_as_failure("failed", OwnError("x"))
    backend.mark_as_revoked("revoked", "x")
    backend.mark_as_done("done", 1)
    assert [ttl_of(backend, name) for name in ("failed", "revoked", "done")] == [ttl, 60, 60]


@needs_5_7
def test_result_chord_expires_applies_to_the_bookkeeping_of_chords(application: Any, clock: FakeClock) -> None:
    app = application(result_expires=60, result_chord_expires=600)
    backend = on_clock(app, clock)
    parts = [app.AsyncResult("a"), app.AsyncResult("b")]
    backend.apply_chord(("group", parts), body=echo.s())
    request = celery.app.task.Context(id="a", group="group", chord=echo.s())
    backend.mark_as_done("a", 1, request=request)
    assert backend.store.ttl(backend.get_key_for_chord("group")) == 600
    assert backend.store.ttl(backend.get_key_for_task("a")) == 60  # whose value the chord has by now


def test_the_counter_of_a_chord_has_an_expiry_from_the_first_count(application: Any, clock: FakeClock) -> None:
    backend = on_clock(application(result_expires=60), clock)
    key = backend.get_key_for_chord("group")
    assert (backend.incr(key), backend.store.ttl(key)) == (1, 60)


def test_beat_is_not_asked_to_clean_up(app: Any) -> None:
    beat = Scheduler(app, lazy=True)
    beat.setup_schedule()
    assert "celery.backend_cleanup" not in beat.schedule


def test_cleanup_deletes_expired_results(application: Any, clock: FakeClock) -> None:
    app = application(result_expires=60)
    backend = on_clock(app, clock)
    before = backend.store.stats().records
    for number in range(20):
        backend.store_result(str(number), number, states.SUCCESS)
    clock.advance(61)
    app.tasks["celery.backend_cleanup"]()  # what beat sends
    assert backend.store.stats().records == before


# -- content -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_results_are_written_by_result_serializer(application: Any, serializer: str) -> None:
    app = application(result_serializer=serializer, accept_content=[serializer])
    app.backend.store_result("id", ["value"], states.SUCCESS)
    assert app.AsyncResult("id").get(timeout=0) == ["value"]
    expected = {"json": b'["value"]', "msgpack": b"\x91\xa5value", "pickle": b"\x80", "yaml": b"- value"}[serializer]
    assert expected in app.backend.store.get(app.backend.get_key_for_task("id"))


def test_result_serializer_can_be_one_that_the_application_has_registered(application: Any) -> None:
    serialization.register("upside-down", lambda value: value[::-1], lambda body: body.decode()[::-1], "text/x-down")
    try:
        app = application(result_serializer="upside-down", accept_content=["upside-down"])
        app.backend.store_result("id", "value", states.SUCCESS)
        assert app.AsyncResult("id").get(timeout=0) == "value"
        assert b"eulav" in app.backend.store.get(app.backend.get_key_for_task("id"))
    finally:
        serialization.unregister("upside-down")


def test_a_serializer_that_is_registered_again_is_used_from_then_on(application: Any) -> None:
    app = application()
    app.backend.store_result("before", "value", states.SUCCESS)
    encoder, decoder = kombu_json.dumps, kombu_json.loads
    upside_down = (lambda value: encoder(value)[::-1], lambda body: decoder(body.decode()[::-1]))
    try:
        serialization.register("json", *upside_down, "application/json", "utf-8")
        app.backend.store_result("id", "value", states.SUCCESS)
        assert b"eulav" in app.backend.store.get(app.backend.get_key_for_task("id"))
        assert app.backend.get_task_meta("id")["result"] == "value"
    finally:
        serialization.register("json", encoder, decoder, "application/json", "utf-8")
    assert app.backend.get_task_meta("before")["result"] == "value"


def test_an_unknown_serializer_is_an_error_when_the_backend_is_made(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="unheard-of"):
        _ = make_app(settings_for(tmp_path, result_serializer="unheard-of")).backend


@needs_5_7
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("method", sorted(compressions()))
def test_result_compression_shrinks_results_for_any_reader(application: Any, method: str, extended: bool) -> None:
    app = application(result_compression=method, result_extended=extended, **EAGER)
    task_id = echo.delay("x" * 100_000).id
    assert len(app.backend.store.get(app.backend.get_key_for_task(task_id))) < 5_000
    assert application().AsyncResult(task_id).get(timeout=0) == "x" * 100_000


@needs_5_7
def test_an_unknown_compression_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="unheard-of"):
        _ = make_app(settings_for(tmp_path, result_compression="unheard-of")).backend


def test_result_extended_stores_the_call_and_the_worker(application: Any) -> None:
    application(result_extended=True, **EAGER)
    result = AsyncResult(add.apply_async((1, 2), retries=1).id)
    assert (result.name, result.args, result.kwargs, result.retries) == ("add", [1, 2], {}, 1)
    assert result.worker == add.app.AsyncResult(result.id).worker is not None


def test_result_extended_and_the_time_zone_may_be_set_once_the_backend_is_made(application: Any) -> None:
    app = application()
    assert app.backend.get_task_meta("unknown")["status"] == states.PENDING
    app.conf.update(result_extended=True, timezone="Asia/Tokyo")
    request = celery.app.task.Context(id="id", task="add", args=(1, 2), kwargs={})
    app.backend.store_result("id", 3, states.SUCCESS, request=request)
    assert (app.AsyncResult("id").name, app.AsyncResult("id").args) == ("add", [1, 2])
    app.conf.result_extended = False
    app.backend.store_result("other", 3, states.SUCCESS, request=request)
    assert app.AsyncResult("other").name is None
    for task_id in ("id", "other"):
        in_time_zone = app.backend.get_task_meta(task_id)["date_done"].endswith("+09:00")
        assert in_time_zone is (celery.VERSION >= (5, 5))  # older ones write UTC


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_arguments_that_the_result_serializer_cannot_write_are_described(application: Any, serializer: str) -> None:
    app = application(result_extended=True, result_serializer=serializer, accept_content=[serializer])
    unwritable = object()
    request = celery.app.task.Context(id="id", task="size", args=(unwritable,), kwargs={"y": 1})
    app.backend.mark_as_done("id", 2, request=request)
    result = app.AsyncResult("id")
    assert (result.get(timeout=0), result.name, result.kwargs) == (2, "size", {"y": 1})
    assert result.args == repr((unwritable,))


def test_without_result_extended_arguments_are_not_stored(application: Any) -> None:
    app = application(**EAGER)
    result = AsyncResult(echo.delay("secret").id)
    app.backend.mark_as_done("other", 1, request=celery.app.task.Context(args=["secret"]))
    assert (result.name, result.args) == (None, None)
    assert b"secret" not in app.backend.store.get(app.backend.get_key_for_task("other"))


# -- caching, prefixes, retries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "cached"), [(2, [False, True, True]), (-1, [False, False, False])])
def test_result_cache_max_is_the_number_of_cached_successes(application: Any, size: int, cached: list[bool]) -> None:
    app = application(result_cache_max=size)
    for name in "abc":
        app.backend.store_result(name, 1, states.SUCCESS)
        app.AsyncResult(name).get(timeout=0)
    assert [app.backend.is_cached(name) for name in "abc"] == cached


def test_only_a_success_is_cached(application: Any) -> None:
    app = application(result_cache_max=10)
    for state in (states.STARTED, "PROGRESS", states.FAILURE):
        app.backend.store_result("id", OwnError("x") if state == states.FAILURE else {}, state)
        assert app.AsyncResult("id").state == state
        assert not app.backend.is_cached("id")


@pytest.mark.parametrize(("setting", "persistent"), [(None, True), (True, True), (False, False)])
def test_result_persistent_is_read_as_by_celery(application: Any, setting: Any, persistent: bool) -> None:
    assert application(result_persistent=setting).backend.prepare_persistent() is persistent


def test_applications_with_different_prefixes_share_a_file_without_seeing_each_other(application: Any) -> None:
    apps = [application(result_backend_transport_options={"global_keyprefix": name}) for name in ("one", "two")]
    for number, app in enumerate(apps):
        app.backend.store_result("id", number, states.SUCCESS)
        GroupResult("group", [app.AsyncResult(str(number))], app=app).save()
    assert [app.AsyncResult("id").get(timeout=0) for app in apps] == [0, 1]
    assert [GroupResult.restore("group", app=app)[0].id for app in apps] == ["0", "1"]
    assert application().AsyncResult("id").state == "PENDING"


class Relieved(LMDBBackend):
    """Makes room in the file when it is asked whether trying again may help."""

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        for number in range(100):
            self.store.delete(b"filler %d" % number)
        return super().exception_safe_to_retry(exc)


@pytest.fixture
def full(application: Any, tmp_path: Path) -> Any:
    """Makes an application whose file is full until it is relieved."""

    def make(**settings: Any) -> Any:
        url = f"lmdb://{tmp_path}/results.lmdb?durability=none&max_size=1MiB"
        app = application(result_backend=f"{__name__}:Relieved+{url}", **settings)
        with pytest.raises(StoreFull):
            fill(app.backend.store)
        return app

    return make


def fill(store: LMDBStore) -> None:
    for number in range(100):
        store.set(b"filler %d" % number, os.urandom(30_000))


def test_result_backend_always_retry_stores_as_soon_as_there_is_room(full: Any) -> None:
    app = full(result_backend_always_retry=True)
    app.backend.store_result("id", "x" * 30_000, states.SUCCESS)
    assert app.AsyncResult("id").get(timeout=0) == "x" * 30_000


@pytest.mark.parametrize(
    ("error", "expected"),
    [(StoreFull, True), (StoreBusy, True), (TooManyReaders, True), (DiskFailed, False), (OSError, False)],
)
def test_errors_that_may_pass_are_safe_to_retry(app: Any, error: type[Exception], expected: bool) -> None:
    assert app.backend.exception_safe_to_retry(error("why")) is expected


def test_without_result_backend_always_retry_a_full_file_is_an_error(full: Any) -> None:
    with pytest.raises(StoreFull):
        full().backend.store_result("id", "x" * 30_000, states.SUCCESS)


# -- what tasks return and raise ---------------------------------------------------------------------------------


def test_an_eager_task_is_stored_with_task_store_eager_result(application: Any) -> None:
    application(**EAGER)
    result = AsyncResult(add.delay(1, 2).id)
    assert (result.get(timeout=0), result.state) == (3, "SUCCESS")
    assert isinstance(result.date_done, datetime)


def test_an_eager_task_is_not_stored_otherwise(application: Any) -> None:
    task_id = application(task_always_eager=True).tasks["add"].delay(1, 2).id
    with pytest.warns(RuntimeWarning, match="eager"):
        assert AsyncResult(task_id).state == "PENDING"


def test_the_result_of_a_task_that_ignores_it_is_not_stored(application: Any) -> None:
    application(**EAGER)
    assert AsyncResult(ignored.delay().id).state == "PENDING"
    assert AsyncResult(ignored.delay(fails=True).id).state == "PENDING"


def test_store_errors_even_if_ignored_stores_the_errors(application: Any) -> None:
    app = application(task_store_errors_even_if_ignored=True, **EAGER)
    assert AsyncResult(app.tasks["ignored"].delay(fails=True).id).state == "FAILURE"
    assert AsyncResult(app.tasks["ignored"].delay().id).state == "PENDING"


def test_an_exception_of_the_application_comes_back_with_its_class(application: Any) -> None:
    application(**EAGER)
    result = AsyncResult(fail.delay("why", 7).id)
    with pytest.raises(OwnError) as caught:
        result.get(timeout=0)
    assert caught.value.args == ("why", 7)
    assert "OwnError: ('why', 7)" in result.traceback
    assert (result.state, result.failed()) == ("FAILURE", True)


def test_an_exception_class_that_the_reader_lacks_keeps_its_name(app: Any) -> None:
    app.backend.mark_as_failure("id", type("Unknown", (Exception,), {"__module__": "not.here"})("why"))
    error = app.AsyncResult("id").result
    assert (type(error).__name__, error.args) == ("Unknown", ("why",))


def test_an_exception_that_json_cannot_write_keeps_its_class_and_the_rest(application: Any) -> None:
    application(**EAGER)
    error = AsyncResult(not_json.delay(fails=True).id).result
    assert type(error) is OwnError
    assert error.args[0] == "about"
    assert "object object" in error.args[1]


def test_a_result_that_cannot_be_written_is_a_failure_with_the_reason(application: Any) -> None:
    application(**EAGER)
    result = AsyncResult(not_json.delay().id)
    assert result.state == "FAILURE"
    assert type(result.result).__name__ == EncodeError.__name__
    assert "not JSON serializable" in str(result.result)


def test_custom_states_have_the_meta_of_update_state(app: Any) -> None:
    echo.update_state("id", "PROGRESS", {"done": 1, "of": 2})
    result = app.AsyncResult("id")
    assert (result.state, result.info, result.ready()) == ("PROGRESS", {"done": 1, "of": 2}, False)
    assert result.date_done is None


# -- handles -----------------------------------------------------------------------------------------------------


def test_a_group_is_saved_restored_and_deleted(app: Any) -> None:
    inner = GroupResult("inner", [AsyncResult("a", parent=AsyncResult("p"))], parent=AsyncResult("q"))
    outer = GroupResult("outer", [inner, AsyncResult("b")])
    outer.save()
    restored = GroupResult.restore("outer")
    assert restored.as_tuple() == outer.as_tuple()
    restored.delete()
    assert GroupResult.restore("outer") is None


def test_a_saved_group_counts_its_completed_results(app: Any) -> None:
    GroupResult("group", [AsyncResult(name) for name in "abc"]).save()
    app.backend.mark_as_done("a", 1)
    app.backend.mark_as_done("c", 3)
    restored = GroupResult.restore("group")
    assert (restored.completed_count(), restored.ready(), restored.waiting()) == (2, False, True)
    app.backend.mark_as_done("b", 2)
    assert restored.get(timeout=240) == [1, 2, 3]


def test_forgetting_a_group_forgets_its_results(app: Any) -> None:
    app.backend.mark_as_done("a", 1)
    GroupResult("group", [AsyncResult("a")]).forget()
    assert AsyncResult("a").state == "PENDING"


def test_a_chain_leads_back_from_its_last_result_to_the_first(application: Any) -> None:
    application(**EAGER)
    last = chain(add.s(1), add.s(2), add.s(3))()
    steps = [last, last.parent, last.parent.parent]
    assert [AsyncResult(step.id).get(timeout=0) for step in steps] == [6, 3, 1]
