"""Celery's results in an event loop, where `AsyncResult.get` would block it.

    from lmdbresults.integrations.celery import aio

    value = await aio.get(add.delay(2, 2), timeout=10)
    async for result in aio.as_completed(group_result):
        print(result.id, result.get())
    async for meta in aio.watch(result):
        print(meta["status"], meta["result"])

All coroutines of a loop share one socket, and no thread is used. The results must be of a backend of lmdbresults.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from celery.result import AsyncResult, ResultSet

from lmdbresults.backends.watch import Watch
from lmdbresults.metas import id_text

__all__ = ["as_completed", "get", "watch"]


async def get(result: Any, timeout: float | None = None, propagate: bool = True) -> Any:
    """Wait for a result, or for those of a group in their order; return the value, or raise what the task raised.

    The failure of a parent, after which the task will not run, is raised too. With ``propagate`` off the exception is
    returned. Raises Celery's ``TimeoutError`` after ``timeout`` seconds.
    """
    leaves = list(_leaves(result))
    parents = [parent for leaf in leaves for node in leaf._parents() for parent in _leaves(node)] if propagate else []
    left = {leaf.id for leaf in leaves}
    async with aclosing(as_completed([*leaves, *parents], timeout)) as ended:
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
    async for task_id, meta in backend.as_completed(by_id, timeout):
        for result in by_id[task_id]:
            backend.result_consumer.fulfil(result, meta)
            yield result


def watch(result: AsyncResult, timeout: float | None = None) -> Watch:
    """Return an iterator that yields the meta of a task at every change of its state, progress included."""
    watch: Watch = result.backend.watch(result.id, timeout)
    return watch


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
