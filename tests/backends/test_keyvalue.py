"""A backend over get and set: its keys, what it reads of many, what it asks of a store."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from lmdbresults import states
from lmdbresults.app import App, Request
from lmdbresults.backends import KeyValueStoreBackend
from lmdbresults.backends.counted_chords import UNLOCK
from lmdbresults.errors import ResultTimeout
from lmdbresults.results import AsyncResult, GroupResult
from tests.support.plain import DictBackend, OwnApp, opened

interface = pytest.mark.interface

ID = UUID("12345678-1234-5678-1234-567812345678")


class MappingBackend(DictBackend):
    """One whose store answers with a mapping."""

    def mget(self, keys: Any) -> Any:
        return {key: self.data.get(key) for key in keys}


@pytest.fixture(params=["sequence", "mapping", "lmdb"])
def backend(request: pytest.FixtureRequest, path: str, app: App) -> Iterator[Any]:
    if request.param == "lmdb":
        with opened(path, app=app, max_cached_results=10) as backend:
            yield backend
    else:
        yield {"sequence": DictBackend, "mapping": MappingBackend}[request.param](app, max_cached_results=10)


# -- keys ------------------------------------------------------------------------------------------------------------


class Prefixed(DictBackend):
    global_keyprefix = "app"


class Separated(DictBackend):
    global_keyprefix = "app:"


class Texts(DictBackend):
    """One whose keys are text."""

    key_t = staticmethod(lambda text: text if isinstance(text, str) else text.decode())


@interface("prefixes", "key functions")
@pytest.mark.parametrize(
    ("kind", "prefix"), [(DictBackend, b""), (Prefixed, b"app_"), (Separated, b"app:")], ids=["none", "plain", "ended"]
)
def test_keys_have_celerys_prefixes_after_the_global_one(kind, prefix):
    backend = kind()
    assert backend.get_key_for_task("id") == prefix + b"celery-task-meta-id"
    assert backend.get_key_for_group("id") == prefix + b"celery-taskset-meta-id"
    assert backend.get_key_for_chord("id") == prefix + b"chord-unlock-id"
    assert backend.get_key_for_chord("id", ".size") == prefix + b"chord-unlock-id.size"


KEYS = ["get_key_for_task", "get_key_for_group", "get_key_for_chord"]


@interface("key functions")
@pytest.mark.parametrize("name", KEYS)
def test_an_id_may_be_text_bytes_or_a_uuid(name):
    key = getattr(DictBackend(), name)
    assert key(ID) == key(str(ID)) == key(str(ID).encode())


@interface("key functions")
@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("empty", [None, "", b""])
def test_an_empty_id_raises_value_error(name, empty):
    with pytest.raises(ValueError, match="must not be empty"):
        getattr(DictBackend(), name)(empty)


@interface("_strip_prefix")
@pytest.mark.parametrize("kind", [DictBackend, Prefixed, Texts])
def test_a_key_leads_back_to_its_id(kind):
    backend = kind()
    for key in (backend.get_key_for_task("id"), backend.get_key_for_group("id"), "id", b"id"):
        assert backend._strip_prefix(key) == "id"


@interface("prefixes")
def test_keys_have_the_type_of_key_t():
    backend = Texts()
    backend.mark_as_done(ID, 42)
    backend.save_group("group", GroupResult("group", [AsyncResult(str(ID))]))
    assert set(backend.data) == {f"celery-task-meta-{ID}", "celery-taskset-meta-group"}
    assert [meta["result"] for _, meta in backend.get_many([str(ID)])] == [42]


@interface("prefixes")
def test_a_task_a_group_and_a_chord_can_have_the_same_id(backend):
    backend.mark_as_done("id", 42)
    backend.save_group("id", GroupResult("id", [AsyncResult("part")]))
    backend.set_chord_size("id", 3)
    assert backend._get_task_meta_for("id")["result"] == 42
    assert backend.restore_group("id", cache=False).results == ["part"]
    backend.delete_group("id")
    assert backend._get_task_meta_for("id")["result"] == 42


# -- one result ------------------------------------------------------------------------------------------------------


@interface("store operations", "missing operations")
@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("get", (b"k",)),
        ("mget", ([b"k"],)),
        ("set", (b"k", b"v")),
        ("delete", (b"k",)),
        ("incr", (b"k",)),
        ("expire", (b"k", 1)),
    ],
)
def test_a_missing_store_operation_raises_an_error_with_class_and_operation(operation, arguments):
    with pytest.raises(NotImplementedError, match=rf"KeyValueStoreBackend does not implement {operation}\(\)"):
        getattr(KeyValueStoreBackend(), operation)(*arguments)


@interface("store operations")
def test_a_store_without_counters_says_so_and_needs_no_cleanup():
    backend = KeyValueStoreBackend()
    assert backend.implements_incr is False
    assert backend.cleanup() is None


@interface("store_result")
@pytest.mark.parametrize("late", [states.SUCCESS, states.FAILURE, states.RETRY, states.STARTED, "PROGRESS"])
def test_a_success_is_never_overwritten(backend, late):
    backend.mark_as_done("id", "first")
    backend.store_result("id", None, late)
    assert (backend.get_state("id"), backend.get_result("id")) == (states.SUCCESS, "first")


@interface("store_result")
@pytest.mark.parametrize(
    "present", [states.STARTED, states.RETRY, states.FAILURE, states.REVOKED, "PROGRESS", "SUCCESSFUL"]
)
def test_any_other_state_is_overwritten(backend, present):
    backend.store_result("id", None, present)
    backend.mark_as_done("id", "second")
    assert (backend.get_state("id"), backend.get_result("id")) == (states.SUCCESS, "second")


@interface("forget", "store_result")
def test_a_success_that_was_forgotten_can_be_stored_again(backend):
    backend.mark_as_done("id", "first")
    backend.forget("id")
    backend.mark_as_done("id", "second")
    assert backend.get_result("id") == "second"


@interface("store_result")
def test_a_record_that_cannot_be_read_here_can_be_overwritten():
    backend = DictBackend()
    DictBackend.store_result(pickler := DictBackend(serializer="pickle"), "id", 1, states.STARTED)
    backend.data = pickler.data
    backend.mark_as_done("id", 42)
    assert backend.get_result("id") == 42


# -- many results ----------------------------------------------------------------------------------------------------


@interface("get_many")
def test_get_many_yields_each_task_once_as_it_becomes_ready(backend):
    for id_ in "ab":
        backend.mark_as_done(id_, id_)

    def on_interval() -> None:
        backend.mark_as_failure("c", KeyError("why"))

    found = list(backend.get_many(iter("abca"), timeout=240, interval=0.001, on_interval=on_interval))
    assert [id_ for id_, _ in found] == ["a", "b", "c"]
    assert [meta["status"] for _, meta in found] == [states.SUCCESS, states.SUCCESS, states.FAILURE]
    assert type(found[-1][1]["result"]) is KeyError


@interface("get_many", "get_task_meta")
def test_get_many_yields_cached_tasks_first_and_caches_successes(backend):
    for id_ in "abc":
        backend.mark_as_done(id_, id_)
    backend.get_result("c")
    messages: list[Any] = []
    found = list(backend.get_many("abc", timeout=0, on_message=messages.append))
    assert [id_ for id_, _ in found] == ["c", "a", "b"]
    assert [meta["task_id"] for meta in messages] == ["a", "b"]
    assert all(map(backend.is_cached, "abc"))


@interface("get_many")
def test_get_many_yields_cached_tasks_only_in_the_given_states(backend):
    backend.mark_as_done("id", 42)
    backend.get_result("id")
    assert list(backend.get_many(["id"], max_iterations=1, READY_STATES=frozenset({states.FAILURE}))) == []


@interface("get_many")
@pytest.mark.parametrize(
    ("ready", "expected"), [({"SUCCESS"}, ["a"]), ({"FAILURE"}, ["b"]), ({"MINE", "SUCCESS"}, ["a", "c"])]
)
def test_get_many_takes_the_states_that_count_as_ready(backend, ready, expected):
    backend.mark_as_done("a", 1)
    backend.mark_as_failure("b", KeyError())
    backend.store_result("c", None, "MINE")
    assert [id_ for id_, _ in backend.get_many("abc", max_iterations=1, READY_STATES=frozenset(ready))] == expected


@interface("get_many", "timeouts")
def test_get_many_yields_ready_tasks_before_it_times_out(backend):
    backend.mark_as_done("a", 1)
    found = backend.get_many("ab", timeout=0)
    assert next(found)[0] == "a"
    with pytest.raises(ResultTimeout, match="task b"):
        next(found)


@interface("get_many")
def test_get_many_ends_after_max_iterations(backend):
    pauses: list[int] = []
    assert list(backend.get_many("ab", interval=0.001, max_iterations=3, on_interval=lambda: pauses.append(1))) == []
    assert len(pauses) == 2


@interface("get_many")
def test_get_many_of_no_tasks_reads_nothing():
    assert list(KeyValueStoreBackend().get_many([])) == []


# -- what mget returns -----------------------------------------------------------------------------------------------


def stored(backend: DictBackend) -> dict[str, bytes | None]:
    backend.mark_as_done("done", 1)
    backend.mark_as_failure("failed", KeyError("why"))
    backend.mark_as_retry("again", KeyError())
    return {id_: backend.get(backend.get_key_for_task(id_)) for id_ in ("done", "failed", "again", "unknown")}


@interface("_filter_ready, _mget_to_results")
def test_tasks_that_are_not_ready_are_left_out():
    backend = DictBackend()
    assert [id_ for id_, _ in backend._filter_ready(stored(backend).items())] == ["done", "failed"]


@interface("_filter_ready, _mget_to_results")
def test_tasks_that_are_not_ready_are_not_decoded():
    backend, pickler = DictBackend(), DictBackend(serializer="pickle")
    values = stored(pickler)
    del values["done"], values["failed"]
    assert list(backend._filter_ready(values.items())) == []


@interface("_filter_ready, _mget_to_results")
@pytest.mark.parametrize("form", ["sequence", "mapping"])
def test_mget_can_return_a_mapping_or_a_sequence(form):
    backend = DictBackend()
    values = stored(backend)
    keyed = {backend.get_key_for_task(id_): value for id_, value in values.items()}
    given = keyed if form == "mapping" else list(keyed.values())
    found = backend._mget_to_results(given, list(values))
    assert {id_: (meta["task_id"], meta["status"]) for id_, meta in found.items()} == {
        "done": ("done", "SUCCESS"),
        "failed": ("failed", "FAILURE"),
    }
    assert backend._mget_to_results(given, list(values), frozenset({"RETRY"})).keys() == {"again"}


# -- chords, before any part returns ---------------------------------------------------------------------------------


@interface("on_chord_part_return")
@pytest.mark.parametrize("counts", [True, False])
def test_a_part_without_a_group_or_a_counter_is_not_counted(counts):
    backend = DictBackend()
    backend.implements_incr = counts
    group = None if counts else "group"
    backend.on_chord_part_return(Request("id", group=group, chord={"task": "body"}), states.SUCCESS, 1)
    assert backend.data == {}


@interface("fallback_chord_unlock", "apply_chord, ...")
def test_a_store_without_counters_dispatches_the_unlock_task():
    app = OwnApp()
    backend = DictBackend(app)
    backend.apply_chord(("group", [AsyncResult("a"), AsyncResult("b")]), app.signature("body"))
    ((unlock, args),) = app.dispatched
    assert unlock.task == UNLOCK
    assert unlock.task in app.tasks
    assert (args, unlock.options["ignore_result"]) == ((), True)


@interface("apply_chord, ...")
def test_a_key_value_store_allows_chords():
    assert DictBackend().ensure_chords_allowed() is None
