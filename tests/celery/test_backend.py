"""The backend class: how Celery finds it, what it shares with Celery's own, and what it protects."""

import inspect
import math
import pickle
import re
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import celery
import pytest
from celery import Celery, states
from celery._state import _set_task_join_will_block
from celery.app.task import Context
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import ChordError, ImproperlyConfigured
from celery.result import AsyncResult, GroupResult
from kombu.exceptions import ContentDisallowed

from lmdbresults.errors import DecodeError, FolderMissing
from lmdbresults.integrations.celery.backend import LMDBBackend
from lmdbresults.integrations.celery.chords import ChordsMixin
from lmdbresults.integrations.celery.store_backend import StoreBackend
from tests.support.celery_needed import ALL_CONTENT, SERIALIZERS, needs_5_7
from tests.support.celery_tasks import OwnError, echo, make_app, settings_for
from tests.support.processes import FORKS_WITH_THREADS, Barrier, Child, in_child

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


# -- how it is found and made ------------------------------------------------------------------------------------


def test_the_url_alone_selects_the_backend(tmp_path: Path) -> None:
    url = f"lmdb://{tmp_path}/results.lmdb"
    backend = Celery(set_as_current=False, backend=url).backend
    assert type(backend) is LMDBBackend
    assert backend.as_uri() == backend.as_uri(include_password=True) == url
    backend.store.close()


def test_the_class_may_be_named_in_front_of_the_url(tmp_path: Path) -> None:
    url = f"lmdb://{tmp_path}/results.lmdb"
    backend = Celery(set_as_current=False, backend=f"lmdbresults.integrations.celery:LMDBBackend+{url}").backend
    assert (type(backend), backend.url) == (LMDBBackend, url)
    backend.store.close()


@pytest.mark.parametrize(
    "url", ["lmdb", "lmdb://", "lmdb:///", "lmdb:///folder/", "lmdb:///~/x", "lmdb:///x?size=1", "lmdb:///x?mode=9"]
)
def test_a_url_that_names_no_file_or_an_unknown_option_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ImproperlyConfigured):
        _ = Celery(set_as_current=False, backend=url).backend


@pytest.mark.parametrize("setting", ["result_expires", "result_failure_expires"])
@pytest.mark.parametrize("value", [-1, math.nan, "60", "1 day"])
def test_an_invalid_expiry_is_a_configuration_error(tmp_path: Path, setting: str, value: object) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=f"^invalid {setting}={value!r}: must be a number of seconds or a timedelta"
    ):
        _ = make_app(settings_for(tmp_path, **{setting: value})).backend


def test_a_file_that_cannot_be_opened_is_an_error_when_the_backend_is_made(tmp_path: Path) -> None:
    with pytest.raises(FolderMissing, match=re.escape(str(tmp_path / "a" / "b"))):
        _ = Celery(set_as_current=False, backend=f"lmdb://{tmp_path}/a/b/results.lmdb").backend


# -- what it shares with Celery's base class ---------------------------------------------------------------------


def overridden() -> list[str]:
    members = {**vars(ChordsMixin), **vars(StoreBackend), **vars(LMDBBackend)}
    functions = [name for name, member in members.items() if inspect.isfunction(member)]
    return [name for name in functions if hasattr(KeyValueStoreBackend, name) and name != "__init__"]


def shape(owner: type, name: str) -> list[tuple[str, Any, Any]]:
    parameters = inspect.signature(getattr(owner, name)).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]


@pytest.mark.parametrize("name", [name for name in overridden() if not name.startswith("_")])
def test_a_public_method_has_the_signature_of_the_one_that_it_replaces(name: str) -> None:
    assert shape(LMDBBackend, name) == shape(KeyValueStoreBackend, name)


@pytest.mark.parametrize("name", [name for name in overridden() if name.startswith("_")])
def test_a_hook_takes_every_argument_that_celery_may_give_it_by_name(name: str) -> None:
    arguments = {
        name: None for name, kind, _ in shape(KeyValueStoreBackend, name) if kind != inspect.Parameter.VAR_KEYWORD
    }
    assert inspect.signature(getattr(LMDBBackend, name)).bind(**arguments)


def test_the_hooks_that_the_backend_replaces_exist_in_celery() -> None:
    hooks = {"_store_result", "_get_task_meta_for", "_mget_to_results", "_set_with_state", "decode_result", "encode"}
    hooks |= {"get", "mget", "set", "delete", "incr", "expire", "cleanup", "decode", "on_chord_part_return"}
    assert hooks <= set(overridden())


def test_every_public_attribute_of_celerys_class_exists_with_the_same_kind() -> None:
    names = [name for name in dir(KeyValueStoreBackend) if not name.startswith("_")]
    kinds = {name: type(inspect.getattr_static(KeyValueStoreBackend, name)) for name in names}
    assert {name: type(inspect.getattr_static(LMDBBackend, name)) for name in names} == kinds


def test_a_pickled_backend_opens_the_same_file_with_the_same_expiry(app: Any) -> None:
    backend = LMDBBackend(app=app, url=app.conf.result_backend, expires=60)
    backend.store_result("id", "kept", states.SUCCESS)
    copy = pickle.loads(pickle.dumps(backend))
    assert (copy.get_result("id"), copy.url, copy.expires) == ("kept", backend.url, 60)
    copy.store.close()
    backend.store.close()


def test_all_threads_of_an_application_share_one_backend(app: Any) -> None:
    seen, ready = set(), threading.Barrier(8)

    def work(number: int) -> None:
        ready.wait()
        for task in range(20):
            app.backend.store_result(f"{number}-{task}", number, states.SUCCESS)
            assert app.AsyncResult(f"{number}-{task}").result == number
        seen.add(app.backend)

    backend = app.backend
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {backend}


def test_a_backend_used_before_a_fork_works_in_parent_and_child(app: Any) -> None:
    app.backend.store_result("before", 1, states.SUCCESS)
    in_child(app.backend.store_result, "child", 2, states.SUCCESS)
    app.backend.store_result("parent", 3, states.SUCCESS)
    assert [app.backend.get_result(name) for name in ("before", "child", "parent")] == [1, 2, 3]


# -- SUCCESS is final --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["FAILURE", "RETRY", "REVOKED", "STARTED", "SUCCESS", "PROGRESS"])
def test_a_success_is_not_overwritten_by_a_late_duplicate(app: Any, late: str) -> None:
    app.backend.store_result("id", "first", states.SUCCESS)
    value = OwnError("late") if late in states.EXCEPTION_STATES else "late"
    app.backend.store_result("id", value, late)
    meta = app.backend.get_task_meta("id", cache=False)
    assert (meta["status"], meta["result"]) == ("SUCCESS", "first")


@pytest.mark.parametrize("early", ["FAILURE", "RETRY", "REVOKED", "STARTED", "PROGRESS"])
def test_anything_else_is_overwritten(app: Any, early: str) -> None:
    app.backend.store_result("id", OwnError("early") if early in states.EXCEPTION_STATES else "early", early)
    app.backend.store_result("id", "last", states.SUCCESS)
    assert app.AsyncResult("id").get(timeout=0) == "last"


def test_a_forgotten_success_may_be_stored_again(app: Any) -> None:
    app.backend.store_result("id", "first", states.SUCCESS)
    app.AsyncResult("id").forget()
    assert app.AsyncResult("id").state == "PENDING"
    app.backend.store_result("id", "second", states.SUCCESS)
    assert app.AsyncResult("id").get(timeout=0) == "second"


def race(number: int, start: Barrier, backend: LMDBBackend) -> list[dict[str, Any]]:
    """Store every kind of state for the same tasks; return what each holds once this process has stored SUCCESS."""
    start.wait()
    seen = []
    for task in range(50):
        backend.mark_as_started(str(task))
        backend.mark_as_failure(str(task), OwnError(number))
        backend.mark_as_done(str(task), number)
        backend.mark_as_failure(str(task), OwnError(number))
        seen.append(backend.get_task_meta(str(task), cache=False))
    return seen


def test_the_first_success_of_several_processes_is_what_all_of_them_read(app: Any) -> None:
    start, backend = Barrier(), app.backend
    children = [Child(race, number, start, backend) for number in range(3)]
    start.open()
    try:
        histories = [child.join() for child in children]
    finally:
        for child in children:
            child.close()
    final = [backend.get_task_meta(str(task), cache=False) for task in range(50)]
    assert {meta["status"] for meta in final} == {"SUCCESS"}
    assert histories == [final] * 3


# -- payloads say themselves how they are encoded ----------------------------------------------------------------


@pytest.mark.parametrize("reader", SERIALIZERS)
@pytest.mark.parametrize("writer", SERIALIZERS)
def test_a_reader_need_not_be_configured_like_the_worker(application: Any, writer: str, reader: str) -> None:
    application(result_serializer=writer).backend.store_result("id", {"a": [1, None, "ü"]}, states.SUCCESS)
    app = application(result_serializer=reader, accept_content=ALL_CONTENT)
    assert app.AsyncResult("id").get(timeout=0) == {"a": [1, None, "ü"]}


class Picky(Exception):
    """Cannot be made from its ``args``, so it cannot be pickled either."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__("picky")


@pytest.mark.parametrize("error", [OwnError("x", 1), Picky(1, 2)])
def test_a_pickled_exception_comes_back_whatever_serializer_the_reader_has(application: Any, error: Exception) -> None:
    application(result_serializer="pickle").backend.mark_as_failure("id", error)
    back = application(accept_content=ALL_CONTENT).AsyncResult("id").result
    assert type(back).__name__ == type(error).__name__
    assert back.args == error.args


@pytest.mark.parametrize(("writer", "accepted"), [("pickle", "json"), ("json", "pickle")])
def test_a_result_of_a_type_that_is_not_accepted_is_not_read(application: Any, writer: str, accepted: str) -> None:
    application(result_serializer=writer).backend.store_result("id", [1, 2], states.SUCCESS)
    app = application(result_accept_content=[accepted])
    with pytest.raises(ContentDisallowed):
        app.AsyncResult("id").get(timeout=0)
    with pytest.raises(ContentDisallowed):
        list(app.backend.get_many(["id"], timeout=0))


@pytest.mark.parametrize("setting", ["accept_content", "result_accept_content"])
def test_pickle_is_read_where_it_is_accepted(application: Any, setting: str) -> None:
    application(result_serializer="pickle").backend.store_result("id", {1, 2}, states.SUCCESS)
    assert application(**{setting: ["pickle"]}).AsyncResult("id").get(timeout=0) == {1, 2}


def test_bytes_that_are_not_a_record_raise_a_decode_error(app: Any) -> None:
    key = app.backend.get_key_for_task("id")
    app.backend.store.set(key, b"something else")
    with pytest.raises(DecodeError):
        app.AsyncResult("id").get(timeout=0)
    app.AsyncResult("id").forget()


# -- ids and values ----------------------------------------------------------------------------------------------

IDS = ["é漢🙂", "x" * 600, "x" * 10_000, b"bytes", "a/b\0c", " ", pytest.param(UUID(int=1), marks=needs_5_7)]


@pytest.mark.parametrize("task_id", IDS, ids=lambda task_id: f"{type(task_id).__name__} of {len(str(task_id))}")
def test_any_text_is_a_task_id(app: Any, task_id: Any) -> None:
    app.backend.store_result(task_id, "kept", states.SUCCESS)
    assert AsyncResult(task_id, app=app).get(timeout=0) == "kept"
    app.backend.forget(task_id)
    assert AsyncResult(task_id, app=app).state == "PENDING"


def test_long_ids_with_a_common_prefix_are_different_tasks(app: Any) -> None:
    ids = ["x" * 600 + end for end in ("", "a", "b")]
    for task_id in ids:
        app.backend.store_result(task_id, task_id, states.SUCCESS)
    found = app.backend.get_many(ids, timeout=0)
    assert {task_id: meta["result"] for task_id, meta in found} == {task_id: task_id for task_id in ids}


@pytest.mark.parametrize("task_id", ["", None])
def test_an_empty_id_raises_value_error(app: Any, task_id: Any) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        app.backend.store_result(task_id, 1, states.SUCCESS)


def test_results_of_many_megabytes_are_kept_whole(app: Any) -> None:
    value = "0123456789abcdef" * (2 << 20)
    app.backend.store_result("id", value, states.SUCCESS)
    assert app.AsyncResult("id").get(timeout=0) == value


def test_get_many_gives_each_ready_result_once_and_waits_for_the_rest(app: Any) -> None:
    app.backend.store_result("done", 1, states.SUCCESS)
    app.backend.store_result("failed", OwnError("x"), states.FAILURE)
    app.backend.store_result("on", {}, states.STARTED)
    found = []
    with pytest.raises(celery.exceptions.TimeoutError):
        found.extend(app.backend.get_many(["done", "failed", "on", "unknown"], timeout=0.02, interval=0.01))
    assert sorted((task_id, meta["status"]) for task_id, meta in found) == [("done", "SUCCESS"), ("failed", "FAILURE")]


# -- chords --------------------------------------------------------------------------------------------------------


def return_parts(app: Any, **parts: Any) -> AsyncResult:
    """Have the parts of a chord return, exceptions as failures, and give the result of its body, which runs at once."""
    body = echo.s().set(task_id="body")
    app.backend.apply_chord(("group", [app.AsyncResult(name) for name in parts]), body)
    for name, value in parts.items():
        request = Context(id=name, group="group", chord=dict(body))
        mark = app.backend.mark_as_failure if isinstance(value, Exception) else app.backend.mark_as_done
        mark(name, value, request=request)
    return app.AsyncResult("body")


def test_the_last_part_of_a_chord_sends_the_body(application: Any) -> None:
    app = application(task_always_eager=True, task_store_eager_result=True)
    assert return_parts(app, a=1, b=2).get(timeout=0) == [1, 2]
    [(mark, _)] = app.backend.store.scan(app.backend.chord_keyprefix)
    assert mark == app.backend.get_key_for_chord("group")
    assert list(app.backend.store.scan(app.backend.group_keyprefix)) == []


def test_a_group_in_a_header_counts_as_many_parts_as_it_has_tasks(application: Any) -> None:
    app = application(task_always_eager=True, task_store_eager_result=True)
    a, b, c = (app.AsyncResult(name) for name in "abc")
    body = dict(echo.s().set(task_id="body"))
    app.backend.apply_chord(("group", [a, GroupResult("inner", [b, c], app=app)]), body)
    for name in "ab":
        app.backend.mark_as_done(name, name, request=Context(id=name, group="group", chord=body))
    assert app.backend.store.get(app.backend.get_key_for_task("body")) is None
    app.backend.mark_as_done("c", "c", request=Context(id="c", group="group", chord=body))
    assert app.AsyncResult("body").get(timeout=0) == ["a", ["b", "c"]]


def test_the_error_of_a_chord_names_the_failed_part(app: Any) -> None:
    error = return_parts(app, a=1, b=OwnError("why")).result
    assert type(error) is ChordError
    assert str(error) == "Dependency b raised OwnError('why')"


class Disturbed(LMDBBackend):
    """Forbids to join while results are read, as another thread of a worker does that leaves a join of its own."""

    def get_task_meta(self, task_id: Any, cache: bool = True) -> dict[str, Any]:
        _set_task_join_will_block(True)
        return super().get_task_meta(task_id, cache)


def test_chords_that_end_in_several_threads_do_not_disturb_each_other(application: Any, tmp_path: Path) -> None:
    backend = f"{__name__}:Disturbed+lmdb://{tmp_path}/results.lmdb?durability=none"
    app = application(result_backend=backend, task_always_eager=True, task_store_eager_result=True)
    try:
        assert return_parts(app, a=1, b=2).result == [1, 2]
    finally:
        _set_task_join_will_block(False)


@pytest.mark.parametrize("group", [None, b"something else"], ids=["gone", "unreadable"])
def test_a_chord_whose_group_cannot_be_restored_fails_its_body(app: Any, group: bytes | None) -> None:
    if group is not None:
        app.backend.store.set(app.backend.get_key_for_group("group"), group)
    body = dict(echo.s().set(task_id="body"))
    app.backend.mark_as_done("part", 1, request=Context(id="part", group="group", chord=body))
    assert type(app.AsyncResult("body").result) is ChordError


def test_many_results_are_stored_in_one_transaction_each_with_its_expiry(application):
    app = application(result_expires=100, result_failure_expires=10, result_extended=True)
    before = app.backend.store.moment()
    app.backend.store_many([("one", 1, states.SUCCESS), ("two", ValueError("no"), states.FAILURE, "a traceback")])
    assert app.backend.store.moment() == before + 1
    assert app.AsyncResult("one").get() == 1
    assert app.AsyncResult("two").traceback == "a traceback"
    ttls = [app.backend.store.ttl(app.backend.get_key_for_task(task_id)) for task_id in ("one", "two")]
    assert [round(ttl / 10) for ttl in ttls] == [10, 1]
    assert {listed.id for listed in app.backend.iter_results()} == {"one", "two"}


def test_results_are_listed_by_the_name_of_the_task(application):
    app = application(result_extended=True)
    for task_id, name in (("one", "a"), ("two", "b")):
        app.backend.store_result(task_id, 1, states.SUCCESS, request=Context(id=task_id, task=name))
    assert [listed.id for listed in app.backend.iter_results(name="b", state=states.SUCCESS)] == ["two"]
