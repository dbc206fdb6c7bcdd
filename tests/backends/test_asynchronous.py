"""Waiting in an event loop: what wakes it, when it ends, and that it leaves nothing behind.

Looking again twice a second is turned off here: a lost wake-up hangs, and the test times out.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lmdbresults.backends import LMDBBackend, StoreBackend
from lmdbresults.errors import DecodeError, ResultTimeout, StoreClosed
from lmdbresults.results import AsyncResult
from lmdbresults.store import following
from lmdbresults.store.base import Store, Subscription
from lmdbresults.testing import MemoryStore
from tests.support.elsewhere import Elsewhere, elsewhere, registrations, sockets
from tests.support.plain import DictBackend, opened
from tests.support.processes import FORKS_WITH_THREADS, in_child

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.usefixtures("no_second_look")]
interface = pytest.mark.interface


@pytest.fixture
def lmdb(path: str) -> Iterator[LMDBBackend]:
    """A backend of which no wait leaves anything."""
    with opened(path) as backend:
        yield backend
        assert registrations(backend) == 0
        assert sockets(path) == []
        assert backend.waiting.in_loop._hubs._hubs == {}


@pytest.fixture(params=["lmdb", "memory"])
def backend(request: pytest.FixtureRequest) -> Iterator[StoreBackend]:
    if request.param == "lmdb":
        yield request.getfixturevalue("lmdb")
        return
    with MemoryStore() as store:
        backend = StoreBackend(store=store)
        yield backend
        assert backend.waiting.in_loop._hubs._hubs == {}
        assert not any(subscription._keys for subscription in store._subscriptions)


@pytest.fixture(scope="module")
def process() -> Iterator[Elsewhere]:
    with elsewhere() as process:
        yield process


@pytest.fixture
def other(path: str, lmdb: LMDBBackend, process: Elsewhere) -> Iterator[Elsewhere]:
    process.do(("open", path))
    yield process
    process.end()


async def turns(count: int = 5) -> None:
    """Let every coroutine that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def registered(backend: LMDBBackend, count: int) -> None:
    hubs = backend.waiting.in_loop._hubs._hubs
    while sum(len(hub._followers) for hub in hubs.values()) != count:
        await asyncio.sleep(0)


def task_of(coroutine: Any) -> "asyncio.Task[Any]":
    return asyncio.get_running_loop().create_task(coroutine)


async def cancelled(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)


# -- one result ------------------------------------------------------------------------------------------------------


@interface("AsyncResult: await")
def test_another_process_wakes_a_coroutine_that_awaits_a_result(lmdb, other):
    async def work() -> Any:
        other.begin(("await registrations", 1), ("mark_as_done", "id", 42))
        return await AsyncResult("id", lmdb)

    assert asyncio.run(work()) == 42


@interface("AsyncResult: await")
def test_another_process_wakes_a_coroutine_that_awaits_a_failure(lmdb, other):
    async def work() -> Any:
        other.begin(("await registrations", 1), ("mark_as_failure", "id", KeyError("why")))
        return await AsyncResult("id", lmdb)

    with pytest.raises(KeyError, match="why"):
        asyncio.run(work())


@interface("wait_for_async")
def test_a_result_that_exists_is_returned_without_waiting(backend):
    backend.mark_as_done("id", 42)
    waiting = backend.wait_for_async("id", timeout=0)
    with pytest.raises(StopIteration) as ended:  # at the first step, and there is no loop to wait in
        waiting.send(None)
    assert ended.value.value["result"] == 42


@interface("wait_for_async")
def test_a_result_in_the_cache_need_not_be_in_the_store():
    with MemoryStore() as store:
        backend = StoreBackend(store=store, max_cached_results=1)
        backend.mark_as_done("id", 42)
        backend.get_task_meta("id")
        store.delete(backend.get_key_for_task("id"))
        assert asyncio.run(backend.wait_for_async("id"))["result"] == 42


@interface("wait_for_async")
def test_a_wait_ends_with_the_task_and_not_with_states_on_the_way(backend):
    async def work() -> Any:
        waiting = task_of(backend.wait_for_async("id"))
        for state in ("STARTED", "PROGRESS", "RETRY"):
            await turns()
            backend.store_result("id", {}, state)
        backend.forget("id")
        await turns()
        assert not waiting.done()
        backend.mark_as_done("id", 42)
        return await waiting

    assert asyncio.run(work())["result"] == 42


@interface("wait_for_async")
@pytest.mark.parametrize("timeout", [-1, 0, 0.01])
def test_time_runs_out(backend, timeout):
    with pytest.raises(ResultTimeout, match=f"after {timeout} s waiting for task id"):
        asyncio.run(backend.wait_for_async("id", timeout))


@interface("wait_for_async")
def test_a_result_that_exists_wins_over_a_timeout_that_has_run_out(backend):
    async def work() -> Any:
        waiting = task_of(backend.wait_for_async("id", 0.5))
        await turns()
        backend.waiting.in_loop.hub._watch(-1)  # so that no message is read
        backend.mark_as_done("id", 42)
        return await waiting

    assert asyncio.run(work())["result"] == 42


@interface("wait_for_async")
def test_several_coroutines_await_the_same_result(backend):
    async def work() -> Any:
        waiting = [task_of(backend.wait_for_async("id")) for _ in range(10)]
        await turns()
        backend.mark_as_done("id", 42)
        return {meta["result"] for meta in await asyncio.gather(*waiting)}

    assert asyncio.run(work()) == {42}


class Late:
    """A store in which something happens when a key is about to be added to a subscription."""

    def __init__(self, store: Store, happens: Any) -> None:
        self._store = store
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def subscribe(self) -> Subscription:
        subscription = self._store.subscribe()
        add = subscription.add

        def late(*args: Any, **kwargs: Any) -> Any:
            happens, self._happens = self._happens, lambda: None
            happens()
            return add(*args, **kwargs)

        subscription.add = late  # type: ignore[method-assign]
        return subscription


@interface("wait_for_async")
@pytest.mark.parametrize("also", [0, 1])
def test_a_result_that_is_stored_between_the_look_and_the_subscription_is_seen(backend, also):
    store = backend.store
    late = Late(store, lambda: backend.mark_as_done("id", 42))
    backend.store = late

    async def work() -> Any:
        others = [task_of(backend.wait_for_async(f"other {number}")) for number in range(also)]
        meta = await backend.wait_for_async("id")
        await cancelled(*others)
        return meta

    try:
        assert asyncio.run(work())["result"] == 42
    finally:
        backend.store = store


@interface("wait_for_async")
def test_a_state_that_is_stored_between_the_look_and_the_subscription_is_seen(backend):
    store = backend.store
    backend.store = Late(store, lambda: backend.store_result("id", 1, "PROGRESS"))
    try:

        async def work() -> Any:
            return await anext(backend.watch("id"))

        assert asyncio.run(work())["result"] == 1
    finally:
        backend.store = store


# -- many ------------------------------------------------------------------------------------------------------------


@interface("wait_for_async")
def test_ten_thousand_coroutines_wait_in_one_loop_and_half_of_them_are_cancelled(lmdb, other):
    half = 5000

    async def work() -> None:
        waiting = [task_of(lmdb.wait_for_async(f"{number}")) for number in range(2 * half)]
        await registered(lmdb, 2 * half)
        assert len(sockets(lmdb._options.path)) == 1
        await cancelled(*waiting[half:])
        await registered(lmdb, half)
        other.begin(*(("mark_as_done", f"{number}", number) for number in range(half)))
        metas = await asyncio.gather(*waiting[:half])
        assert [meta["result"] for meta in metas] == list(range(half))

    asyncio.run(work())


@interface("as_completed")
def test_results_are_yielded_as_they_end(lmdb, other):
    async def work() -> None:
        lmdb.mark_as_done("there", 0)
        ended = lmdb.as_completed(["a", "b", "there", "c", "a"])
        assert (await anext(ended))[0] == "there"
        ends = [("mark_as_done", "b", 1), ("mark_as_failure", "c", KeyError()), ("mark_as_done", "a", 2)]
        for missing, end in zip((3, 2, 1), ends, strict=True):
            other.begin(("await registrations", missing), end)
            id_, meta = await anext(ended)
            assert (id_, meta["task_id"], repr(meta["result"])) == (end[1], end[1], repr(end[2]))
            other.end()
        with pytest.raises(StopAsyncIteration):
            await anext(ended)

    asyncio.run(work())


@interface("as_completed")
def test_results_that_do_not_end_in_time_raise_after_those_that_do(backend):
    async def work() -> None:
        backend.mark_as_done("a", 1)
        ended = backend.as_completed(["a", "b"], timeout=0.01)
        assert (await anext(ended))[0] == "a"
        with pytest.raises(ResultTimeout, match="waiting for task b;"):
            await anext(ended)
        with pytest.raises(ResultTimeout, match="waiting for 2 tasks;"):
            await anext(backend.as_completed(["b", "c"], timeout=0.01))

    asyncio.run(work())


@interface("as_completed")
def test_leaving_early_unsubscribes(lmdb):
    async def work() -> None:
        lmdb.mark_as_done("a", 1)
        async with contextlib.aclosing(lmdb.as_completed("abc")) as ended:
            await anext(ended)
            waiting = task_of(anext(ended))
            await registered(lmdb, 2)
            await cancelled(waiting)
        await registered(lmdb, 0)
        assert lmdb.waiting.in_loop._hubs._hubs == {}

    asyncio.run(work())


@interface("as_completed")
def test_a_loop_that_is_left_by_break_leaves_nothing(lmdb):
    async def work() -> None:
        lmdb.mark_as_done("a", 1)
        waiting = task_of(lmdb.wait_for_async("c"))
        async for _ in lmdb.as_completed("abc"):
            await registered(lmdb, 1)
            break
        await cancelled(waiting)

    asyncio.run(work())


# -- ends of waiting -------------------------------------------------------------------------------------------------


@interface("wait_for_async")
def test_awaiting_one_result_after_the_other_keeps_the_same_socket(lmdb, monkeypatch):
    boxes = set()
    asked = lmdb.store.subscribe

    def subscribe() -> Subscription:
        boxes.add(box := asked())
        return box

    monkeypatch.setattr(lmdb.store, "subscribe", subscribe)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for number in range(3):
            loop.call_later(0.01, lmdb.mark_as_done, f"{number}", number)
            await lmdb.wait_for_async(f"{number}")

    asyncio.run(work())
    assert len(boxes) == 1


@interface("wait_for_async")
def test_closing_the_backend_ends_all_waiting(lmdb):
    async def work() -> None:
        waiting = task_of(lmdb.wait_for_async("id"))
        await registered(lmdb, 1)
        lmdb.process_cleanup()
        with pytest.raises(StoreClosed, match="was closed"):
            await waiting

    asyncio.run(work())


@interface("wait_for_async")
def test_closing_the_backend_in_another_thread_ends_all_waiting(backend):
    async def work() -> None:
        waiting = task_of(backend.wait_for_async("id"))
        await turns()
        hub = backend.waiting.in_loop.hub
        await asyncio.to_thread(backend.waiting.in_loop.close)
        with pytest.raises(StoreClosed, match="was closed"):
            await waiting
        assert backend.waiting.in_loop.hub is not hub
        backend.waiting.in_loop.hub.close()

    asyncio.run(work())


@interface("wait_for_async")
def test_a_damaged_record_fails_only_the_coroutines_that_wait_for_it(lmdb):
    async def work() -> None:
        waiting = [task_of(lmdb.wait_for_async(id_)) for id_ in "ab"]
        await turns()
        lmdb.store.update(lambda txn: [txn.set(lmdb.get_key_for_task(id_), value) for id_, value in records.items()])
        with pytest.raises(DecodeError):
            await waiting[0]
        assert (await waiting[1])["result"] == 42

    lmdb.mark_as_done("done", 42)
    records = {"a": b"not a record", "b": lmdb.get(lmdb.get_key_for_task("done"))}
    asyncio.run(work())


@interface("wait_for_async")
def test_a_hub_that_cannot_go_on_fails_every_coroutine(lmdb, monkeypatch):
    async def work() -> None:
        waiting = [task_of(lmdb.wait_for_async(id_)) for id_ in "ab"]
        await turns()
        monkeypatch.setattr(lmdb.waiting.in_loop.hub.subscription, "receive", failing)
        lmdb.mark_as_done("a", 42)
        for each in waiting:
            with pytest.raises(OSError, match="broken"):
                await each

    def failing(timeout: float) -> None:
        raise OSError("broken")

    asyncio.run(work())


@interface("wait_for_async")
def test_each_thread_has_a_loop_of_its_own(lmdb):
    got: list[Any] = []

    def wait(number: int) -> None:
        got.append(asyncio.run(lmdb.wait_for_async("id"))["result"])

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while registrations(lmdb) < 4:
        pass
    lmdb.mark_as_done("id", 42)
    for thread in threads:
        thread.join()
    assert got == [42] * 4


@interface("wait_for_async")
def test_a_child_waits_for_itself(lmdb, other):
    def in_the_child() -> Any:
        async def work() -> Any:
            return await lmdb.wait_for_async("child")

        assert lmdb.waiting.in_loop._hubs._hubs == {}
        meta = asyncio.run(work())
        lmdb.process_cleanup()
        return meta["result"]

    async def work() -> Any:
        waiting = task_of(lmdb.wait_for_async("parent"))
        await registered(lmdb, 1)
        other.begin(("await registrations", 2), ("mark_as_done", "child", 1))
        assert in_child(in_the_child) == 1
        other.begin(("mark_as_done", "parent", 2))
        return (await waiting)["result"]

    assert asyncio.run(work()) == 2


@interface("wait_for_async")
def test_a_loop_that_is_closed_while_a_coroutine_waits_is_cleared_away(lmdb):
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(lmdb.wait_for_async("id"))
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.run_until_complete(registered(lmdb, 1))
    loop.close()
    assert registrations(lmdb) == 1

    async def work() -> None:
        other = task_of(lmdb.wait_for_async("other"))
        await turns()
        assert registrations(lmdb) == 1
        await cancelled(other)

    asyncio.run(work())
    assert registrations(lmdb) == 0


@interface("wait_for_async")
def test_a_coroutine_that_is_closed_after_its_loop_leaves_nothing(lmdb):
    loop = asyncio.new_event_loop()
    coroutine = lmdb.wait_for_async("id")
    waiting = loop.create_task(coroutine)
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.run_until_complete(registered(lmdb, 1))
    loop.close()
    coroutine.close()
    assert registrations(lmdb) == 0
    assert lmdb.waiting.in_loop._hubs._hubs == {}


# -- where no message arrives ----------------------------------------------------------------------------------------


@interface("wait_for_async")
def test_a_backend_without_messages_is_looked_at_again_and_again():
    backend = DictBackend()

    async def work() -> Any:
        asyncio.get_running_loop().call_later(0.1, backend.mark_as_done, "id", 42)
        waiting = task_of(backend.wait_for_async("id"))
        with pytest.raises(ResultTimeout):
            await backend.wait_for_async("never", 0.01)
        return (await waiting)["result"]

    assert asyncio.run(work()) == 42
    assert backend.waiting.in_loop._hubs._hubs == {}


@interface("wait_for_async")
def test_it_looks_again_where_sockets_are_impossible(lmdb, monkeypatch):
    def impossible(box: int) -> None:
        raise PermissionError

    monkeypatch.setattr(lmdb.store._folder, "bind", impossible)

    async def work() -> Any:
        asyncio.get_running_loop().call_later(0.1, lmdb.mark_as_done, "id", 42)
        return await lmdb.wait_for_async("id")

    assert asyncio.run(work())["result"] == 42


@interface("wait_for_async")
def test_a_lost_message_is_made_up_for(backend, monkeypatch):
    monkeypatch.setattr(following, "LOOK_EVERY", 0.01)

    async def work() -> Any:
        waiting = task_of(backend.wait_for_async("id"))
        await turns()
        backend.waiting.in_loop.hub.subscription.remove([backend.get_key_for_task("id")])
        backend.mark_as_done("id", 42)
        return await waiting

    assert asyncio.run(work())["result"] == 42


@interface("wait_for_async")
def test_a_dead_process_is_looked_for_while_coroutines_wait(lmdb, monkeypatch):
    monkeypatch.setattr(following, "CHORES_EVERY", 0.001)
    chores: list[int] = []
    monkeypatch.setattr(lmdb.waiting.in_loop, "_chores", lambda: chores.append(1))

    async def work() -> None:
        waiting = task_of(lmdb.wait_for_async("id"))
        while len(chores) < 3:
            monkeypatch.setattr(following, "LOOK_EVERY", 0.001)
            await asyncio.sleep(0.001)
        await cancelled(waiting)

    monkeypatch.setattr(following, "LOOK_EVERY", 0.001)
    asyncio.run(work())
