"""Metas of tasks: the value or the failure in a meta, and ids as text."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from lmdbresults import states
from lmdbresults.errors import TaskError, described

__all__ = ["Callback", "id_text", "settle"]

Callback: TypeAlias = Callable[[str, Any], Any]


def id_text(task_id: object) -> str:
    """Return an id as text: bytes as UTF-8, anything else, such as a UUID or a number, by `str`."""
    if type(task_id) is str:
        return task_id
    return task_id.decode() if isinstance(task_id, bytes) else str(task_id)


def settle(task_id: str, meta: Mapping[str, Any], propagate: bool = True, callback: Callback | None = None) -> Any:
    """Return the result in a meta, and call ``callback(id, result)``; or raise a failure that is to ``propagate``.

    A failure that is not an Exception, such as a SystemExit of the task, is raised as a `TaskError`: it must not end
    the process that reads it.
    """
    result = meta.get("result")
    if propagate and meta["status"] in states.PROPAGATE_STATES:
        if isinstance(result, Exception):
            raise result
        if isinstance(result, BaseException):
            raise TaskError(f"Task {task_id} raised {described(result)}") from result
        raise TaskError(f"Task {task_id} failed without an exception.")
    if callback is not None:
        callback(task_id, result)
    return result
