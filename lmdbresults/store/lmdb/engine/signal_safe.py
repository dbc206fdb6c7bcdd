"""Context managers that an exception out of a signal handler finds entered or not, left or not, never in between.

Python runs signal handlers when a function written in Python begins, and after calls. `contextlib.contextmanager`
consists of such functions: an exception that a handler raises in one of them (Celery's soft time limit, Ctrl-C) loses
the generator, and the locks that it holds stay locked for as long as the traceback lives. Here only C stands between
a ``with`` statement and the generator, so that the exception is raised inside the generator, which cleans up.
"""

from collections.abc import Callable, Generator
from functools import partial
from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

__all__ = ["Block", "SpecialMethod", "Steps", "lend"]

Lent = TypeVar("Lent")
Result = TypeVar("Result")

#: A generator that lends something by `lend`, cleans up, and yields 0 at last.
Steps: TypeAlias = Generator[Any, Any, Result]


class SpecialMethod(property):
    """A special method that the instance holds. `ExitStack` calls it on the class, which is less safe."""

    def __call__(self, block: "Block[Any]", *args: Any) -> Any:
        return self.__get__(block)(*args)


class Block(Generic[Lent]):
    """The context manager of a generator, as by `contextlib.contextmanager`, but written in C from end to end.

    `max` serves as a loop in C: ``max(None, type, exception, traceback, key=send)`` sends the generator each of the
    four, and returns None, whose key is the largest, so that the exception goes on.
    """

    __slots__ = ("_begin", "_end")

    def __init__(self, steps: Steps[None]) -> None:
        self._begin: Callable[[], Lent] = steps.__next__
        self._end: Callable[..., None] = partial(max, None, key=steps.send)

    if TYPE_CHECKING:

        def __enter__(self) -> Lent: ...
        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> None: ...

    else:
        __enter__ = SpecialMethod(attrgetter("_begin"))
        __exit__ = SpecialMethod(attrgetter("_end"))


def lend(thing: object) -> Steps[BaseException | None]:
    """Lend a thing to the block; return the exception that the block has raised, or None. For ``yield from``."""
    yield thing
    yield 1  # the key of None
    failure: BaseException | None = yield 0  # the key of the type
    yield 0
    return failure
