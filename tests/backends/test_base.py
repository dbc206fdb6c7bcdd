"""What every backend does: settings, results, groups, hooks."""

from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

import pytest

from lmdbresults import states
from lmdbresults.app import App, Request
from lmdbresults.backends import Backend, BaseBackend, KeyValueStoreBackend, LMDBBackend
from lmdbresults.errors import ConfigurationError, ContentDisallowed, ResultTimeout, UnknownSerializer
from lmdbresults.results import AsyncResult, GroupResult
from tests.support.plain import DictBackend, OwnApp

interface = pytest.mark.interface


# -- attributes and settings -----------------------------------------------------------------------------------------


@interface("attributes", "states")
@pytest.mark.parametrize("kind", [Backend, BaseBackend, KeyValueStoreBackend, LMDBBackend])
def test_a_backend_has_the_state_sets_and_its_timeout_error(kind):
    assert {"SUCCESS", "FAILURE", "REVOKED"} == kind.READY_STATES
    assert {"PENDING", "RECEIVED", "STARTED", "REJECTED", "RETRY"} == kind.UNREADY_STATES
    assert {"RETRY", "FAILURE", "REVOKED"} == kind.EXCEPTION_STATES
    assert kind.TimeoutError is ResultTimeout


@interface("attributes")
def test_a_backend_declares_its_capabilities_and_its_retry_policy():
    backend = BaseBackend()
    assert (backend.subpolling_interval, backend.supports_native_join, backend.supports_autoexpire) == (
        None,
        False,
        False,
    )
    assert backend.persistent is True
    assert backend.retry_policy == {"max_retries": 20, "interval_start": 0, "interval_step": 1, "interval_max": 1}
    assert LMDBBackend.supports_autoexpire is True


@interface("constructor")
@pytest.mark.parametrize(
    ("setting", "argument", "attribute", "values"),
    [
        ("result_serializer", "serializer", "serializer", ("msgpack", "pickle")),
        ("result_expires", "expires", "expires", (60, 30)),
        ("accept_content", "accept", "accept", (("yaml",), ("msgpack",))),
        ("result_accept_content", "accept", "accept", (("yaml",), ("msgpack",))),
    ],
)
def test_an_argument_overrides_the_setting_of_the_app(setting, argument, attribute, values):
    configured, given = values
    app = App({setting: configured})
    content_types = {("yaml",): {"application/x-yaml"}, ("msgpack",): {"application/x-msgpack"}}
    assert getattr(BaseBackend(app), attribute) == content_types.get(configured, configured)
    assert getattr(BaseBackend(app, **{argument: given}), attribute) == content_types.get(given, given)


@interface("constructor")
def test_result_accept_content_overrides_accept_content():
    app = App({"accept_content": ("yaml",), "result_accept_content": ("json",)})
    assert BaseBackend(app).accept == {"application/json"}


@interface("constructor")
def test_an_empty_accept_list_accepts_nothing():
    writer, reader = DictBackend(), DictBackend(accept=())
    writer.store_result("id", 1, states.SUCCESS)
    reader.data = writer.data
    with pytest.raises(ContentDisallowed):
        reader.get_result("id")


@interface("constructor")
@pytest.mark.parametrize("setting", ["result_serializer", "result_compression"])
def test_an_unknown_serializer_or_compression_raises_when_the_backend_is_made(setting):
    with pytest.raises(UnknownSerializer, match="nonesuch"):
        BaseBackend(App({setting: "nonesuch"}))


@interface("constructor")
def test_a_backend_without_an_app_makes_one():
    backend = DictBackend()
    assert isinstance(backend.app, App)
    assert backend.app.backend is backend
    assert backend.expires == timedelta(days=1).total_seconds()


@interface("constructor")
def test_the_first_backend_of_an_app_becomes_its_default():
    app = App()
    first, _ = BaseBackend(app), BaseBackend(app)
    assert app.backend is first


@interface("constructor", "mark_as_failure")
def test_any_object_with_the_members_of_an_app_can_be_the_app():
    app = OwnApp()
    backend = DictBackend(app)
    backend.mark_as_done("good", 42)
    backend.mark_as_failure("bad", ValueError(), request=Request("bad", errbacks=[app.signature("errback")]))
    assert backend.get_task_meta("good")["date_done"] == "2025-01-02T03:04:05+00:00"
    assert [(errback.task, args) for errback, args in app.dispatched] == [("errback", ("bad",))]


@interface("as_uri")
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:se:cret@host:6379/0?a=b", "redis://user:**@host:6379/0?a=b"),
        ("redis://:secret@host", "redis://:**@host"),
        ("redis://:se@cret@host", "redis://:**@host"),
        ("redis://user@host:6379/a@b", "redis://user@host:6379/a@b"),
        ("redis://host:6379/0?mail=a@b", "redis://host:6379/0?mail=a@b"),
        ("lmdb:///var/lib/a:b@c.lmdb", "lmdb:///var/lib/a:b@c.lmdb"),
        (None, ""),
    ],
)
def test_as_uri_hides_the_password_unless_asked_for(url, shown):
    backend = BaseBackend(url=url)
    assert backend.as_uri() == shown
    assert backend.as_uri(include_password=True) == (url or "")


@interface("prepare_expires")
@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, None, 90.5),
        (None, int, 90),
        (timedelta(minutes=2), None, 120.0),
        (timedelta(minutes=2), int, 120),
        (30, float, 30.0),
        (0, None, 0),
    ],
)
def test_prepare_expires_returns_seconds_of_the_given_type(value, kind, expected):
    expires = BaseBackend(App({"result_expires": timedelta(seconds=90.5)})).prepare_expires(value, kind)
    assert (expires, type(expires)) == (expected, type(expected))


@interface("prepare_expires", "constructor")
@pytest.mark.parametrize("expires", [-1, timedelta(seconds=-1), float("nan"), "60", b"60", [60]])
def test_an_invalid_expiry_raises_when_the_backend_is_made(expires):
    with pytest.raises(ConfigurationError, match=r"^invalid expires=.* for results that stay"):
        BaseBackend(expires=expires)
    with pytest.raises(ConfigurationError, match=r"^invalid result_expires=.* for results that stay"):
        BaseBackend(App({"result_expires": expires}))


@interface("prepare_expires", "constructor")
def test_results_can_be_kept_for_ever():
    backend = BaseBackend(App({"result_expires": None}), expires_type=int)
    assert backend.expires is None


@interface("prepare_persistent", "constructor")
@pytest.mark.parametrize(
    ("argument", "setting", "expected"),
    [(True, False, True), (False, True, False), (None, False, False), (None, True, True), (None, None, True)],
)
def test_prepare_persistent_is_the_argument_else_the_setting_else_the_class(argument, setting, expected):
    backend = BaseBackend(App({"result_persistent": setting}))
    assert backend.prepare_persistent(argument) is expected
    assert backend.persistent is (True if setting is None else setting)


# -- results ---------------------------------------------------------------------------------------------------------


@interface("unknown id", "get_task_meta")
def test_an_unknown_task_is_pending_without_a_result(backend):
    assert backend.get_task_meta("unknown") == {"status": "PENDING", "result": None}
    assert backend.get_state("unknown") == "PENDING"
    assert backend.get_result("unknown") is backend.get_traceback("unknown") is backend.get_children("unknown") is None


@interface("store_result", "get_state, get_result, ...")
@pytest.mark.parametrize("result", [None, 0, "", [], {"a": [1, None]}, "ä" * 50_000])
def test_a_result_is_read_as_it_was_stored(backend, result):
    assert backend.store_result("id", result, states.SUCCESS) == result
    assert backend.get_result("id") == result
    assert backend.get_state("id") == backend.get_status("id") == states.SUCCESS


@interface("store_result", "states")
def test_a_custom_state_can_have_any_result(backend):
    backend.store_result("id", {"done": 0.5}, "PROGRESS")
    assert (backend.get_state("id"), backend.get_result("id")) == ("PROGRESS", {"done": 0.5})


@interface("store_result", "get_state, get_result, ...")
def test_a_stored_result_has_its_date_its_group_its_parent_and_its_children(backend):
    parts = [AsyncResult("one"), GroupResult("two", [AsyncResult("three")])]
    request = Request("id", group="group", parent_id="parent", children=parts)
    returned = backend.store_result("id", ValueError("no"), states.FAILURE, traceback="at line 1", request=request)
    assert returned == {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
    meta = backend.get_task_meta("id")
    assert (meta["group_id"], meta["parent_id"], meta["task_id"]) == ("group", "parent", "id")
    assert backend.get_traceback("id") == "at line 1"
    assert backend.get_children("id") == [[["one", None], None], [["two", None], [[["three", None], None]]]]
    assert datetime.fromisoformat(meta["date_done"]).tzinfo is timezone.utc


@interface("store_result")
@pytest.mark.parametrize("state", [states.STARTED, states.RETRY, "PROGRESS"])
def test_only_a_ready_state_has_a_date(backend, state):
    backend.store_result("id", None, state)
    assert backend.get_task_meta("id")["date_done"] is None


@interface("store_result", "AsyncResult: extended")
def test_result_extended_stores_the_call_the_worker_and_the_queue():
    backend = DictBackend(App({"result_extended": True}))
    request = Request(
        "id", "add", (1, 2), {"z": 3}, hostname="worker", retries=2, delivery_info={"routing_key": "fast"}
    )
    backend.mark_as_done("id", 3, request)
    meta = backend.get_task_meta("id")
    assert {name: meta[name] for name in ("name", "args", "kwargs", "worker", "retries", "queue")} == {
        "name": "add",
        "args": [1, 2],
        "kwargs": {"z": 3},
        "worker": "worker",
        "retries": 2,
        "queue": "fast",
    }


@interface("forget")
def test_forget_deletes_a_result_from_cache_and_store(backend):
    backend._cache.limit = 10
    backend.mark_as_done("id", 1)
    assert backend.get_result("id") == 1
    backend.forget("id")
    assert backend.get_state("id") == states.PENDING
    assert list(backend.store.scan()) == []


# -- groups ----------------------------------------------------------------------------------------------------------


@interface("groups")
@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle", "yaml"])
def test_a_group_comes_back_as_it_was_saved(serializer):
    backend = DictBackend(serializer=serializer, accept=[serializer])
    inner = GroupResult("inner", [AsyncResult("b"), AsyncResult("c")])
    group = GroupResult("outer", [AsyncResult("a", parent=AsyncResult("parent")), inner])
    assert backend.save_group("outer", group) is group
    restored = backend.restore_group("outer")
    assert restored == group
    assert restored.as_tuple() == group.as_tuple()
    assert backend.get_group_meta("outer")["result"].results[0].backend is backend


@interface("groups")
def test_a_deleted_or_unknown_group_is_none():
    backend = DictBackend(max_cached_results=2)
    assert backend.restore_group("never") is None
    backend.save_group("id", GroupResult("id", [AsyncResult("a")]))
    backend.restore_group("id")
    backend.delete_group("id")
    assert (backend.restore_group("id"), backend.get_group_meta("id"), backend.data) == (None, None, {})


# -- hooks -----------------------------------------------------------------------------------------------------------


@interface("cleanup")
def test_cleanup_deletes_expired_results_only(backend, clock):
    backend.expires = 60
    backend.mark_as_done("old", 1)
    clock.advance(61)
    kept = backend.store.stats().records
    backend.cleanup()
    assert backend.store.stats().records < kept
    backend.mark_as_done("new", 2)
    backend.cleanup()
    assert (backend.get_state("old"), backend.get_state("new")) == (states.PENDING, states.SUCCESS)


@interface("cleanup")
def test_a_backend_opens_its_file_again_after_process_cleanup(backend):
    backend.mark_as_done("id", 1)
    former = backend.store
    backend.process_cleanup()
    backend.process_cleanup()
    assert backend.get_result("id") == 1
    assert backend.store is not former


@interface("cleanup")
def test_cleanup_does_nothing_without_a_store():
    assert BaseBackend().cleanup() is BaseBackend().process_cleanup() is None


@interface("on_task_call")
def test_on_task_call_adds_nothing_to_a_message(backend):
    assert backend.on_task_call(None, "id") == {}


@interface("current_task_children")
def test_the_children_of_a_task_are_the_tasks_that_it_has_sent(backend, app):
    seen = []
    leaf = app.task(lambda: None, name="leaf")

    @app.task
    def parent():
        sent = app.send(app.signature(leaf))
        seen.append((backend.current_task_children(), [sent.as_tuple()]))

    handle = app.send(app.signature(parent))
    ((children, sent),) = seen
    assert children == sent
    assert [child.as_tuple() for child in handle.children] == sent


@interface("current_task_children")
def test_current_task_children_are_those_of_the_given_request_and_none_outside_a_task(backend):
    request = Request("id", children=[AsyncResult("child")])
    assert backend.current_task_children(request) == [(("child", None), None)]
    assert backend.current_task_children() is None


@interface("_ensure_not_eager")
@pytest.mark.parametrize("read", ["get_task_meta", "get_group_meta"])
def test_reading_what_eager_tasks_have_not_stored_warns(read):
    backend = DictBackend(App({"task_always_eager": True}))
    with pytest.warns(RuntimeWarning, match="task_store_eager_result"):
        getattr(backend, read)("id")


@interface("_ensure_not_eager")
def test_reading_what_eager_tasks_have_stored_does_not_warn():
    backend = DictBackend(App({"task_always_eager": True, "task_store_eager_result": True}))
    assert backend.get_state("id") == states.PENDING


@interface("missing operations", "store_result", "forget", "groups")
def test_hooks_are_called_with_positional_arguments():
    """So that a subclass may name its parameters as it likes."""

    class Renaming(BaseBackend):
        kept: ClassVar[dict[str, Any]] = {}

        def _store_result(self, a: str, b: Any, c: str, d: Any, e: Any) -> None:
            self.kept[a] = {"status": c, "result": b, "traceback": d}

        def _get_task_meta_for(self, a: str) -> Any:
            return self.kept.get(a, {"status": states.PENDING})

        def _save_group(self, a: str, b: Any) -> None:
            self.kept[a] = {"result": b}

        def _restore_group(self, a: str) -> Any:
            return self.kept.get(a)

        def _forget(self, a: str) -> None:
            del self.kept[a]

        _delete_group = _forget

    backend, group = Renaming(), GroupResult("group")
    backend.store_result("id", 42, state=states.SUCCESS, traceback="at line 1")
    assert (backend.get_result("id"), backend.get_traceback("id")) == (42, "at line 1")
    backend.forget("id")
    assert backend.get_state("id") == states.PENDING
    backend.save_group("group", group)
    assert backend.restore_group("group") is group
    backend.delete_group("group")
    assert backend.restore_group("group") is None


@interface("missing operations", "forget", "add_to_chord")
@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("_store_result", lambda backend: backend.store_result("id", 1, states.SUCCESS)),
        ("_get_task_meta_for", lambda backend: backend.get_result("id")),
        ("_forget", lambda backend: backend.forget("id")),
        ("_save_group", lambda backend: backend.save_group("id", GroupResult("id"))),
        ("_restore_group", lambda backend: backend.restore_group("id")),
        ("_delete_group", lambda backend: backend.delete_group("id")),
        ("get_many", lambda backend: backend.get_many(["id"])),
        ("add_to_chord", lambda backend: backend.add_to_chord("id", AsyncResult("part"))),
    ],
)
def test_a_missing_operation_raises_an_error_with_class_and_operation(operation, call):
    with pytest.raises(NotImplementedError, match=rf"BaseBackend does not implement {operation}\(\)"):
        call(BaseBackend())


@interface("constructor")
def test_an_app_without_a_backend_raises_an_error_that_says_how_to_open_one():
    with pytest.raises(ConfigurationError, match="open_backend"):
        App().require_backend()
