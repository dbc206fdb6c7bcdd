"""Watching one task: its meta at every change of state, for threads and coroutines alike."""

from collections.abc import AsyncIterator, Callable, Iterator

from lmdbresults import states
from lmdbresults.backends.pending import WaitingBackend, known_meta, timed_out, until
from lmdbresults.protocols import Meta
from lmdbresults.store.following import Values
from lmdbresults.store.loop_hub import LoopHub, LoopWait
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait

__all__ = ["Watch"]


class Watch(Iterator[Meta], AsyncIterator[Meta]):
    """Yields the meta of a task as it is, if anything is known, then whenever it has changed, until it has ended.

    For ``for`` and ``async for``. Of changes that come at once the last one is yielded. Raises `ResultTimeout` when
    time is up, which begins with the first step. Nothing is followed between two steps.
    """

    def __init__(
        self,
        backend: WaitingBackend,
        task_id: str,
        timeout: float | None,
        thread_hub: Callable[[], ThreadHub],
        loop_hub: Callable[[], LoopHub],
    ) -> None:
        self._backend = backend
        self._id = task_id
        self._key = backend.records.key(task_id)
        self._timeout = timeout
        self._until: float | None = None
        self._thread_hub, self._loop_hub = thread_hub, loop_hub
        self._last = ""
        self._has_ended = False

    def __next__(self) -> Meta:
        if self._has_ended:
            raise StopIteration
        meta = self._look()
        if meta is not None:
            return meta
        with ThreadWait(self._thread_hub(), [self._key], self._end(), every_change=True) as wait:
            for values in wait:
                if (meta := self._news_in(values)) is not None:
                    return meta
        raise timed_out(self._backend, f"task {self._id}", self._timeout)

    async def __anext__(self) -> Meta:
        if self._has_ended:
            raise StopAsyncIteration
        meta = self._look()
        if meta is not None:
            return meta
        with LoopWait(self._loop_hub(), [self._key], self._end(), every_change=True) as wait:
            async for values in wait:
                if (meta := self._news_in(values)) is not None:
                    return meta
        raise timed_out(self._backend, f"task {self._id}", self._timeout)

    def close(self) -> None:
        """Yield nothing more."""
        self._has_ended = True

    def _end(self) -> float:
        if self._until is None:
            self._until = until(self._timeout)
        return self._until

    def _look(self) -> Meta | None:
        meta = self._backend.get_task_meta(self._id)
        return self._if_news(meta) if meta["status"] != states.PENDING else None

    def _news_in(self, values: Values) -> Meta | None:
        data = values.get(self._key)
        meta = None if data is None else known_meta(self._backend, self._id, data, None)
        return None if meta is None else self._if_news(meta)

    def _if_news(self, meta: Meta) -> Meta | None:
        last, self._last = self._last, repr(meta)  # exceptions are equal to themselves only
        self._has_ended = meta["status"] in states.READY_STATES
        return meta if last != self._last else None
