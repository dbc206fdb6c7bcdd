"""Celery's results in an event loop, where `AsyncResult.get` would block it::

    from lmdbresults.integrations.celery import aio

    value = await aio.get(add.delay(2, 2), timeout=10)
    async for result in aio.as_completed(group_result):
        print(result.id, result.get())
    async for meta in aio.watch(result):
        print(meta["status"], meta["result"])
    async for failed in aio.iter_results(app, state="FAILURE", since=timedelta(hours=1)):
        print(failed.id, failed.date_done)

All coroutines of a loop share one socket, and waiting takes no thread. The results must be of a backend of lmdbresults.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from celery import Celery
from celery.result import AsyncResult, ResultSet

from lmdbresults.backends.listing import ListedResult
from lmdbresults.backends.watch import Watch
from lmdbresults.metas import id_text

__all__ = ["as_completed", "get", "iter_results", "store_many", "watch"]

#: Results that are read at once.
_PAGE: Final = 500


async def get(result: Any, timeout: float | None = None, propagate: bool = True) -> Any:
    """Wait for a result, or for those of a group in their order; return the value, or raise what the task raised.

    The failure of a parent, after which the task will not run, is raised too. With ``propagate`` off the exception is
    returned. Raises Celery's ``TimeoutError`` after ``timeout`` seconds.
    """
    leaves = list(_leaves(result))
    parents = [parent for leaf in leaves for node in leaf._parents() for parent in _leaves(node)] if propagate else []
    left = {leaf.id for leaf in leaves}
    async with aclosing(as_completed([*parents, *leaves], timeout)) as ended:
        while left:
            each = await anext(ended)
            if propagate:
                each.maybe_throw()
            left.discard(each.id)
    return _value(result, propagate)


async def as_completed(results: Iterable[Any], timeout: float | None = None) -> AsyncGenerator[AsyncResult, None]:
    """Yield results as they end, each once; their ``get()`` does not block then. Groups are entered.

    Raises Celery's ``TimeoutError`` after ``timeout`` seconds.
    """
    by_id: dict[str, list[AsyncResult]] = {}
    backend = None
    for result in results:
        for leaf in _leaves(result):
            backend = leaf.backend
            by_id.setdefault(id_text(leaf.id), []).append(leaf)
    if backend is None:
        return
    async with aclosing(backend.as_completed(by_id, timeout)) as ended:
        async for task_id, meta in ended:
            for result in by_id[task_id]:
                backend.result_consumer.fulfil(result, meta)
                yield result


def watch(result: AsyncResult, timeout: float | None = None) -> Watch:
    """Return an iterator that yields the meta of a task at every change of its state, progress included."""
    watch: Watch = result.backend.watch(result.id, timeout)
    return watch


async def store_many(app: Celery, results: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Store several results in one transaction, in a thread: it may have to wait for other writers.

    Each item is a tuple of arguments of the backend's ``store_result``. Returns the list of its return values.
    """
    stored: list[Any] = await asyncio.to_thread(app.backend.store_many, results)
    return stored


async def iter_results(
    app: Celery,
    *,
    state: str | Iterable[str] | None = None,
    name: str | None = None,
    since: datetime | timedelta | float | None = None,
) -> AsyncGenerator[ListedResult, None]:
    """Yield what is known of each stored task without decoding its result; see `LMDBBackend.iter_results`.

    The file is read in a thread, as most of it may not be asked for.
    """
    listed = app.backend.iter_results(state=state, name=name, since=since)
    while page := await asyncio.to_thread(list, islice(listed, _PAGE)):
        for each in page:
            yield each


def _leaves(node: Any) -> Iterable[AsyncResult]:
    if isinstance(node, ResultSet):
        for each in node.results:
            yield from _leaves(each)
    elif not node.ignored:
        yield node


def _value(node: Any, propagate: bool) -> Any:
    if isinstance(node, ResultSet):
        return [_value(each, propagate) for each in node.results]
    return None if node.ignored else node.maybe_throw(propagate=propagate)
