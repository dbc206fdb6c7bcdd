"""A result that cannot change any more is read once; what was used last is kept."""

from uuid import UUID

import pytest

from lmdbresults import states
from lmdbresults.app import App
from lmdbresults.results import AsyncResult, GroupResult
from lmdbresults.testing.samples import in_threads
from tests.support.plain import DictBackend

interface = pytest.mark.interface


@pytest.fixture
def cached() -> DictBackend:
    return DictBackend(max_cached_results=2)


@interface("get_task_meta", "reload_task_result, ...")
def test_a_success_is_read_once(cached):
    cached.mark_as_done("id", 1)
    assert not cached.is_cached("id")
    assert cached.get_result("id") == 1
    assert cached.is_cached("id")
    cached.data.clear()
    assert cached.get_result("id") == 1
    assert cached.get_task_meta("id", cache=False)["status"] == states.PENDING


@interface("get_task_meta", "reload_task_result, ...")
@pytest.mark.parametrize("state", [states.PENDING, states.STARTED, states.RETRY, states.FAILURE, "PROGRESS"])
def test_what_may_still_change_is_read_again_each_time(cached, state):
    cached.store_result("id", None, state)
    cached.get_task_meta("id")
    cached.reload_task_result("id")
    assert not cached.is_cached("id")
    cached.mark_as_done("id", 1)
    assert cached.get_result("id") == 1


@interface("get_task_meta")
def test_the_cache_holds_what_was_used_last(cached):
    for id_ in ("first", "second"):
        cached.mark_as_done(id_, id_)
        cached.get_result(id_)
    cached.get_result("first")
    cached.mark_as_done("third", 3)
    cached.get_result("third")
    assert [cached.is_cached(id_) for id_ in ("first", "second", "third")] == [True, False, True]


@interface("constructor", "get_task_meta")
@pytest.mark.parametrize(
    ("argument", "setting", "held"), [(None, -1, 0), (-1, 5, 0), (None, 2, 2), (2, -1, 2), (0, 2, 4), (None, 0, 4)]
)
def test_the_size_of_the_cache_is_none_or_some_or_any(argument, setting, held):
    backend = DictBackend(App({"result_cache_max": setting}), max_cached_results=argument)
    for id_ in "abcd":
        backend.mark_as_done(id_, id_)
        backend.get_result(id_)
    assert sum(map(backend.is_cached, "abcd")) == held


@interface("reload_task_result, ...")
def test_reloading_a_result_reads_past_the_cache_and_into_it(cached):
    cached.mark_as_done("id", "old")
    cached.get_result("id")
    cached.data.clear()
    cached.mark_as_done("id", "new")
    assert cached.get_result("id") == "old"
    cached.reload_task_result("id")
    cached.data.clear()
    assert cached.get_result("id") == "new"


@interface("reload_task_result, ...", "groups")
def test_reloading_a_group_reads_past_the_cache_and_into_it(cached):
    old, new = GroupResult("id", [AsyncResult("old")]), GroupResult("id", [AsyncResult("new")])
    cached.save_group("id", old)
    assert cached.restore_group("id") == old
    cached._save_group("id", new)
    assert (cached.restore_group("id"), cached.restore_group("id", cache=False)) == (old, new)
    cached.reload_group_result("id")
    assert cached.restore_group("id") == new
    cached.data.clear()
    assert cached.restore_group("id") == new
    cached.reload_group_result("id")
    assert cached.restore_group("id") is None


@interface("forget", "get_task_meta")
def test_an_id_is_the_same_as_text_and_as_uuid(cached):
    id_ = UUID(int=1)
    cached.mark_as_done(id_, 1)
    assert cached.get_result(str(id_)) == 1
    assert cached.is_cached(id_)
    cached.forget(id_)
    assert cached.get_state(str(id_)) == states.PENDING


@interface("get_task_meta", "threads, forks")
def test_threads_that_read_and_forget_do_not_disturb_each_other(cached):
    ids = [str(number) for number in range(8)]

    def work() -> None:
        for _ in range(300):
            for id_ in ids:
                cached._cache[id_] = {"status": states.SUCCESS, "result": id_}
                meta = cached._cache.get(id_)
                assert meta is None or meta["result"] == id_
                cached._cache.discard(id_)

    in_threads(4, work)
    assert len(cached._cache) <= 2
