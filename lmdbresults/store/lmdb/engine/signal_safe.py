"""Blocks that no exception out of a signal handler finds half entered or half left.

Python runs signal handlers when a function of Python's begins, and after calls. `contextlib.contextmanager` consists of
such functions: an exception that a handler raises in one of them (Celery's soft time limit, Ctrl-C) loses a generator
that has entered its own ``with`` statements, and what these hold stays held for as long as the traceback lives. Here
nothing of Python's stands between a ``with`` statement and the generator. So the exception comes inside the generator,
if it comes, and the ``with`` statements there do what they are for; they hold locks and transactions written in C.
"""

from collections.abc import Callable, Generator
from functools import partial
from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

__all__ = ["Block", "Steps", "Undone", "lend"]

Lent = TypeVar("Lent")

#: What a block is made of: a generator that lends something, cleans up, and yields 0 at last.
Steps: TypeAlias = Generator[Any, Any, None]


class _Special(property):
    """A special method that the instance holds. `ExitStack` calls it on the class, which is less safe."""

    def __call__(self, block: "Block[Any]", *args: Any) -> Any:
        return self.__get__(block)(*args)


class Block(Generic[Lent]):
    """The context manager that a generator makes, as by `contextlib.contextmanager`, from end to end in C.

    Leaving is calling ``max(None, type, exception, traceback, key=send)``: it is written in C, it sends the generator
    each of them, and returns None, whose key is the largest, so that an exception goes on.
    """

    __slots__ = ("_begin", "_end")

    def __init__(self, steps: Steps) -> None:
        self._begin: Callable[[], Lent] = steps.__next__
        self._end: Callable[..., None] = partial(max, None, key=steps.send)

    if TYPE_CHECKING:

        def __enter__(self) -> Lent: ...
        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> None: ...

    else:
        __enter__ = _Special(attrgetter("_begin"))
        __exit__ = _Special(attrgetter("_end"))


class Undone(BaseException):
    """Raised to have ``with`` statements in a generator undo what they hold, in place of what the block has raised:
    that would get lines in its traceback that say nothing, and a generator cannot raise `StopIteration`.
    """

    def __init__(self, failure: BaseException) -> None:
        self.failure = failure


def lend(thing: object) -> Generator[Any, Any, BaseException | None]:
    """Lend a thing to the block; return what the block has raised, if it has. For ``yield from`` in the generator."""
    yield thing
    yield 1  # the key of None
    failure: BaseException | None = yield 0  # the key of the type
    yield 0
    return failure.failure if isinstance(failure, Undone) else failure
