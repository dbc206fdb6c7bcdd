"""The asynchronous result consumer of Celery: results are waited for, not polled.

Waiting is that of store/thread_hub.py, for threads and for the greenlets of gevent and eventlet.
"""

import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from typing import Any, Final

from celery import states
from celery.backends.asynchronous import AsyncBackendMixin, BaseResultConsumer, drainers
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import ResultSet, result_from_tuple
from celery.utils.log import get_logger
from kombu.utils.compat import detect_environment
from vine import barrier, promise

from lmdbresults.backends.pending import Pending
from lmdbresults.backends.waiting import Waiting
from lmdbresults.backends.watch import Watch
from lmdbresults.errors import StoreClosed
from lmdbresults.integrations.celery.callbacks import Callbacks, may_end
from lmdbresults.metas import id_text
from lmdbresults.process.fork_gate import gate
from lmdbresults.protocols import Meta, OnInterval, OnMessage
from lmdbresults.store import Store
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait

__all__ = ["ResultConsumer", "WaitingMixin"]

logger = get_logger(__name__)

#: Seconds after which a wait calls ``on_interval``; Celery's drainers do so as well.
INTERVAL: Final = 1.0


class WaitingMixin(AsyncBackendMixin):
    """What a backend with a `ResultConsumer` offers to results."""

    result_consumer: "ResultConsumer"
    store: Store

    @property
    def _source(self) -> Store:
        return self.store

    def add_pending_result(self, result: Any, weak: bool | None = None, start_drainer: bool = True) -> Any:
        """Note a result that may get a callback. Nothing is read or written here.

        ``then()`` says whether the result is to be held weakly. ``get()`` does not say, and waits itself.
        """
        if weak is not None:
            self.result_consumer.callbacks.add(result, weak)
            if start_drainer:
                self.result_consumer.drainer.start()
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Undo `add_pending_result`. It never blocks: a result calls this when it is collected as garbage."""
        self.result_consumer.callbacks.discard(result)
        return result

    def _restore_group(self, group_id: Any) -> dict[str, Any] | None:
        """Return the meta of a group that was saved. The group is noted in place of its members, which saves a third.

        The members of groups inside it are noted one by one.
        """
        saved = self.get(self.get_key_for_group(group_id))
        if not saved:
            return None
        meta: dict[str, Any] = self.decode(saved)
        (id_, parent), nodes = meta["result"]
        simple = self.app.AsyncResult  # of a task that follows none and is no group: nearly always
        members = [
            simple(node[0][0]) if node[1] is None and not node[0][1] else result_from_tuple(node, self.app)
            for node in nodes
        ]
        group = self.app.GroupResult(
            id_,
            members,
            parent=parent and result_from_tuple(parent, self.app),
            ready_barrier=barrier([member.on_ready for member in members]),  # the members themselves would note each
        )
        self.result_consumer.callbacks.add_group(group)
        self.result_consumer.drainer.start()
        return {**meta, "result": group}

    def iter_native(
        self,
        result: Any,
        timeout: float | None = None,
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield the id and the meta of the members of a set as they end; for a group among them its id and members.

        A group is yielded once all that is in it has ended, so joining it needs no timeout. If a task before the set
        in its chain fails, the set will not run: each member that is missing is yielded with that failure.
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
        before = _tasks_before(result)
        parents = [node.id for node in before]
        for _ in self.result_consumer.wait(_leaves(result), timeout, on_interval, on_message, ended.append, parents):
            while ended:
                for node in waited.pop(id(ended.popleft()), ()):
                    missing[id(node)] -= 1
                    if not missing[id(node)]:
                        yield _outcome(node)
            if (failure := _failure_of(before)) is not None:
                yield from ((node.id, failure) for node in result.results if missing[id(node)])
                return

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: OnInterval | None = None,
    ) -> dict[str, Any]:
        """Return the meta of a task once it has ended. Raises Celery's ``TimeoutError``."""
        self._ensure_not_eager()
        return self.result_consumer.waiting.wait_for(task_id, timeout, INTERVAL, on_interval)

    def get_many(
        self,
        task_ids: Iterable[Any],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
        max_iterations: int | None = None,
        READY_STATES: Collection[str] = states.READY_STATES,  # noqa: N803 - Celery's name
    ) -> Iterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of tasks as they become ready; see `Waiting.get_many`."""
        return self.result_consumer.waiting.get_many(
            task_ids, timeout, interval, on_message, on_interval, max_iterations, frozenset(READY_STATES)
        )

    async def wait_for_async(self, task_id: Any, timeout: float | None = None) -> Meta:
        """Return the meta of a task once it has ended; see `AsyncWaiting.wait_for`, and aio.py for results."""
        return await self.result_consumer.waiting.in_loop.wait_for(task_id, timeout)

    def as_completed(self, task_ids: Iterable[Any], timeout: float | None = None) -> AsyncIterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of tasks as they end; see `AsyncWaiting.as_completed`."""
        return self.result_consumer.waiting.in_loop.as_completed(task_ids, timeout)

    def watch(self, task_id: Any, timeout: float | None = None) -> Watch:
        """Return an iterator that yields the meta of a task whenever it has changed; see `Watch`."""
        return self.result_consumer.waiting.watch(task_id, timeout)


class ResultConsumer(BaseResultConsumer):
    """Everything about waiting in one process."""

    def __init__(self, backend: Any, app: Any) -> None:
        super().__init__(backend, app, backend.accept, backend._pending_results, backend._pending_messages)
        self._reset()
        self.waiting = Waiting(backend, self._do_chores)
        gate.watch_forks(self)

    def _reset(self) -> None:
        #: Guards the making of the drainer, and which of several threads fulfils a result.
        self._lock = threading.RLock()
        self._drainer: Any = None
        self.callbacks = Callbacks(self.backend, lambda: self.hub, self.fulfil)

    # -- life ------------------------------------------------------------------------------------------------------

    @property
    def hub(self) -> ThreadHub:
        """Where the threads of this process wait."""
        return self.waiting.hub

    @property
    def drainer(self) -> Any:
        """What calls the callbacks under gevent and eventlet; another one after a fork."""
        if self._drainer is not None:
            return self._drainer
        with self._lock:
            if self._drainer is None:
                self._drainer = _drainer_class(detect_environment())(self)
            return self._drainer

    @drainer.setter
    def drainer(self, drainer: Any) -> None:
        """Ignore the one that Celery's base class sets, which ends for good when a callback raises."""

    def after_fork_in_child(self) -> None:
        """Forget what the parent waits for, and its greenlets."""
        former = self._drainer
        self._reset()
        _let_end(former)  # a greenlet of gevent may live on in the child

    def on_after_fork(self) -> None:
        """Nothing to do: Celery reports some forks only, the gate all."""

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        """Nothing to do: all results are in the store."""

    def consume_from(self, task_id: str) -> None:
        """Nothing to do, see `start`."""

    def cancel_for(self, task_id: str) -> None:
        """Nothing to do: a wait follows its tasks only as long as it lasts."""

    def stop(self) -> None:
        """End all waiting, and close the socket. The next wait makes another one."""
        with self._lock:
            drainer, self._drainer = self._drainer, None
        _let_end(drainer)
        self.callbacks.stop()
        self.waiting.close()

    # -- waiting ---------------------------------------------------------------------------------------------------

    def _wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        on_interval: OnInterval | None = None,
        on_message: OnMessage | None = None,
        **kwargs: Any,
    ) -> Iterator[None]:
        parents = () if isinstance(result, ResultSet) else [node.id for node in result._parents() if may_end(node)]
        return self.wait(_leaves(result), timeout, on_interval, on_message, parents=parents)

    def wait(
        self,
        results: Iterable[Any],
        timeout: float | None = None,
        on_interval: OnInterval | None = None,
        on_message: OnMessage | None = None,
        on_end: Callable[[Any], object] | None = None,
        parents: Collection[Any] = (),
    ) -> Iterator[None]:
        """Wait for results, and yield each time that something may have happened. Raises Celery's ``TimeoutError``.

        ``on_end(result)`` is called as each has ended. The end of one of the tasks ``parents`` counts as something too,
        so that ``on_interval`` may raise at once what has failed there. For the same reason it is called after a
        failure: that of the body of a chord is only a `ChordError`.
        """
        on_interval = _without_promise(on_interval)
        until = math.inf if timeout is None else time.monotonic() + timeout
        waiting: dict[str, list[Any]] = {}
        for result in results:
            waiting.setdefault(id_text(result.id), []).append(result)
        pending = Pending(self.backend, waiting, on_message=on_message)
        self._fulfil_all(pending.take_first(report_cached=True), waiting, on_end, on_interval)
        yield
        if not pending.ids:
            return
        keys = [*pending.ids, *map(self.backend.records.key, parents)]
        every_change = on_message is not None
        with ThreadWait(
            self.waiting.hub, keys, until, every_change=every_change, interval=INTERVAL, on_interval=on_interval
        ) as wait:
            for values in wait:
                if ended := pending.take(values):
                    wait.drop(ended)
                    self._fulfil_all(ended.values(), waiting, on_end, on_interval)
                yield
                if not pending.ids:
                    return
        raise CeleryTimeoutError("The operation timed out.")

    def _fulfil_all(
        self,
        ended: Iterable[tuple[str, dict[str, Any]]],
        waiting: dict[str, list[Any]],
        on_end: Callable[[Any], object] | None,
        on_interval: OnInterval | None,
    ) -> None:
        """Give results their final metas; call ``on_interval`` if one of them is a failure."""
        has_failed = False
        for task_id, meta in ended:
            has_failed |= meta["status"] in states.PROPAGATE_STATES
            for result in waiting.pop(task_id):
                self.fulfil(result, meta)
                if on_end is not None:
                    on_end(result)
        if has_failed and on_interval is not None:
            on_interval()

    def fulfil(self, result: Any, meta: dict[str, Any]) -> None:
        """Give a result its final meta, once: of two threads that do so one calls back."""
        meta = dict(meta)
        if meta.get("children"):
            meta["children"] = [result_from_tuple(child, self.app) for child in meta["children"]]
        with self._lock:
            if result._cache is not None:
                return
            result._set_cache(meta)
        result.on_ready(result)

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for results that have callbacks, and call these."""
        seconds = INTERVAL if timeout is None else max(timeout, 0.001)  # with no time at all, nothing would be read
        self.hub.wait(ThreadWait(self.hub, ()), time.monotonic() + seconds)
        self.callbacks.run()

    def _do_chores(self) -> None:
        self.callbacks.run()
        self.backend.chords.recover()  # a chord whose last worker has died is ended by any process that waits


def _without_promise(on_interval: OnInterval | None) -> OnInterval | None:
    """Return None for a promise that calls nothing, which Celery always passes: a thread need not wake up for that."""
    if isinstance(on_interval, promise) and on_interval.fun is None and on_interval.listeners == [None]:
        return None
    return on_interval


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


def _tasks_before(result: Any) -> list[Any]:
    """Return the tasks before a set in its chain, the first one first."""
    found: list[Any] = []
    node = getattr(result, "parent", None)
    while node is not None:
        if not isinstance(node, ResultSet) and not node.ignored:
            found.insert(0, node)
        node = node.parent
    return found


def _failure_of(tasks: list[Any]) -> Meta | None:
    """Return the meta of the first task that has failed, if one has. Forget those that have succeeded."""
    for node in list(tasks):
        meta: Meta = node._get_task_meta()
        if meta["status"] in states.PROPAGATE_STATES:
            return meta
        if meta["status"] in states.READY_STATES:
            tasks.remove(node)
    return None


# -- greenlets -----------------------------------------------------------------------------------------------------


def _drainer_class(environment: str) -> Any:
    kind = drainers[environment]
    return kind if environment == "default" else type("Drainer", (kind,), {"run": _run})


def _run(drainer: Any) -> None:
    """What the greenlet of a drainer does: Celery's would end for good when a callback raises."""
    drainer._started.set()
    while not drainer._stopped.is_set():
        try:
            drainer.result_consumer.drain_events(timeout=INTERVAL)
        except StoreClosed:
            break
        except Exception:  # of a callback of the user's, or a damaged result: the other waiters go on
            logger.exception("A callback of a result has failed, or its result could not be read.")
            time.sleep(INTERVAL)
    drainer._shutdown.set()


def _let_end(drainer: Any) -> None:
    if hasattr(drainer, "_stopped"):
        drainer._stopped.set()
