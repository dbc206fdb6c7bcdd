"""Watching a task, in a thread and in an event loop. A lost wake-up hangs, see elsewhere.py."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmdbresults.backends import KeyValueStoreBackend, LMDBBackend
from lmdbresults.errors import ResultTimeout
from tests.support.elsewhere import Elsewhere, elsewhere, registrations, sockets
from tests.support.plain import DictBackend, opened
from tests.support.processes import FORKS_WITH_THREADS

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.usefixtures("no_second_look")]
interface = pytest.mark.interface

#: Returns the states and results that were watched; each meta is passed to a function before the next step.
Watching = Callable[..., list[Any]]


@pytest.fixture
def lmdb(path: str) -> Iterator[LMDBBackend]:
    with opened(path) as backend:
        yield backend
        assert registrations(backend) == 0


@pytest.fixture(scope="module")
def process() -> Iterator[Elsewhere]:
    with elsewhere() as process:
        yield process


@pytest.fixture
def other(path: str, lmdb: LMDBBackend, process: Elsewhere) -> Iterator[Elsewhere]:
    process.do(("open", path))
    yield process
    process.end()


def in_thread(backend: KeyValueStoreBackend, react: Callable[[Any], object], timeout: float | None = None) -> list[Any]:
    seen = []
    for meta in backend.watch("id", timeout):
        seen.append((meta["status"], meta["result"]))
        react(meta)
    return seen


def in_loop(backend: KeyValueStoreBackend, react: Callable[[Any], object], timeout: float | None = None) -> list[Any]:
    async def work() -> list[Any]:
        seen = []
        async for meta in backend.watch("id", timeout):
            seen.append((meta["status"], meta["result"]))
            react(meta)
        return seen

    return asyncio.run(work())


@pytest.fixture(params=[in_thread, in_loop])
def watched(request: pytest.FixtureRequest) -> Watching:
    return request.param  # type: ignore[no-any-return]


@interface("watch")
def test_every_change_of_state_is_yielded_until_the_end(lmdb, other, watched):
    steps = iter([("store_result", "id", {"done": 1}, "PROGRESS"), ("mark_as_done", "id", 42)])

    def react(meta: Any) -> None:
        if meta["status"] != "SUCCESS":
            other.end()
            other.begin(("await registrations", 1), next(steps))

    other.begin(("await registrations", 1), ("store_result", "id", None, "STARTED"))
    assert watched(lmdb, react) == [("STARTED", None), ("PROGRESS", {"done": 1}), ("SUCCESS", 42)]


@interface("watch")
def test_of_changes_that_come_at_once_the_latest_is_yielded(lmdb, other, watched):
    def react(meta: Any) -> None:
        if meta["result"] == 0:
            other.do(*(("store_result", "id", number, "PROGRESS") for number in range(1, 9)))
        elif meta["result"] == 8:
            other.do(("mark_as_failure", "id", KeyError("why")))

    lmdb.store_result("id", 0, "PROGRESS")
    seen = watched(lmdb, react)
    assert [status for status, _ in seen] == ["PROGRESS", "PROGRESS", "FAILURE"]
    assert [result for _, result in seen[:2]] == [0, 8]


@interface("watch")
def test_a_task_that_has_ended_is_yielded_once(lmdb, watched):
    lmdb.mark_as_done("id", 42)
    assert watched(lmdb, lambda meta: None, timeout=0) == [("SUCCESS", 42)]


@interface("watch")
def test_time_runs_out(lmdb, watched):
    with pytest.raises(ResultTimeout, match=r"after 0\.01 s waiting for task id"):
        watched(lmdb, lambda meta: None, timeout=0.01)


@interface("watch")
def test_a_state_that_is_stored_again_is_not_a_change(lmdb, other, watched):
    def react(meta: Any) -> None:
        if meta["status"] != "SUCCESS":
            other.begin(
                ("await registrations", 1),
                ("store_result", "id", 1, "PROGRESS"),
                ("store_result", "id", 1, "PROGRESS"),
                ("mark_as_done", "id", 42),
            )

    lmdb.store_result("id", 1, "PROGRESS")
    assert watched(lmdb, react) == [("PROGRESS", 1), ("SUCCESS", 42)]


@interface("watch")
def test_a_loop_that_is_left_leaves_no_subscription(lmdb):
    lmdb.store_result("id", 1, "PROGRESS")
    for meta in lmdb.watch("id"):
        assert meta["result"] == 1
        break
    gc.collect()
    assert registrations(lmdb) == 0


@interface("watch")
def test_closing_ends_the_loop(lmdb):
    lmdb.store_result("id", 1, "PROGRESS")
    watch = lmdb.watch("id")
    assert next(watch)["result"] == 1
    watch.close()
    assert registrations(lmdb) == 0
    assert list(watch) == []

    async def work() -> list[Any]:
        return [meta async for meta in watch]

    assert asyncio.run(work()) == []


@interface("watch")
def test_an_event_loop_that_stops_watching_leaves_nothing(lmdb, path):
    lmdb.store_result("id", 1, "PROGRESS")

    async def work() -> None:
        async for _ in lmdb.watch("id"):
            break
        watch = lmdb.watch("id")
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        while registrations(lmdb) == 0:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while registrations(lmdb) > 0:
            await asyncio.sleep(0)
        assert sockets(path) == []

    asyncio.run(work())


@interface("watch")
def test_a_backend_without_messages_is_looked_at_again_and_again(watched):
    backend = DictBackend()
    steps = iter([("a", "PROGRESS"), ("b", "PROGRESS"), (42, "SUCCESS")])
    backend.store_result("id", None, "STARTED")
    seen = watched(backend, lambda meta: backend.store_result("id", *next(steps, (42, "SUCCESS"))), timeout=60)
    assert seen == [("STARTED", None), ("PROGRESS", "a"), ("PROGRESS", "b"), ("SUCCESS", 42)]
