"""Waiting for results: what wakes it, when it ends, and that it leaves nothing behind.

Looking again is turned off here: a lost wake-up hangs, and the test times out.
"""

import asyncio
import gc
import importlib.util
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, exceptions, group, states, uuid
from celery.app.task import Context
from celery.exceptions import ChordError
from celery.result import AsyncResult, GroupResult, ResultSet

from lmdbresults import LMDBStore
from lmdbresults.integrations.celery import aio
from lmdbresults.integrations.celery import callbacks as celery_callbacks
from lmdbresults.integrations.celery import consumer as celery_consumer
from lmdbresults.store import following
from lmdbresults.store.lmdb.types import FINAL
from lmdbresults.store.redis import subscription as redis_subscription
from tests.support import waits
from tests.support.celery_tasks import OwnError, add, progress, settings_for
from tests.support.celery_workers import PATIENCE, ROOT, running_worker, wait_for
from tests.support.processes import FORKS_WITH_THREADS, Child, run_script

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)

HOUR = 3600.0

PRODUCER = """
import json, sys
from tests.support.celery_tasks import OwnError, make_app
app = make_app(json.loads(sys.argv[1]))
for line in sys.stdin:
    for task_id, result, state in json.loads(line):
        app.backend.store_result(task_id, OwnError(result) if state == "FAILURE" else result, state)
    print("stored", flush=True)
"""


@pytest.fixture(autouse=True)
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again only when a message says so, and ask results only once: a wake-up that is lost hangs."""
    monkeypatch.setattr(celery_consumer, "INTERVAL", HOUR)
    monkeypatch.setattr(celery_callbacks, "_ASK_AGAIN", HOUR)
    monkeypatch.setattr(following, "LOOK_EVERY", HOUR)
    monkeypatch.setattr(redis_subscription, "LOOK_EVERY", HOUR)
    monkeypatch.setattr(following, "CHORES_EVERY", HOUR)


@pytest.fixture
def store_elsewhere(app: Celery, tmp_path: Path, result_backend: str) -> Iterator[Callable[..., None]]:
    """Has another process store results: ``store_elsewhere(id, result, state)``, or a list of such as ``many``."""
    settings = settings_for(tmp_path, result_backend=result_backend)
    command = [sys.executable, "-c", PRODUCER, json.dumps(settings)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def store(task_id: str = "", result: Any = None, state: str = "SUCCESS", many: Any = None) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(many or [(task_id, result, state)]) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "stored\n"

        yield store


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


def registrations(app: Celery) -> int:
    """How many keys are followed in all processes, without those that this one is about to leave."""
    app.backend.result_consumer.hub._unsubscribe()
    if not isinstance(app.backend.store, LMDBStore):
        return len(app.backend.store._server.call(b"", "PUBSUB", "CHANNELS", "lmdbresults:*"))
    return waits.registrations(app.backend.store.options.path)


def until_waited_for(app: Celery, *results: AsyncResult) -> None:
    """Return once a thread waits for results."""
    keys = {app.backend.get_key_for_task(result.id) for result in results}
    wait_for(lambda: keys <= waits.followed(app.backend.result_consumer.hub.subscription))


def left_behind(app: Celery) -> list[Any]:
    """Return what says, in memory, in the file, or on the server, that a thread waits, although none does."""
    gc.collect()
    consumer = app.backend.result_consumer
    consumer.drain_events(timeout=0)
    consumer.drain_events(timeout=0)  # callbacks that the first one has called are not followed any more
    hub, noted = consumer.hub, consumer.callbacks
    if registrations(app) and not isinstance(app.backend.store, LMDBStore):
        wait_for(lambda: not registrations(app))  # a server is told by another thread
    places = (*(list(each) for each in vars(noted).values() if hasattr(each, "__iter__")), hub._followers, hub._waiting)
    return [place for place in (*places, registrations(app)) if place]


def pending(app: Celery, number: int = 1) -> list[AsyncResult]:
    return [app.AsyncResult(uuid()) for _ in range(number)]


# -- one result ------------------------------------------------------------------------------------------------------


def test_a_wait_is_woken_from_another_process(app: Celery, threads: Any, store_elsewhere: Any) -> None:
    [result] = pending(app)
    got = threads.submit(result.get)
    until_waited_for(app, result)
    store_elsewhere(result.id, 42)
    assert got.result(PATIENCE) == 42
    assert left_behind(app) == []


def test_a_failure_wakes_as_well(app: Celery, threads: Any, store_elsewhere: Any) -> None:
    [result] = pending(app)
    got = threads.submit(result.get)
    until_waited_for(app, result)
    store_elsewhere(result.id, "why", states.FAILURE)
    with pytest.raises(OwnError, match="why"):
        got.result(PATIENCE)


def test_a_result_that_is_ready_is_had_without_a_write_or_a_socket(app: Celery) -> None:
    [result] = pending(app)
    app.backend.mark_as_done(result.id, 42)
    before = app.backend.store.moment()
    assert result.get() == result.get() == app.AsyncResult(result.id).get(timeout=0) == 42
    assert app.backend.store.moment() == before
    assert not app.backend.result_consumer.waiting._hubs


def test_without_time_there_is_one_look_and_no_write(app: Celery) -> None:
    [result] = pending(app)
    before = app.backend.store.moment()
    with pytest.raises(exceptions.TimeoutError):
        result.get(timeout=0)
    assert app.backend.store.moment() == before


@pytest.mark.any_engine
def test_a_wait_that_times_out_leaves_nothing_and_may_be_repeated(app: Celery, threads: Any) -> None:
    [result] = pending(app)
    for _ in range(3):
        with pytest.raises(exceptions.TimeoutError):
            result.get(timeout=0.01)
        assert left_behind(app) == []
    got = threads.submit(result.get)
    until_waited_for(app, result)
    app.backend.mark_as_done(result.id, 42)
    assert got.result(PATIENCE) == 42


@pytest.mark.any_engine
def test_what_is_forgotten_while_it_is_waited_for_may_still_come(app: Celery, threads: Any) -> None:
    [result] = pending(app)
    got = threads.submit(result.get)
    until_waited_for(app, result)
    result.forget()
    app.backend.store_result(result.id, None, states.STARTED)
    app.AsyncResult(result.id).forget()
    app.backend.mark_as_done(result.id, 42)
    assert got.result(PATIENCE) == 42


@pytest.mark.parametrize("shared", ["one result", "one id", "nothing"])
def test_many_threads_wait_at_once(app: Celery, threads: Any, store_elsewhere: Any, shared: str) -> None:
    [result] = pending(app)
    results = {
        "one result": [result] * 20,
        "one id": [app.AsyncResult(result.id) for _ in range(20)],
        "nothing": pending(app, 20),
    }[shared]
    got = [threads.submit(each.get) for each in results]
    until_waited_for(app, *results)
    ids = list(dict.fromkeys(each.id for each in results))
    store_elsewhere(many=[(task_id, task_id, states.SUCCESS) for task_id in reversed(ids)])
    assert [each.result(PATIENCE) for each in got] == [each.id for each in results]
    assert left_behind(app) == []


def test_a_task_that_can_never_run_is_not_waited_for(app: Celery, threads: Any, store_elsewhere: Any) -> None:
    """Its parent has failed; that is told at once."""
    parent, child = pending(app, 2)
    child.parent = parent
    got = threads.submit(child.get)
    until_waited_for(app, parent, child)
    store_elsewhere(parent.id, "why", states.FAILURE)
    with pytest.raises(OwnError, match="why"):
        got.result(PATIENCE)
    assert left_behind(app) == []


@pytest.mark.parametrize("fails_before", [True, False])
def test_a_group_that_can_never_run_is_not_waited_for(
    app: Celery, threads: Any, store_elsewhere: Any, fails_before: bool
) -> None:
    first, second, *leaves = pending(app, 5)
    second.parent = first
    group = app.GroupResult("group", [leaves[0], app.GroupResult("inner", leaves[1:])], parent=second)
    app.backend.mark_as_done(first.id, 1)
    if fails_before:
        store_elsewhere(second.id, "why", states.FAILURE)
    raised, collected = threads.submit(group.get), threads.submit(group.get, propagate=False)
    if not fails_before:
        until_waited_for(app, second, *leaves)
        store_elsewhere(second.id, "why", states.FAILURE)
    with pytest.raises(OwnError, match="why"):
        raised.result(PATIENCE)
    assert [type(value) for value in collected.result(PATIENCE)] == [OwnError, OwnError]


@pytest.mark.any_engine
def test_a_chord_raises_what_its_header_has_raised(app: Celery, threads: Any) -> None:
    """As with Celery's Redis backend: the failure of the body is only a ChordError."""
    part, body = pending(app, 2)
    body.parent = app.GroupResult("group", [part])
    waiting = threads.submit(body.get, timeout=PATIENCE)
    until_waited_for(app, body)
    app.backend.store_many([(body.id, ChordError("later"), states.FAILURE), (part.id, OwnError(1), states.FAILURE)])
    with pytest.raises(OwnError):
        waiting.result()
    with pytest.raises(OwnError):
        asyncio.run(aio.get(AsyncResult(body.id, app=app, parent=body.parent)))


@pytest.mark.any_engine
def test_wait_for_returns_the_meta(app: Celery, threads: Any) -> None:
    [result] = pending(app)
    got = threads.submit(app.backend.wait_for, result.id)
    until_waited_for(app, result)
    app.backend.mark_as_done(result.id, 42)
    assert got.result(PATIENCE)["result"] == 42
    with pytest.raises(exceptions.TimeoutError):
        app.backend.wait_for("another", timeout=0.01)


def test_get_many_yields_each_result_as_it_ends_without_polling(app: Celery, store_elsewhere: Any) -> None:
    first, second, failed = pending(app, 3)
    app.backend.mark_as_done(first.id, 1)
    found = app.backend.get_many([each.id for each in (first, second, failed)], interval=HOUR)
    assert next(found)[1]["result"] == 1
    store_elsewhere(second.id, 2)
    assert next(found) == (second.id, app.backend.get_task_meta(second.id))
    store_elsewhere(failed.id, "why", states.FAILURE)
    assert [(task_id, str(meta["result"])) for task_id, meta in found] == [(failed.id, "why")]
    with pytest.raises(exceptions.TimeoutError):
        list(app.backend.get_many([uuid()], timeout=0.01))


def test_on_interval_is_called_though_nothing_happens(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celery_consumer, "INTERVAL", 0.001)
    [result] = pending(app)
    calls: list[int] = []

    def on_interval() -> None:
        calls.append(1)
        if len(calls) == 5:
            app.backend.mark_as_done(result.id, 42)

    assert app.backend.wait_for(result.id, on_interval=on_interval)["result"] == 42


# -- messages --------------------------------------------------------------------------------------------------------


def test_on_message_is_told_of_progress(app: Celery, threads: Any, store_elsewhere: Any) -> None:
    [result] = pending(app)
    store_elsewhere(result.id, None, states.STARTED)
    metas: list[dict[str, Any]] = []
    got = threads.submit(result.get, on_message=metas.append)
    wait_for(lambda: metas)
    for done in range(5):
        store_elsewhere(result.id, done, "PROGRESS")
        wait_for(lambda done=done: metas[-1]["result"] == done)
    store_elsewhere(result.id, "all")
    assert got.result(PATIENCE) == "all"
    told = [(states.STARTED, None), *(("PROGRESS", done) for done in range(5)), (states.SUCCESS, "all")]
    assert [(meta["status"], meta["result"]) for meta in metas] == told
    assert {meta["task_id"] for meta in metas} == {result.id}


@pytest.mark.any_engine
def test_progress_wakes_only_waits_with_on_message(app: Celery, threads: Any) -> None:
    [result] = pending(app)
    got = threads.submit(result.get)
    until_waited_for(app, result)
    app.backend.store_result(result.id, 1, "PROGRESS")
    assert not select.select([app.backend.result_consumer.hub.subscription.fileno()], [], [], 0.05)[0]
    app.backend.mark_as_done(result.id, 42)
    assert got.result(PATIENCE) == 42


@pytest.mark.any_engine
def test_on_message_is_told_of_each_member_of_a_group(app: Celery, threads: Any) -> None:
    results = ResultSet(pending(app, 3), app=app)
    metas: list[dict[str, Any]] = []
    got = threads.submit(results.get, on_message=metas.append)
    until_waited_for(app, *results)
    for result in results:
        app.backend.mark_as_done(result.id, 1)
    assert got.result(PATIENCE) == [1, 1, 1]
    assert {meta["task_id"] for meta in metas} == {result.id for result in results}


def test_what_on_message_raises_ends_the_wait(app: Celery) -> None:
    [result] = pending(app)
    app.backend.mark_as_done(result.id, 42)

    def raises(meta: Any) -> None:
        raise OSError("not to be swallowed")

    with pytest.raises(OSError, match="swallowed"):
        result.get(on_message=raises)
    assert left_behind(app) == []


# -- groups ----------------------------------------------------------------------------------------------------------


def test_a_group_is_joined_in_its_order(app: Celery, threads: Any, store_elsewhere: Any) -> None:
    results = ResultSet(pending(app, 10), app=app)
    got = threads.submit(results.get)
    until_waited_for(app, *results)
    store_elsewhere(many=[(result.id, number, states.SUCCESS) for number, result in reversed([*enumerate(results)])])
    assert got.result(PATIENCE) == list(range(10))
    assert left_behind(app) == []


def test_iter_native_yields_each_member_as_it_ends(app: Celery, store_elsewhere: Any) -> None:
    results = ResultSet(pending(app, 3), app=app)
    order = [results[1].id, results[2].id, results[0].id]
    store_elsewhere(order[0], 0)
    seen = []
    for number, (task_id, meta) in enumerate(results.iter_native(), 1):
        seen.append((task_id, meta["result"]))
        if number < 3:
            store_elsewhere(order[number], number)
    assert seen == [(task_id, number) for number, task_id in enumerate(order)]


@pytest.mark.any_engine
def test_a_group_inside_is_yielded_when_all_in_it_has_ended(app: Celery, threads: Any) -> None:
    inner = GroupResult(uuid(), pending(app, 2), app=app)
    outer = ResultSet([inner, *pending(app)], app=app)
    with pytest.raises(exceptions.TimeoutError):
        outer.get(timeout=0.01)
    yielded: list[str] = []
    got = threads.submit(lambda: [yielded.append(task_id) for task_id, _ in outer.iter_native()])
    until_waited_for(app, *inner, outer[1])
    for result in (inner[0], outer[1]):
        app.backend.mark_as_done(result.id, 1)
    wait_for(lambda: yielded == [outer[1].id])
    app.backend.mark_as_done(inner[1].id, 1)
    got.result(PATIENCE)
    assert yielded == [outer[1].id, inner.id]
    assert outer.get(timeout=0) == [[1, 1], 1]


def test_an_empty_group_has_no_results(app: Celery) -> None:
    assert list(app.backend.iter_native(ResultSet([], app=app))) == []
    assert ResultSet([GroupResult(uuid(), [], app=app)], app=app).join_native(timeout=0) == [[]]


def test_ignored_results_are_not_waited_for(app: Celery) -> None:
    [ignored, other] = pending(app, 2)
    ignored.ignored = True
    app.backend.mark_as_done(other.id, 1)
    assert ResultSet([ignored, other], app=app).get(timeout=0) == [None, 1]


def test_the_first_failure_ends_a_join(app: Celery, threads: Any, store_elsewhere: Any) -> None:
    results = ResultSet(pending(app, 3), app=app)
    got = threads.submit(results.get)
    until_waited_for(app, *results)
    store_elsewhere(results[2].id, "why", states.FAILURE)
    with pytest.raises(OwnError, match="why"):
        got.result(PATIENCE)
    del got, results
    assert left_behind(app) == []


def test_a_chord_ends_without_a_socket(application: Any) -> None:
    app = application(task_always_eager=True, task_store_eager_result=True)
    GroupResult("chord", [app.AsyncResult(part) for part in "ab"], app=app).save()
    body = dict(add.si(1, 2).set(task_id="body"))
    for part in "ab":
        app.backend.mark_as_done(part, 1, request=Context(id=part, group="chord", chord={**body, "chord_size": 2}))
    assert app.AsyncResult("body").get(timeout=0) == 3
    assert not app.backend.result_consumer.waiting._hubs


# -- callbacks -------------------------------------------------------------------------------------------------------


def test_a_callback_comes_while_another_result_is_waited_for(app: Celery, threads: Any, store_elsewhere: Any) -> None:
    told: list[Any] = []
    task_id = uuid()
    app.AsyncResult(task_id).then(lambda result: told.append(result.result))  # and no variable holds it
    gc.collect()
    [other] = pending(app)
    got = threads.submit(other.get)
    until_waited_for(app, app.AsyncResult(task_id), other)
    store_elsewhere(task_id, 42)
    wait_for(lambda: told == [42])
    store_elsewhere(other.id, 43)
    assert got.result(PATIENCE) == 43
    assert left_behind(app) == []


@pytest.mark.parametrize("asked", [False, True], ids=["new", "asked before"])
def test_a_restored_group_calls_back_when_all_of_it_has_ended(app: Celery, threads: Any, asked: bool) -> None:
    told: list[Any] = []
    members = pending(app, 3)
    GroupResult("outer", [*members[:2], GroupResult("inner", members[2:], app=app)], app=app).save()
    restored = GroupResult.restore("outer", app=app)
    assert restored.as_tuple() == GroupResult.restore("outer", app=app).as_tuple()
    noted = app.backend.result_consumer.callbacks
    if asked:
        app.backend.result_consumer.drain_events(timeout=0)
        noted._ask_at = 0.0  # as if a second had passed
    restored.then(lambda group: told.append(group.id))
    [other] = pending(app)
    got = threads.submit(other.get)
    until_waited_for(app, *members, other)
    for member in members:
        assert not told
        app.backend.mark_as_done(member.id, 1)
    wait_for(lambda: told == ["outer"])
    app.backend.mark_as_done(other.id, 43)
    assert got.result(PATIENCE) == 43


def test_a_restored_group_is_noted_once_and_not_kept(app: Celery) -> None:
    GroupResult("group", pending(app, 100), app=app).save()
    assert left_behind(app) == []
    restored = GroupResult.restore("group", app=app)
    assert len(app.backend.result_consumer.callbacks) == 1
    app.backend.result_consumer.drain_events(timeout=0)
    assert registrations(app) == 0
    assert len(app.backend.result_consumer.callbacks) == 1
    del restored
    assert left_behind(app) == []


def test_a_message_that_cannot_be_decoded_is_no_result_for_a_callback(app: Celery, threads: Any) -> None:
    told: list[Any] = []
    result, other = pending(app, 2)
    result.then(lambda each: told.append(each.result))
    got = threads.submit(other.get)
    until_waited_for(app, result, other)
    key, store = app.backend.get_key_for_task(result.id), app.backend.store
    for value in (b"garbage", b""):
        store._notifier.send([(key, FINAL, value, 0.0)], 1 << 40)
    app.backend.mark_as_done(result.id, 42)
    wait_for(lambda: told == [42])
    app.backend.mark_as_done(other.id, 43)
    assert got.result(PATIENCE) == 43


def test_a_callback_of_a_group_comes_when_all_has_ended(app: Celery, threads: Any, store_elsewhere: Any) -> None:
    told: list[Any] = []
    results = GroupResult(uuid(), pending(app, 3), app=app)
    results.then(lambda result: told.append(result.id))
    [other] = pending(app)
    got = threads.submit(other.get)
    until_waited_for(app, *results, other)
    store_elsewhere(many=[(result.id, 1, states.SUCCESS) for result in results])
    wait_for(lambda: told == [results.id])
    store_elsewhere(other.id, 43)
    assert got.result(PATIENCE) == 43


def test_a_callback_is_called_once_though_many_wait(app: Celery, threads: Any, store_elsewhere: Any) -> None:
    told: list[Any] = []
    [result] = pending(app)
    result.then(told.append)
    got = [threads.submit(result.get) for _ in range(10)]
    until_waited_for(app, result)
    store_elsewhere(result.id, 42)
    assert [each.result(PATIENCE) for each in got] == [42] * 10
    assert told == [result]


@pytest.mark.any_engine
def test_draining_tells_results_that_were_added(app: Celery) -> None:
    results = pending(app, 2)
    app.backend.add_pending_results(results)
    app.backend.mark_as_done(results[0].id, 1)
    app.backend.result_consumer.drain_events(timeout=0)
    assert results[0]._cache["result"] == 1
    app.backend.mark_as_done(results[1].id, 2)
    app.backend.result_consumer.drain_events(timeout=HOUR)
    assert results[1]._cache["result"] == 2
    assert left_behind(app) == []


def test_adding_ten_thousand_results_neither_reads_nor_writes(app: Celery) -> None:
    app.backend.store.close()
    results = ResultSet(pending(app, 10_000), app=app)
    assert len(app.backend.result_consumer.callbacks) == 10_000
    del results
    gc.collect()


def test_groups_without_a_callback_are_not_followed(app: Celery) -> None:
    results = ResultSet(pending(app, 100), app=app)
    app.backend.result_consumer.drain_events(timeout=0)
    assert registrations(app) == 0
    del results
    assert left_behind(app) == []


def test_groups_that_are_dropped_are_not_kept(app: Celery) -> None:
    for _ in range(500):
        ResultSet(pending(app, 10), app=app)
    assert len(app.backend.result_consumer.callbacks) <= celery_callbacks._FEW


def test_a_result_may_go_inside_a_transaction(app: Celery) -> None:
    """What is collected as garbage takes no lock, and writes nothing."""
    [result] = pending(app)
    result.then(print, weak=True)
    app.backend.result_consumer.drain_events(timeout=0)
    assert registrations(app) == 1
    with app.backend.store.write() as txn:
        txn.set(b"key", b"value")
        del result
        gc.collect()
    assert left_behind(app) == []


@pytest.mark.any_engine
def test_what_a_callback_raises_is_not_lost_and_loses_nothing(app: Celery) -> None:
    told: list[Any] = []

    def fails(result: Any) -> None:
        told.append(result)
        raise OwnError("why")

    results = pending(app, 3)
    for result in results:
        result.then(fails)
    for result in results:
        app.backend.mark_as_done(result.id, 1)
    for _ in results:
        with pytest.raises(OwnError):
            app.backend.result_consumer.drain_events(timeout=0)
    assert sorted(map(str, told)) == sorted(map(str, results))


# -- nothing grows ---------------------------------------------------------------------------------------------------


def test_ten_thousand_waits_leave_nothing_behind(app: Celery, threads: Any) -> None:
    hub = app.backend.result_consumer.hub
    everything: list[Future[Any]] = []
    [first] = pending(app)
    with pytest.raises(exceptions.TimeoutError):
        first.get(timeout=0.001)
    got = threads.submit(first.get)
    until_waited_for(app, first)
    app.backend.mark_as_done(first.id, 1)  # which opens the marks and the socket of this process for writing
    assert got.result(PATIENCE) == 1
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0

    def wait_many(number: int) -> None:
        for turn in range(1000):
            [result] = pending(app)
            if turn % 4 == 0:
                app.backend.mark_as_done(result.id, turn)
            elif turn % 4 == 1:
                with pytest.raises(exceptions.TimeoutError):
                    result.get(timeout=0.0001)
                continue
            else:
                everything.append(stores.submit(app.backend.mark_as_done, result.id, turn))
            assert result.get() == turn

    with ThreadPoolExecutor(2) as stores:
        for each in [threads.submit(wait_many, number) for number in range(10)]:
            each.result()
    assert left_behind(app) == []
    assert len(hub.subscription._keys) == 0  # `registrations` has removed the last ones
    assert [*map(len, app.backend._pending_results), len(app.backend._pending_messages)] == [0, 0, 0]
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 3  # a transaction's thread may hold one


# -- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.any_engine
def test_processes_that_are_forked_after_waiting_wait_for_themselves(app: Celery, threads: Any) -> None:
    """As a web server does that loads the application, uses it, and then forks."""
    [first, during, told] = pending(app, 3)
    told.then(print)
    with pytest.raises(exceptions.TimeoutError):
        first.get(timeout=0.01)
    got = threads.submit(during.get)
    until_waited_for(app, during, told)

    def child(task_id: str) -> Any:
        [again] = pending(app)
        with ThreadPoolExecutor(2) as pool:
            of_parent = app.AsyncResult(task_id)
            waits = [pool.submit(of_parent.get), pool.submit(again.get)]
            until_waited_for(app, of_parent, again)
            value = waits[0].result(PATIENCE)
            app.backend.mark_as_done(again.id, 0)
            return [value, waits[1].result(PATIENCE)], len(app.backend.result_consumer.callbacks)

    results = pending(app, 3)
    children = [Child(child, result.id) for result in results]
    try:
        wait_for(lambda: registrations(app) == 2 + 3 * 2)
    finally:  # else threads and children would wait for ever
        for result in [*results, during, told]:
            app.backend.mark_as_done(result.id, 42)
    assert got.result(PATIENCE) == 42
    assert [each.join() for each in children] == [([42, 0], 0)] * 3
    app.backend.cleanup()  # the children ended without closing
    assert left_behind(app) == []


INTERRUPTED = """
import json, os, signal, sys, threading, time
from celery import uuid
from celery.exceptions import SoftTimeLimitExceeded
from lmdbresults.integrations.celery import callbacks, consumer as celery_consumer
from lmdbresults.store import following
from tests.support.celery_tasks import make_app
celery_consumer.INTERVAL = callbacks._ASK_AGAIN = following.LOOK_EVERY = following.CHORES_EVERY = 3600.0

class Stopped(Exception):
    pass

def stop(*args):
    raise Stopped

def soft(*args):
    raise SoftTimeLimitExceeded

app = make_app(json.loads(sys.argv[1]))
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, soft)
consumer = app.backend.result_consumer
result = app.AsyncResult(uuid())

def interrupt(number):
    while app.backend.get_key_for_task(result.id) not in consumer.hub.subscription._keys.values():
        time.sleep(0.001)
    time.sleep(0.05)
    os.kill(os.getpid(), number)

for number, error in [
    (signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped), (signal.SIGUSR1, SoftTimeLimitExceeded)
] * 2:
    thread = threading.Thread(target=interrupt, args=(number,))
    thread.start()
    try:
        result.get()
    except error:
        print("interrupted")
    thread.join()
    consumer.hub._unsubscribe()
    assert (consumer.hub._followers, consumer.hub.subscription._keys) == ({}, {})
threading.Timer(0.1, app.backend.mark_as_done, (result.id, 42)).start()
print(result.get())
"""


def test_signals_interrupt_a_wait_which_may_be_repeated(app: Celery, tmp_path: Path) -> None:
    done = run_script(INTERRUPTED, json.dumps(settings_for(tmp_path)))
    assert (done.stdout, done.stderr) == ("interrupted\n" * 6 + "42\n", "")


GREEN = {
    "gevent": "from gevent import monkey; monkey.patch_all(); from gevent import sleep, spawn, Timeout",
    "eventlet": "import eventlet; eventlet.monkey_patch(); from eventlet import sleep, spawn, Timeout",
}
GREENLETS = """
import gc, json, sys, os, time
from celery import uuid
from celery.result import GroupResult, ResultSet
from lmdbresults.integrations.celery import callbacks, consumer as celery_consumer
from lmdbresults.store import following
from tests.support.celery_tasks import make_app
celery_consumer.INTERVAL = callbacks._ASK_AGAIN = following.LOOK_EVERY = following.CHORES_EVERY = 3600.0
app = make_app(json.loads(sys.argv[1]))
consumer = app.backend.result_consumer
results = [app.AsyncResult(uuid()) for _ in range(20)]
told, got = [], {}

def registered(*results):
    keys = {app.backend.get_key_for_task(each.id) for each in results}
    while not keys <= set(consumer.hub.subscription._keys.values()):
        sleep(0.001)

def until(condition):
    while not condition():
        sleep(0.001)

def wait(result):
    got.setdefault(result.id, []).append(result.get())

# a callback, although nothing waits
first, second = app.AsyncResult(uuid()), app.AsyncResult(uuid())
first.then(lambda result: told.append(result.result))
registered(first)
second.then(lambda result: told.append(result.result))  # while the drainer waits
registered(second)
for each in (first, second):
    app.backend.mark_as_done(each.id, 1)
until(lambda: told == [1, 1])

# greenlets that wait for one each, for the same, and for all
waits = [spawn(wait, each) for each in results] + [spawn(wait, app.AsyncResult(results[0].id)) for _ in range(5)]
group = ResultSet([app.AsyncResult(each.id) for each in results])
joined = []
waits.append(spawn(lambda: joined.append(group.get())))
registered(*results)
sleep(0.01)
for each in results:
    app.backend.mark_as_done(each.id, each.id)
until(lambda: joined and sum(map(len, got.values())) == 25)
assert joined == [[each.id for each in results]]
assert all(set(values) == {task_id} for task_id, values in got.items())

# a greenlet that is interrupted
try:
    with Timeout(0.05):
        app.AsyncResult(uuid()).get()
except Timeout:
    print("interrupted")

# a child
late = app.AsyncResult(uuid())
if os.fork() == 0:
    child = app.AsyncResult(uuid())
    child.then(lambda result: told.append("child"))
    registered(child)
    app.backend.mark_as_done(child.id, 1)
    until(lambda: told == [1, 1, "child"])
    os._exit(0 if late.get() == 2 else 1)
sleep(0.1)
app.backend.mark_as_done(late.id, 2)
print(os.wait()[1], late.get())
late = first = second = results = group = waits = each = None
gc.collect()
consumer.drain_events(timeout=0)
consumer.hub._unsubscribe()
print(len(consumer.callbacks), len(consumer.hub._followers), len(consumer.hub.subscription._keys))
app.backend.close()
"""


@pytest.mark.parametrize("kind", GREEN)
def test_greenlets_wait(app: Celery, tmp_path: Path, kind: str) -> None:
    if importlib.util.find_spec(kind) is None:
        pytest.skip(f"{kind} is not installed")
    quiet = "import warnings; warnings.simplefilter('ignore')\n"
    done = run_script(quiet + GREEN[kind] + GREENLETS, json.dumps(settings_for(tmp_path)))
    assert (done.stdout, done.stderr) == ("interrupted\n0 2\n0 0 0\n", "")


def test_a_backend_that_is_closed_leaves_nothing_in_the_folder(app: Celery, tmp_path: Path) -> None:
    with pytest.raises(exceptions.TimeoutError):
        pending(app)[0].get(timeout=0.01)
    app.backend.close()
    assert waits.sockets(app.backend.store.options.path) == []


# -- a real worker ---------------------------------------------------------------------------------------------------


@pytest.mark.any_engine
def test_a_worker_wakes_its_clients(tmp_path: Path, threads: Any, result_backend: str) -> None:
    settings = settings_for(tmp_path, result_backend=result_backend, task_track_started=True)
    metas: list[dict[str, Any]] = []
    with running_worker(tmp_path, settings) as app:
        end = tmp_path / "end"
        reports = threads.submit(progress.delay(str(end)).get, on_message=metas.append)
        wait_for(lambda: metas and metas[-1]["status"] == "PROGRESS")
        end.touch()
        assert reports.result(PATIENCE) == "finished"
        sums = [threads.submit(group(add.s(n, m) for n in range(5)).delay().get) for m in range(5)]
        assert [each.result(PATIENCE) for each in sums] == [[n + m for n in range(5)] for m in range(5)]
        told: list[Any] = []
        group(add.s(n, n) for n in range(5)).delay().then(told.append)
        (add.s(1, 2) | add.s(3)).delay().get(timeout=PATIENCE)
        gc.collect()
        assert left_behind(app) == []
