"""Exceptions in a form that every serializer can write: the name of the class and the arguments. And back."""

import inspect
import pickle
import sys
from collections.abc import Mapping
from typing import Any

from lmdbresults.errors import DecodeError, EncodeError, SecurityError, TaskError, described, text_of
from lmdbresults.serialization import dumps

__all__ = ["exception_from_portable", "exception_to_picklable", "exception_to_portable"]


def exception_to_portable(error: BaseException, serializer: str = "json") -> dict[str, Any]:
    """Return ``{exc_type, exc_message, exc_module}``. An argument that the serializer cannot write becomes its repr."""
    kind = type(error)
    return {
        "exc_type": kind.__qualname__,
        "exc_message": [
            argument if _can_encode(argument, serializer) else described(argument) for argument in error.args
        ],
        "exc_module": kind.__module__,
    }


def exception_from_portable(portable: Mapping[str, Any]) -> BaseException:
    """Return an instance of the class that is named, if it is imported and an exception; else of a `TaskError`.

    Nothing is ever imported or called because a stored name says so (CVE-2021-23727). Raises `SecurityError` if the
    name belongs to something else than an exception class, `DecodeError` if ``portable`` describes no exception.
    """
    try:
        name, module, message = str(portable["exc_type"]), portable.get("exc_module"), portable.get("exc_message", "")
    except (TypeError, KeyError, AttributeError) as error:
        raise DecodeError(f"A stored exception must be a mapping with exc_type, got {portable!r}") from error
    kind = _imported_class(name, str(module)) if module else None
    if kind is None:
        kind = _made_up_class(name.rpartition(".")[2], str(module or TaskError.__module__))
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise SecurityError(f"The stored exception names {module}.{name}, which is not an exception class.")
    arguments = message if isinstance(message, list | tuple) else (message,)
    try:
        return kind(*arguments)
    except Exception:  # a class may take other arguments than it keeps in .args
        return TaskError(f"{module}.{name}: {', '.join(map(str, arguments))}")


def exception_to_picklable(error: BaseException) -> BaseException:
    """Return the exception itself if it survives pickling, else a `TaskError` with its name and its text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # whatever a class's own hooks raise
        return TaskError(f"{type(error).__module__}.{type(error).__qualname__}: {text_of(error)}")
    return error


def _can_encode(value: Any, serializer: str) -> bool:
    try:
        dumps(value, serializer)
    except EncodeError:
        return False
    return True


def _made_up_class(name: str, module: str) -> type[TaskError]:
    return type(name, (TaskError,), {"__module__": module}) if name.isidentifier() else TaskError


def _imported_class(qualified_name: str, module: str) -> Any:
    found: Any = sys.modules.get(module)
    for name in qualified_name.split("."):
        found = inspect.getattr_static(found, name, None)  # runs no __getattr__, which may import and do anything
    return found
