"""Waiting in an event loop: coroutines follow tasks, and sleep until their loop's desk (event_loop.py) has news."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType

from lmdbresults import states
from lmdbresults.backends.cache import ResultCache
from lmdbresults.backends.encoding import Meta
from lmdbresults.backends.event_loop import Desk, Desks
from lmdbresults.backends.waiting import Deadline, Looks
from lmdbresults.backends.watch import Watch

__all__ = ["AsyncWaiting", "Follower"]


class AsyncWaiting:
    """Waiting in an event loop. Mixed into a backend that knows `get_task_meta`."""

    #: Seconds after which those who wait in an event loop look in any case, should a message have been lost.
    look_interval = 0.5

    get_task_meta: Callable[..., Meta]
    _ensure_not_eager: Callable[[], None]
    _cache: ResultCache
    _desks: "Desks"
    _looks: Callable[..., Looks]

    async def wait_for_async(self, task_id: str, timeout: float | None = None) -> Meta:
        """Return the meta of a task once it has ended; a ``timeout`` of 0 looks once. Raises `ResultTimeout`.

        Waiting is registered in the store, by a write transaction in the thread of the event loop.
        """
        self._ensure_not_eager()
        with self._follow([task_id], Deadline(timeout, f"task {task_id}")) as follower:
            _, meta = await follower.__anext__()
        return meta

    async def as_completed(
        self, task_ids: Iterable[str], timeout: float | None = None
    ) -> AsyncIterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of tasks as they end, each once. Raises `ResultTimeout` after ``timeout`` seconds.

        Left by ``break``, it goes on waiting until the event loop closes it, as loops do with every asynchronous
        generator that nobody holds any more; `contextlib.aclosing` closes it at once.
        """
        ids = list(task_ids)
        with self._follow(ids, Deadline(timeout, f"{len(ids)} tasks")) as follower:
            async for id_, meta in follower:
                yield id_, meta

    def _follow(self, task_ids: Iterable[str], deadline: Deadline, *, every_change: bool = False) -> "Follower":
        return Follower(self, map(str, task_ids), deadline, every_change)

    def _look_for(self, task_ids: list[str], ready_states: frozenset[str] | None) -> dict[str, Meta]:
        """Return the metas of tasks in these states, by id. None: in any, if there is something to be known."""
        metas = ((id_, self.get_task_meta(id_)) for id_ in task_ids)
        if ready_states is None:
            return {id_: meta for id_, meta in metas if meta["status"] != states.PENDING}
        return {id_: meta for id_, meta in metas if meta["status"] in ready_states}

    def _first_look_for(self, task_ids: Iterable[str], ready_states: frozenset[str] | None) -> dict[str, Meta]:
        """Do as `_look_for` does, for tasks that may be in the cache."""
        found, others = {}, []
        for id_ in task_ids:
            cached = self._cache.get(id_)
            if cached is not None and cached.get("status") in states.READY_STATES:
                found[id_] = cached
            else:
                others.append(id_)
        return {**found, **self._look_for(others, ready_states)} if others else found

    def watch(self, task_id: str, timeout: float | None = None) -> Watch:
        """Return an iterator, for ``for`` and ``async for``, that yields the meta of a task whenever it has changed.

        The first one comes at once, if anything is known of the task, and the last one when it has ended. States of
        one's own, such as PROGRESS, count. Raises `ResultTimeout` after ``timeout`` seconds in all.
        """
        return Watch(self, str(task_id), timeout)

    def _while_waiting(self) -> None:
        """Do what is to be done now and then while somebody waits."""

    def _desk(self) -> "Desk":
        """Return where the coroutines of the running event loop wait."""
        return self._desks.of(asyncio.get_running_loop(), self._new_desk)

    def _new_desk(self, loop: asyncio.AbstractEventLoop) -> "Desk":
        return Desk(self, loop)


class Follower:
    """Follows tasks for one coroutine: yields ``(id, meta)`` of those that have ended, or of every change.

    It looks when it is entered, and waits at the desk for what has not ended by then. Of changes that come at once the
    last one counts; what has not changed may be told again.
    """

    def __init__(self, backend: AsyncWaiting, ids: Iterable[str], deadline: Deadline, every_change: bool) -> None:
        self._backend = backend
        self._deadline = deadline
        self.every_change = every_change
        self._pending = dict.fromkeys(ids)
        self._news: OrderedDict[str, Meta] = OrderedDict()
        self._failure: Exception | None = None
        self._desk: Desk | None = None
        self._awake: asyncio.Future[None] | None = None

    def __enter__(self) -> "Follower":
        self._look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._desk is not None:
            self._desk.remove(self, self._pending)

    def __aiter__(self) -> "Follower":
        return self

    async def __anext__(self) -> tuple[str, Meta]:
        while not self._news:
            if self._failure is not None:
                raise self._failure
            if not self._pending:
                raise StopAsyncIteration
            self._deadline.check()
            await self._sleep()
            if self._deadline.left() <= 0:  # the last look: a result that is there wins
                self._look()
        return self._news.popitem(last=False)

    async def _sleep(self) -> None:
        """Return when there is something to tell, or at the deadline."""
        if self._desk is None:
            self._desk = self._backend._desk()
            self._desk.add(self, self._pending)
        loop, left = asyncio.get_running_loop(), self._deadline.left()
        self._awake = loop.create_future()
        alarm = loop.call_later(left, self._wake) if left < math.inf else None
        try:
            await self._awake
        finally:
            if alarm is not None:
                alarm.cancel()

    def _look(self) -> None:
        wanted = None if self.every_change else states.READY_STATES
        found = self._backend._first_look_for(self._pending, wanted)
        for id_, meta in found.items():
            self.tell(id_, meta)
        if self._desk is not None:
            self._desk.remove(self, found.keys() - self._pending.keys())

    def tell(self, id_: str, meta: Meta) -> None:
        """Take the meta of a task, as it is now."""
        if id_ in self._pending:
            self._news[id_] = meta
            if meta["status"] in states.READY_STATES:
                del self._pending[id_]
            self._wake()

    def fail(self, failure: Exception) -> None:
        """Have the coroutine raise."""
        self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if self._awake is not None and not self._awake.done():
            self._awake.set_result(None)
