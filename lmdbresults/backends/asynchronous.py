"""Waiting for tasks in an event loop, over the core in store/following.py."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from lmdbresults import states
from lmdbresults.backends.pending import Pending, WaitingBackend, known_meta, timed_out, until
from lmdbresults.metas import id_text
from lmdbresults.protocols import Meta
from lmdbresults.store.loop_hub import LoopHub, LoopHubs, LoopWait

__all__ = ["AsyncWaiting"]


class AsyncWaiting:
    """Waiting in the running event loop. Coroutines of one loop share one subscription; see `LoopHub`."""

    def __init__(self, backend: WaitingBackend, chores: Callable[[], object]) -> None:
        self._backend = backend
        self._chores = chores
        self._hubs = LoopHubs()

    @property
    def hub(self) -> LoopHub:
        """The hub of the running loop."""
        return self._hubs.get(self._backend._source, self._chores)

    def close(self) -> None:
        """Make every wait raise `StoreClosed`, in whichever loop."""
        self._hubs.close()

    async def wait_for(self, task_id: Any, timeout: float | None = None) -> Meta:
        """Return the meta of a task once it has ended; a ``timeout`` of 0 looks once. Raises `ResultTimeout`."""
        end = until(timeout)
        meta = self._backend.get_task_meta(task_id)
        if meta["status"] in states.READY_STATES:
            return meta
        key, text = self._backend.records.key(task_id), id_text(task_id)
        with LoopWait(self.hub, [key], end) as wait:
            async for values in wait:
                data = values.get(key)
                if data is not None and (found := known_meta(self._backend, text, data, states.READY_STATES)):
                    return found
        raise timed_out(self._backend, f"task {text}", timeout)

    async def as_completed(
        self, task_ids: Iterable[Any], timeout: float | None = None
    ) -> AsyncIterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of tasks as they end, each once. Raises `ResultTimeout` after ``timeout`` seconds.

        A loop that is left by ``break`` goes on waiting until the event loop closes the generator;
        `contextlib.aclosing` closes it at once.
        """
        end = until(timeout)
        pending = Pending(self._backend, task_ids)
        for each in pending.take_first():
            yield each
        if not pending.ids:
            return
        with LoopWait(self.hub, list(pending.ids), end) as wait:
            async for values in wait:
                ended = pending.take(values)
                wait.drop(ended)
                for each in ended.values():
                    yield each
                if not pending.ids:
                    return
        raise timed_out(self._backend, pending.named(), timeout)
