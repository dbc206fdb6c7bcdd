"""The asynchronous result consumer of Celery: results are waited for, not polled.

A wait has a listener of its own, so news wakes those threads (or greenlets) that it concerns and no others. One more
listener serves the results that nobody waits for but that have a callback (callbacks.py): whoever waits, for
whatever, looks after these too; under gevent and eventlet a greenlet does.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from celery import states
from celery.backends.asynchronous import AsyncBackendMixin, BaseResultConsumer
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import ResultSet, result_from_tuple
from kombu.utils.compat import detect_environment

from lmdbresults.integrations.celery.callbacks import Callbacks, may_end
from lmdbresults.integrations.celery.wait import INTERVAL, TimeIsUp, Wait, drainer_class, let_end
from lmdbresults.process.fork_gate import gate
from lmdbresults.record import TaskRecord
from lmdbresults.store.subscriptions import Hub, Listener

__all__ = ["ResultConsumer", "WaitingMixin"]

#: Records read in one transaction.
_BATCH: Final = 500


class WaitingMixin(AsyncBackendMixin):
    """What a backend with a `ResultConsumer` offers to results."""

    result_consumer: "ResultConsumer"

    def add_pending_result(self, result: Any, weak: bool | None = None, start_drainer: bool = True) -> Any:
        """Have a result told when its task has ended, even if nobody waits for it. Nothing is read or written here.

        ``then()`` says whether that is to be weak; ``get()``, which will wait, does not.
        """
        self.result_consumer.callbacks.add(result, weak)
        if start_drainer and weak is not None:
            self.result_consumer.drainer.start()
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Undo `add_pending_result`. It never waits: a result calls this when it is collected as garbage."""
        self.result_consumer.callbacks.discard(result)
        return result

    def iter_native(
        self,
        result: Any,
        timeout: float | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield the id and the meta of the members of a set as they end; for a group among them its id and members.

        A group is yielded once all that is in it has ended, so whoever joins it need not wait without a timeout.
        """
        self._ensure_not_eager()
        ended: deque[Any] = deque()
        waited: dict[int, list[Any]] = {}
        missing: dict[int, int] = {}
        for node in result.results:
            leaves = list(_leaves(node))
            missing[id(node)] = len(leaves)
            if not leaves:
                yield _outcome(node)
            for leaf in leaves:
                waited.setdefault(id(leaf), []).append(node)
        wait = self.result_consumer.wait_for_all(_leaves(result), on_message, ended.append)
        for _ in self.result_consumer.run(wait, timeout, on_interval):
            while ended:
                for node in waited.pop(id(ended.popleft()), ()):
                    missing[id(node)] -= 1
                    if not missing[id(node)]:
                        yield _outcome(node)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        """Return the meta of a task once it has ended. Raises Celery's ``TimeoutError``."""
        self._ensure_not_eager()
        result = self.app.AsyncResult(task_id, backend=self)
        for _ in self._wait_for_pending(result, timeout=timeout, on_interval=on_interval):
            pass
        meta: dict[str, Any] = result._cache
        return meta


class ResultConsumer(BaseResultConsumer):
    """Everything about waiting in one process."""

    def __init__(self, backend: Any, app: Any) -> None:
        self._start_anew()
        super().__init__(backend, app, backend.accept, backend._pending_results, backend._pending_messages)
        gate.watch_forks(self)

    def _start_anew(self) -> None:
        #: Guards the making of the hub and of the drainer, and who of several fulfils a result.
        self._lock = threading.RLock()
        self._drainer: Any = None
        #: Listeners whose wait has ended, to be closed where that is possible.
        self._left: deque[Listener] = deque()
        self.callbacks = Callbacks(self)

    # -- life ------------------------------------------------------------------------------------------------------

    _hub: Hub | None = None

    @property
    def hub(self) -> Hub:
        """Where the threads of this process wait; made for the first of them."""
        with self._lock:
            if self._hub is None:
                self._hub = Hub(self.backend.store)
            return self._hub

    @property
    def drainer(self) -> Any:
        """What Celery runs waits by; after a fork another one."""
        with self._lock:
            if self._drainer is None:
                self._drainer = drainer_class(detect_environment())(self)
            return self._drainer

    @drainer.setter
    def drainer(self, drainer: Any) -> None:
        """Celery's base class sets one, which knows less."""

    def before_fork(self) -> None:
        """Nothing to do: all that is noted stays the parent's."""

    def after_fork_in_child(self) -> None:
        """Forget what the parent waits for, and its greenlets."""
        former = self._drainer
        self._start_anew()
        let_end(former)  # a greenlet of gevent may live on in the child

    def on_after_fork(self) -> None:
        """Nothing to do: Celery tells of some forks only, the gate of all."""

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        """Nothing to do: all results are in the store, so none has to be caught before somebody waits."""

    def consume_from(self, task_id: str) -> None:
        """Nothing to do, see `start`."""

    def cancel_for(self, task_id: str) -> None:
        """Nothing to do: a wait takes its registrations back when it ends."""

    def stop(self) -> None:
        """Take back all registrations, and give up the socket. Waiting makes a new one."""
        with self._lock:
            hub, self._hub = self._hub, None
            drainer, self._drainer = self._drainer, None
        let_end(drainer)
        self.callbacks.stop()
        if hub is not None:
            hub.close()

    # -- waiting ---------------------------------------------------------------------------------------------------

    def _wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        on_interval: Callable[[], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[None]:
        self.callbacks.discard_asked(result)
        parents = [] if isinstance(result, ResultSet) else [node for node in result._parents() if may_end(node)]
        yield from self.run(self.wait_for_all(_leaves(result), on_message, parents=parents), timeout, on_interval)

    def wait_for_all(
        self,
        results: Iterable[Any],
        on_message: Callable[[dict[str, Any]], Any] | None,
        on_end: Callable[[Any], Any] = lambda result: None,
        parents: Iterable[Any] = (),
    ) -> Wait:
        """Return a wait for results; ``on_end(result)`` is called as each has ended.

        It also looks up when a parent has ended, so that ``on_interval`` may raise at once what has failed there.
        """
        return Wait(self, results, on_message, on_end, parents)

    def run(self, wait: "Wait", timeout: float | None, on_interval: Callable[[], Any] | None) -> Iterator[None]:
        """Go on with a wait, yielding every time that something may have happened, until it is ready."""
        self._close_left()
        try:
            wait.look_first()
            yield
            for _ in self.drainer.drain_events_until(wait, timeout=timeout, on_interval=on_interval):
                self.backend.chords.recover()  # also who only waits ends a chord whose last worker has died
                yield
        except TimeIsUp:
            self._leave(wait)
            self._close_left()
            raise CeleryTimeoutError("The operation timed out.") from None
        except GeneratorExit:  # perhaps in the midst of a garbage collection, where nothing can be written
            self._leave(wait)
            raise
        except BaseException:
            self._leave(wait)
            self._close_left()
            raise
        self._leave(wait)
        self._close_left()

    def _leave(self, wait: "Wait") -> None:
        if wait.listener is not None:
            self._left.append(wait.listener)

    def _close_left(self) -> None:
        with suppress(IndexError):  # of an empty deque
            while True:
                self._left.popleft().close()
        self.callbacks.tidy()

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for news of results that have been added, and tell them."""
        self._close_left()
        # With no time at all, nobody would read the mailbox.
        self.callbacks.wait(INTERVAL if timeout is None else max(timeout, 0.001))

    # -- telling results -------------------------------------------------------------------------------------------

    def metas(self, ids: Iterable[Any], wants: Callable[[Any, bytes, bool], bool]) -> Iterator[tuple[Any, Any, bool]]:
        """Yield id, meta and whether that is final, of those tasks whose record is wanted, by id, record, and that."""
        left, cache = list(ids), self.backend._cache
        while left:
            batch, left = left[:_BATCH], left[_BATCH:]
            records = self.backend.store.mget([self.backend.get_key_for_task(task_id) for task_id in batch])
            for task_id, data in zip(batch, records, strict=True):
                if data is None:
                    continue
                record = TaskRecord.unpack(data)
                is_final = record.state in states.READY_STATES
                if wants(task_id, data, is_final):
                    meta = self.backend.records.meta(task_id, record)
                    if record.state == states.SUCCESS:
                        cache[task_id] = meta
                    yield task_id, meta, is_final

    def fulfil(self, result: Any, meta: dict[str, Any]) -> None:
        """Give a result its final meta, once: of two threads that do so one calls back."""
        meta = self.backend.meta_from_decoded(dict(meta))
        if meta.get("children"):
            meta["children"] = [result_from_tuple(child, self.app) for child in meta["children"]]
        with self._lock:
            if result._cache is not None:
                return
            result._set_cache(meta)
        self.callbacks.discard(result)
        result.on_ready(result)


def _leaves(node: Any) -> Iterator[Any]:
    """Yield the results that are pending in a result, or in a group and the groups inside it."""
    if isinstance(node, ResultSet):
        for each in node.results:
            yield from _leaves(each)
    elif may_end(node):
        yield node


def _outcome(node: Any) -> tuple[Any, Any]:
    """Return what `iter_native` yields for a member of a set that has ended."""
    if isinstance(node, ResultSet):
        return node.id, node.children
    return node.id, node._cache or {"task_id": node.id, "status": states.PENDING, "result": None}  # it is ignored
