"""Writes the end of a task as one commit, if its message comes from the file that keeps its result.

What Celery publishes at the end of a task is held back until the result is stored: links and the next step of its chain
(Celery marks them since 5.7), errbacks, and under ``acks_late`` the message of `retry` or `replace`. It is then written
with the result, the part of a chord and, under ``acks_late``, the acknowledgement. If the message of the task was given
to another worker meanwhile, nothing is written. What a task publishes in its body is published at once.

| | written in one commit with the result | published before it |
|---|---|---|
| Celery 5.7 and newer | links, the next step of a chain, bodies of chords, errbacks, `retry`, `replace` | |
| Celery 5.3 to 5.6 | bodies of chords, errbacks, `retry`, `replace` | links, the next step of a chain |
"""

import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import signals, states
from celery._state import _task_stack
from celery.exceptions import Reject
from celery.utils.functional import arity_greater
from celery.utils.log import get_logger

from lmdbresults.errors import StoreBusy
from lmdbresults.integrations.celery.effects import Effects, Guard, noting
from lmdbresults.integrations.kombu import identity_of, is_outstanding, outbox, settled
from lmdbresults.record import TaskRecord
from lmdbresults.store import LMDBStore, Store
from lmdbresults.store.queues import ACKNOWLEDGE, REJECT, REQUEUE, Message, Settlement
from lmdbresults.store.transactions import ReadTransaction

try:
    from celery.app.amqp import _callback_publish_retry as _publishes_callback
except ImportError:  # before Celery 5.7
    _publishes_callback = ContextVar("publishes_callback", default=False)

__all__ = ["EndsMixin"]

logger = get_logger(__name__)

Outcome: TypeAlias = Literal["success", "failure", "retry"]
#: Failures that the worker stores, because the process of the task was lost or killed, or has rejected the message.
_LOST: Final = (WorkerLostError, TimeLimitExceeded, Reject)
#: Seconds for which a process rests whose task could not be ended: in a full store, the task would run again at once,
#: and again.
_PAUSE: Final = 1.0


class TaskEnd:
    """The end of the task that runs in this thread."""

    def __init__(self, task: Any, request: Any) -> None:
        self._task = task
        self._request = weakref.ref(request)
        #: The tag of the delivery, if it is settled at the end.
        self.tag: str | None = request.properties["delivery_tag"] if task.acks_late else None
        #: Messages that are sent if the task succeeds.
        self.callbacks: list[Message] = []
        #: Messages by which the task goes on, of `retry` and `replace`.
        self.successors: list[Message] = []
        self.is_over = False

    def is_of(self, request: Any) -> bool:
        """Return whether this is the end of the task with a request."""
        return self._request() is request

    def is_plain(self) -> bool:
        """Return whether there is nothing to write but a result, as far as is known."""
        return self.tag is None and not self.callbacks and not self.is_over

    def box(self, headers: Any) -> "_Box | None":
        """Return where to hold back a message with these headers; None: it is published at once."""
        request: Any = self._request()  # runs
        if _publishes_callback.get():
            return _Box(self.callbacks)
        if self.tag is not None and (
            headers.get("id") == request.id
            or (headers.get("replaced_task_nesting") or 0) > (request.replaced_task_nesting or 0)
        ):
            _watch_postrun()
            return _Box(self.successors)
        return None

    def effects(self, outcome: Outcome) -> Effects:
        """Return effects that settle the message as the worker would, and publish what was held back."""
        messages = [*self.callbacks, *self.successors] if outcome == "success" else self.successors
        effects: Effects = self._task.backend.new_effects(
            settlement=self.settlement(outcome), messages=messages, holds_messages=True
        )
        return effects

    def settlement(self, outcome: Outcome) -> Settlement | None:
        if self.tag is None:
            return None
        return (ACKNOWLEDGE if outcome != "failure" or _acks_on(self._task, "failure") else REJECT), self.tag

    def commit(self, effects: Effects) -> None:
        """Write the effects. If that fails, the message goes back to its queue: it must not be lost with them."""
        self.is_over = True
        try:
            effects.commit()
        except Exception:
            if self.tag is None:
                self.is_over = effects.is_written
            elif not effects.is_written:
                logger.exception("The end of a task cannot be written: its message goes back to its queue.")
                self._give_back(self.tag)
                time.sleep(_PAUSE)
            raise
        finally:
            if self.tag is not None:
                settled(self.tag)

    def _give_back(self, tag: str) -> None:
        """Return the message to its queue, however long the store is busy: else the worker acknowledges it."""
        while True:
            try:
                self._task.backend.store.queues.requeue(tag)
                break
            except StoreBusy:
                time.sleep(_PAUSE)


class _Box:
    """Holds messages back. See `lmdbresults.integrations.kombu.outbox`."""

    def __init__(self, messages: list[Message]) -> None:
        self.add = messages.append


#: The end of the task that runs in this context, or that ran last.
_end: Final[ContextVar[TaskEnd | None]] = ContextVar("task_end", default=None)


def end_of(request: Any) -> TaskEnd | None:
    """Return the end of the running task, if its message came from the file of its results."""
    properties = getattr(request, "properties", None)
    if not properties or "lmdb" not in properties:
        return None
    end = _end.get()
    if end is not None and end.is_of(request):
        return end
    task = _task_stack.top
    if task is None or task.request_stack.top is not request:
        return None
    if properties["lmdb"] != getattr(task.backend, "identity", None):
        return None
    end = TaskEnd(task, request)
    _end.set(end)
    return end


def find_box(store: LMDBStore, message: dict[str, Any]) -> outbox.Outbox | None:
    """Return where to hold back a message that is published now, or None."""
    effects = noting()
    if effects is not None:
        return effects if _same_queues(effects.backend, store) else None
    task = _task_stack.top
    request = None if task is None else task.request_stack.top
    end = None if request is None else end_of(request)
    if end is None or end.is_over or not _same_queues(task.backend, store):
        return None
    return end.box(message["headers"])


outbox.find = find_box


class EndsMixin:
    """The ends of tasks. Mixed in before Celery's own class."""

    app: Any
    store: Store
    new_effects: Callable[..., Effects]
    get_key_for_task: Callable[..., bytes]
    #: Of the queues in the file of the results; see `lmdbresults.integrations.kombu.identity_of`.
    identity: str

    def mark_as_done(
        self, task_id: Any, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> Any:
        mark = super().mark_as_done  # type: ignore[misc]
        return self._ended(request, "success", lambda: mark(task_id, result, request, store_result, state))

    def mark_as_failure(
        self,
        task_id: Any,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> Any:
        mark = super().mark_as_failure  # type: ignore[misc]
        return self._ended(
            request,
            "failure",
            lambda: mark(task_id, exc, traceback, request, store_result, call_errbacks, state),
            lost_by=exc if isinstance(exc, _LOST) else None,
        )

    def mark_as_revoked(
        self,
        task_id: Any,
        reason: Any = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> Any:
        mark = super().mark_as_revoked  # type: ignore[misc]
        return self._ended(request, "failure", lambda: mark(task_id, reason, request, store_result, state))

    def mark_as_retry(
        self,
        task_id: Any,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        mark = super().mark_as_retry  # type: ignore[misc]
        return self._ended(request, "retry", lambda: mark(task_id, exc, traceback, request, store_result, state))

    def _ended(
        self, request: Any, outcome: Outcome, mark: Callable[[], Any], *, lost_by: BaseException | None = None
    ) -> Any:
        """Call ``mark``, which marks a task as ended, and write its effects in one transaction."""
        end = end_of(request) if request else None
        is_plain = lost_by is None and (end is None or end.is_plain()) and not _has_more_effects(request, outcome)
        if is_plain or noting(self) is not None:  # there is only a result, or this is a part of another end
            return mark()
        if end is None:
            effects = self.new_effects() if lost_by is None else _effects_of_lost(self, request, lost_by)
            commit = effects.commit
        elif end.is_over:
            return None
        else:
            effects = end.effects(outcome)
            commit = partial(end.commit, effects)
        try:
            with effects:
                returned = mark()
        except BaseException:
            if effects.results or effects.parts:  # they count, although something after them has failed
                commit()
            raise
        if effects:
            commit()
        return returned

    def _call_task_errbacks(self, request: Any, exc: BaseException, traceback: Any) -> None:
        """Call the errbacks. Those that run before the end is written can read the result of the failed task."""
        effects = noting(self)
        if (
            effects is None
            or (effects.holds_messages and not _is_one_called_here(request.errbacks, self.app))
            or effects.write_results()
        ):
            super()._call_task_errbacks(request, exc, traceback)  # type: ignore[misc]


def _has_more_effects(request: Any, outcome: Outcome) -> Any:
    """Return whether the end of a task may do more than store a result."""
    if not request or request.chord:
        return request
    return outcome == "failure" and (request.errbacks or getattr(request, "chain", None))


def _is_one_called_here(errbacks: Any, app: Any) -> bool:
    """Return whether Celery calls one of the errbacks here, as one with several arguments, instead of sending it."""
    tasks = (app.tasks.get(app.signature(errback).task) for errback in errbacks)
    headers = (getattr(task, "__header__", None) for task in tasks)
    return any(header and not isinstance(header, partial) and arity_greater(header, 1) for header in headers)


def _effects_of_lost(backend: "EndsMixin", request: Any, exc: BaseException) -> Effects:
    """Return the effects of a task that ends in the worker. They happen unless the task has ended in its process.

    The worker settles the message, too. It may have said so already, but not committed it yet.
    """
    properties, task = getattr(request, "properties", None) or {}, backend.app.tasks.get(request.task)
    if getattr(task, "acks_late", False) and properties.get("lmdb") == backend.identity:
        tag = properties["delivery_tag"]
        settlement = _settlement_of_lost(task, exc, tag) if is_outstanding(tag) else None
        if settlement is not None:
            return backend.new_effects(settlement=settlement, holds_messages=True)
    return backend.new_effects(guard=_unless_ended(backend.get_key_for_task(request.id)))


def _unless_ended(key: bytes) -> Guard:
    def guard(txn: ReadTransaction) -> bool:
        record = txn.get(key)
        return record is None or TaskRecord.unpack(record).state not in states.READY_STATES

    return guard


def _settlement_of_lost(task: Any, exc: BaseException, tag: str) -> Settlement | None:
    """Return how the worker settles the message of a task that it stores as a failure; None: versions differ."""
    if isinstance(exc, Reject):
        return REJECT, tag
    if isinstance(exc, TimeLimitExceeded):
        return (ACKNOWLEDGE, tag) if _acks_on(task, "timeout") else None
    return (ACKNOWLEDGE if _acks_on(task, "failure") else REJECT), tag


def _same_queues(backend: Any, store: LMDBStore) -> bool:
    """Return whether a message to a store lies in the file of a backend, where the backend can write it."""
    if not isinstance(backend.store, LMDBStore):
        return False
    ours, other = backend.store.options, store.options
    if (ours.path, ours.global_keyprefix) == (other.path, other.global_keyprefix):
        return True
    return bool(backend.identity == identity_of(store))


def _acks_on(task: Any, event: Literal["failure", "timeout"]) -> bool:
    acks = getattr(task, f"acks_on_{event}", None)  # since Celery 5.7
    return bool(task.acks_on_failure_or_timeout if acks is None else acks)


# -- tasks that end without a result: Ignore, Reject, retry() of a task whose result is ignored ------------------------


def _watch_postrun() -> None:
    """Look at the ends of all tasks from now on. Few programs need this, and the others do not pay for it."""
    signals.task_postrun.connect(_on_postrun, dispatch_uid=__name__)


def _on_postrun(sender: Any, retval: Any, state: str | None, **kwargs: Any) -> None:
    end = _end.get()
    if end is None or end.is_over or not end.successors or not end.is_of(sender.request_stack.top):
        return
    settlement = None if end.tag is None else _settlement(state, retval, end.tag)
    with suppress(Exception):  # it was logged, and the message went back to its queue
        end.commit(sender.backend.new_effects(settlement=settlement, messages=end.successors))


def _settlement(state: str | None, retval: Any, tag: str) -> Settlement | None:
    """Return how the worker will settle the message of a task."""
    if state == states.REJECTED:
        return (REQUEUE if retval.requeue else REJECT), tag
    return (ACKNOWLEDGE, tag) if state in (states.IGNORED, states.RETRY) else None
