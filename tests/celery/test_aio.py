"""Celery's results in an event loop. A lost wake-up hangs here, as nothing looks again."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery, exceptions, states, uuid
from celery.result import AsyncResult, GroupResult

from lmdbresults.integrations.celery import aio
from tests.support.celery_tasks import OwnError

pytestmark = [pytest.mark.usefixtures("no_second_look"), pytest.mark.any_engine]


@pytest.fixture(autouse=True)
def nothing_left(app: Celery) -> Iterator[None]:
    yield
    assert app.backend.result_consumer.waiting.in_loop._hubs._hubs == {}


def pending(app: Celery, number: int = 1) -> list[AsyncResult]:
    return [app.AsyncResult(uuid()) for _ in range(number)]


def soon(app: Celery, *results: tuple[AsyncResult, Any, str]) -> None:
    """Store results in other threads, once they are waited for."""

    async def store() -> None:
        for result, value, state in results:
            await asyncio.sleep(0.01)
            await asyncio.to_thread(app.backend.store_result, result.id, value, state)

    background.append(asyncio.get_running_loop().create_task(store()))


background: list[Any] = []


def test_a_result_is_awaited(app: Celery) -> None:
    async def work() -> Any:
        [result] = pending(app)
        soon(app, (result, 42, states.SUCCESS))
        return await aio.get(result, timeout=30), result.get()

    assert asyncio.run(work()) == (42, 42)


def test_a_result_that_exists_wins_over_a_timeout_that_has_run_out(app: Celery) -> None:
    [result] = pending(app)
    app.backend.mark_as_done(result.id, 42)
    assert asyncio.run(aio.get(result, timeout=0)) == 42


def test_time_runs_out_with_the_error_of_celery(app: Celery) -> None:
    [result] = pending(app)
    with pytest.raises(exceptions.TimeoutError):
        asyncio.run(aio.get(result, timeout=0.01))


def test_a_failure_is_raised_unless_propagate_is_false(app: Celery) -> None:
    async def work(propagate: bool) -> Any:
        [result] = pending(app)
        soon(app, (result, OwnError("why"), states.FAILURE))
        return await aio.get(result, propagate=propagate)

    with pytest.raises(OwnError, match="why"):
        asyncio.run(work(True))
    assert repr(asyncio.run(work(False))) == "OwnError('why')"


def test_the_failure_of_a_parent_ends_the_wait(app: Celery) -> None:
    async def work() -> Any:
        parent, result = pending(app, 2)
        result.parent = parent
        soon(app, (parent, OwnError("why"), states.FAILURE))
        return await aio.get(result)

    with pytest.raises(OwnError, match="why"):
        asyncio.run(work())


def test_the_results_of_a_group_are_returned_in_its_order(app: Celery) -> None:
    async def work() -> Any:
        first, *inner, ignored = pending(app, 4)
        ignored.ignored = True
        group = GroupResult(uuid(), [first, GroupResult(uuid(), inner, app=app), ignored], app=app)
        soon(app, *((each, number, states.SUCCESS) for number, each in enumerate([*inner, first])))
        return await aio.get(group)

    assert asyncio.run(work()) == [2, [0, 1], None]


def test_results_are_yielded_as_they_end(app: Celery) -> None:
    async def work() -> Any:
        results, seen = pending(app, 3), list[int]()
        soon(app, (results[2], 0, states.SUCCESS))
        async for each in aio.as_completed(results):
            seen.append(each.get(timeout=0))
            if len(seen) < 3:
                soon(app, (results[2 - len(seen)], len(seen), states.SUCCESS))
        return seen

    assert asyncio.run(work()) == [0, 1, 2]


def test_nothing_to_wait_for_is_nothing_to_yield(app: Celery) -> None:
    async def work() -> Any:
        return [each async for each in aio.as_completed([])], await aio.get(GroupResult(uuid(), [], app=app))

    assert asyncio.run(work()) == ([], [])


def test_progress_is_watched_to_the_end(app: Celery) -> None:
    async def work() -> Any:
        [result] = pending(app)
        seen = []
        soon(app, (result, 1, "PROGRESS"))
        async for meta in aio.watch(result):
            seen.append((meta["status"], meta["result"]))
            if meta["status"] != states.SUCCESS:
                soon(app, (result, 42, states.SUCCESS))
        return seen

    assert asyncio.run(work()) == [("PROGRESS", 1), ("SUCCESS", 42)]


def test_a_callback_is_called_when_a_coroutine_has_waited(app: Celery) -> None:
    told: list[Any] = []

    async def work() -> None:
        [result] = pending(app)
        result.then(told.append)
        soon(app, (result, 42, states.SUCCESS))
        await aio.get(result)
        assert told == [result]

    asyncio.run(work())


def test_closing_the_backend_ends_the_wait(app: Celery) -> None:
    async def work() -> None:
        waiting = asyncio.get_running_loop().create_task(aio.get(*pending(app)))
        await asyncio.sleep(0.01)
        app.backend.close()
        await waiting

    with pytest.raises(Exception, match="was closed"):
        asyncio.run(work())


def test_results_are_stored_and_listed_in_a_loop(app: Celery) -> None:
    async def main() -> list[str]:
        numbers = range(1100)
        stored = await aio.store_many(app, [(f"id{number}", number, states.SUCCESS) for number in numbers])
        assert stored == list(numbers)
        await aio.store_many(app, [("failed", ValueError("no"), states.FAILURE)])
        assert [listed.id async for listed in aio.iter_results(app, state=states.FAILURE)] == ["failed"]
        assert [listed async for listed in aio.iter_results(app, since=timedelta(hours=-1))] == []
        return [listed.id async for listed in aio.iter_results(app, state=states.SUCCESS)]

    assert len(asyncio.run(main())) == 1100


@pytest.mark.of_a_file  # writers of a server do not wait for each other
def test_other_coroutines_run_while_results_are_stored_behind_another_writer(app: Celery) -> None:
    async def main() -> list[str]:
        order = []
        with app.backend.store.write():
            storing = asyncio.create_task(aio.store_many(app, [("id", 1, states.SUCCESS)]))
            while not order:
                await asyncio.sleep(0)
                order.append("another")
        await storing
        order.append("stored")
        return order

    assert asyncio.run(main()) == ["another", "stored"]
