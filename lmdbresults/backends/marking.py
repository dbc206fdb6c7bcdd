"""The ends of a task: marking it as started, done, failed, revoked; calling its errbacks."""

import inspect
import logging
import sys
import traceback as traceback_module
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from lmdbresults import states
from lmdbresults.app import Request, Signature
from lmdbresults.errors import ChordError, TaskRevokedError

__all__ = ["Endings"]

logger = logging.getLogger(__name__)


class Endings:
    """What a worker calls when a task begins or ends. Mixed into a backend, which stores and knows the app."""

    app: Any
    store_result: Callable[..., Any]
    on_chord_part_return: Callable[..., Any]

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """Store STARTED, with ``meta`` as the result."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> None:
        """Store a result, unless told not to or the request ignores it, and return the task's part to its chord."""
        stores = store_result and not getattr(request, "ignore_result", False)
        self._end(task_id, result, state, None, request, stores)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Store a failure, return the task's part to its chord, and call the errbacks of the request."""
        self._end(task_id, exc, state, traceback, request, store_result)
        if call_errbacks and request is not None and request.errbacks:
            self._call_errbacks(request, exc, traceback)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Store a `TaskRevokedError` and return the task's part to its chord."""
        self._end(task_id, TaskRevokedError(reason), state, None, request, store_result)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """Store the exception because of which the task is tried again."""
        return self.store_result(task_id, exc, state, traceback=traceback, request=request) if store_result else None

    def _end(
        self, task_id: str, result: Any, state: str, traceback: str | None, request: Any, store_result: bool
    ) -> None:
        """Store a result that is to be stored, and return the part of a task that is one."""
        if store_result:
            self.store_result(task_id, result, state, traceback=traceback, request=request)
        self._return_part(request, state, result)

    def _return_part(self, request: Any, state: str, result: Any) -> None:
        if request is not None and request.chord:
            self.on_chord_part_return(request, state, result)

    def fail_from_current_stack(self, task_id: str, exc: BaseException | None = None) -> str:
        """Mark a task as failed with the traceback of the exception in flight; return that as text."""
        error = sys.exc_info()[1] if exc is None else exc
        if error is None:
            raise RuntimeError("fail_from_current_stack() needs an exception: give it one, or call it in an except.")
        text = "".join(traceback_module.format_exception(error))  # text, so that no frame is kept alive
        self.mark_as_failure(task_id, error, text)
        return text

    # -- errbacks --------------------------------------------------------------------------------------------------

    def _call_errbacks(self, request: Any, exc: BaseException, traceback: str | None) -> list[Exception]:
        """Call what takes ``(request, exc, traceback)`` here; dispatch the rest as a group, with the failed id.

        Returns what they raised, which stops none of the others.
        """
        group_id, raised = str(uuid.uuid4()), []
        for index, errback in enumerate(request.errbacks):
            error = self._call_errback(errback, request, exc, traceback, group_id=group_id, group_index=index)
            if error is not None:
                raised.append(error)
        return raised

    def _call_errback(
        self, errback: Mapping[str, Any], request: Any, exc: BaseException, traceback: str | None, **group: Any
    ) -> Exception | None:
        try:
            signature = self.app.signature(errback)
            task = self.app.tasks.get(signature.task)
            if task is not None and _takes_more_than_one(task.run, signature):
                task.run(request, exc, traceback, *signature.args, **signature.kwargs)
            else:
                signature.freeze(parent_id=request.id, root_id=request.root_id or request.id, **group)
                self.app.dispatch(signature, (request.id,))
        except Exception as error:  # returned, not kept: a name for it here would keep its frames, and itself, alive
            logger.exception("The errback %r of task %s raised an exception.", errback.get("task"), request.id)
            return error
        return None

    def chord_error_from_stack(self, callback: Mapping[str, Any], exc: BaseException | None = None) -> None:
        """Let the body of a chord fail: call its errbacks, and mark it as failed on the backend of its task.

        An errback that raises becomes the failure, so that somebody sees it.
        """
        request = Request.of(self.app.signature(callback))
        failure = sys.exc_info()[1] if exc is None else exc
        if failure is None:
            failure = ChordError("The chord failed.")
        raised = self._call_errbacks(request, failure, None)
        backend = getattr(self.app.tasks.get(request.task), "backend", None) or self
        backend.fail_from_current_stack(request.id, raised[0] if raised else failure)


def _takes_more_than_one(run: Callable[..., Any], errback: Signature) -> bool:
    """Return whether an errback has room for more than the id of the task, beside the arguments that it brings."""
    if errback.get("immutable"):  # it wants no arguments but its own
        return False
    return any(_can_be_called(run, (*[None] * count, *errback.args), errback.kwargs) for count in (2, 3))


def _can_be_called(run: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(run).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True
