"""Errbacks: what is called, or dispatched, when a task has failed."""

import inspect
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from lmdbresults.app import Signature

__all__ = ["Errbacks"]

logger = logging.getLogger(__name__)


class Errbacks:
    """Calls the errbacks of tasks of one app."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def call(self, request: Any, exc: BaseException, traceback: str | None) -> list[Exception]:
        """Call here what takes ``(request, exc, traceback)``; dispatch the rest as a group, with the failed id.

        Returns the exceptions of those that failed. They are logged, and the others are called nevertheless.
        """
        group_id, raised = str(uuid.uuid4()), []
        for index, errback in enumerate(request.errbacks):
            error = self._call(errback, request, exc, traceback, group_id=group_id, group_index=index)
            if error is not None:
                raised.append(error)
        return raised

    def _call(
        self, errback: Mapping[str, Any], request: Any, exc: BaseException, traceback: str | None, **group: Any
    ) -> Exception | None:
        try:
            signature = self._app.signature(errback)
            task = self._app.tasks.get(signature.task)
            if task is not None and _takes_more_than_one(task.run, signature):
                task.run(request, exc, traceback, *signature.args, **signature.kwargs)
            else:
                signature.freeze(parent_id=request.id, root_id=request.root_id or request.id, **group)
                self._app.dispatch(signature, (request.id,))
        except Exception as error:  # returned, not kept: a local variable would be a cycle with the traceback's frame
            logger.exception("The errback %r of task %s failed.", errback.get("task"), request.id)
            return error
        return None


def _takes_more_than_one(run: Callable[..., Any], errback: Signature) -> bool:
    """Return whether an errback takes more than the id of the task, besides its own arguments."""
    if errback.get("immutable"):
        return False
    return any(_can_be_called(run, (*[None] * count, *errback.args), errback.kwargs) for count in (2, 3))


def _can_be_called(run: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(run).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True
