"""Waiting for tasks in a thread: the names of `BaseBackend` that wait, over the core in store/following.py."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lmdbresults import states
from lmdbresults.backends.asynchronous import AsyncWaiting
from lmdbresults.backends.pending import Pending, WaitingBackend, known_meta, timed_out, until
from lmdbresults.backends.watch import Watch
from lmdbresults.metas import id_text
from lmdbresults.protocols import Meta, OnInterval, OnMessage
from lmdbresults.store.base import Subscription
from lmdbresults.store.following import Source
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait

__all__ = ["Polled", "Waiting"]


class Waiting:
    """Waiting in the present thread. Threads of one process share one subscription; see `ThreadHub`."""

    def __init__(self, backend: WaitingBackend, chores: Callable[[], object]) -> None:
        self._backend = backend
        self._chores = chores
        self._hubs: dict[Source, ThreadHub] = {}
        #: The same for coroutines.
        self.in_loop = AsyncWaiting(backend, chores)

    @property
    def hub(self) -> ThreadHub:
        """The hub of the backend's present store, made when a thread waits for the first time."""
        source = self._backend._source
        # setdefault() is atomic: threads that come at the same time get the same hub.
        return self._hubs.get(source) or self._hubs.setdefault(source, ThreadHub(source, self._chores))

    def close(self) -> None:
        """Make every wait raise `StoreClosed`."""
        self.in_loop.close()
        while self._hubs:
            _, hub = self._hubs.popitem()
            hub.close()

    def wait_for(
        self, task_id: Any, timeout: float | None = None, interval: float = 0.5, on_interval: OnInterval | None = None
    ) -> Meta:
        """Return the meta of a task once it has ended; a ``timeout`` of 0 looks once. Raises `ResultTimeout`."""
        end = until(timeout)
        meta = self._backend.get_task_meta(task_id)
        if meta["status"] in states.READY_STATES:
            return meta
        key, text = self._backend.records.key(task_id), id_text(task_id)
        pause = math.inf if on_interval is None else interval
        with ThreadWait(self.hub, [key], end, interval=pause, on_interval=on_interval) as wait:
            for values in wait:
                data = values.get(key)
                if data is not None and (found := known_meta(self._backend, text, data, states.READY_STATES)):
                    return found
        raise timed_out(self._backend, f"task {text}", timeout)

    def get_many(
        self,
        task_ids: Iterable[Any],
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
        max_iterations: int | None = None,
        ready_states: frozenset[str] = states.READY_STATES,
    ) -> Iterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of tasks as they become ready, each once, those in the cache first.

        ``on_message(meta)`` is called for each of them, and for states on the way, such as one's own of progress; the
        last one counts if several come at once. Ends after ``max_iterations`` looks, if given. Raises `ResultTimeout`
        after ``timeout`` seconds.
        """
        end = until(timeout)
        pending = Pending(self._backend, task_ids, ready_states, on_message)
        yield from pending.take_first()
        if not pending.ids or max_iterations == 1:
            return
        looks = 0
        every_change = on_message is not None or not ready_states <= states.READY_STATES
        pause = interval if on_interval is not None or max_iterations is not None else math.inf
        with ThreadWait(
            self.hub, list(pending.ids), end, every_change=every_change, interval=pause, on_interval=on_interval
        ) as wait:
            for values in wait:
                ended = pending.take(values)
                wait.drop(ended)
                yield from ended.values()
                looks += 1
                if not pending.ids or looks == max_iterations:
                    return
        raise timed_out(self._backend, pending.named(), timeout)

    def watch(self, task_id: Any, timeout: float | None = None) -> Watch:
        """Return an iterator that yields the meta of a task whenever it has changed; see `Watch`."""
        return Watch(self._backend, id_text(task_id), timeout, lambda: self.hub, lambda: self.in_loop.hub)


class Polled:
    """The records of a backend without a store: no message ever arrives, so a hub looks again and again."""

    def __init__(self, mget: Callable[[list[bytes]], Sequence[bytes | None] | Mapping[bytes, bytes | None]]) -> None:
        self._mget = mget

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """Return the values of keys, in their order."""
        wanted = list(keys)
        values = self._mget(wanted)
        return [values.get(key) for key in wanted] if isinstance(values, Mapping) else list(values)

    def moment(self) -> None:
        """Return None: whether something has changed is not known."""

    def subscribe(self) -> Subscription:
        """Return a subscription that receives nothing."""
        return _Unheard(self)


class _Unheard(Subscription):
    def __init__(self, source: Polled) -> None:
        self._store = source

    def add(self, keys: Iterable[bytes], *, every_change: bool = False) -> dict[bytes, bytes | None]:
        wanted = list(keys)
        return dict(zip(wanted, self._store.mget(wanted), strict=True))

    def remove(self, keys: Iterable[bytes]) -> None:
        """Nothing was subscribed to."""

    def receive(self, timeout: float) -> Mapping[bytes, bytes | None]:
        return {}

    def fileno(self) -> int:
        return -1

    def ring(self) -> None:
        """Nothing waits for a message."""

    def close(self) -> None:
        """Nothing is held."""
