"""The parts of a chord: which tasks a header has, and how they are counted by a store that has nothing but keys."""

from collections.abc import Iterator
from typing import Any

from lmdbresults.results import AsyncResult, GroupResult

__all__ = ["chord_size", "count_tasks", "part_key", "tasks_in"]


def part_key(index: int | None, task_id: str) -> str:
    """Return the end of the key that says that a part has returned: the task at this place of the header."""
    return f".part.{index}.{task_id}"


def chord_size(stored: bytes | None, request: Any) -> int | None:
    """Return how many parts a chord waits for: as was set, else as the request says; None if nobody knows."""
    size = request.chord.get("chord_size") if stored is None else stored
    return None if size is None else int(size)


def tasks_in(result: AsyncResult | GroupResult) -> Iterator[AsyncResult]:
    """Yield the tasks of a header in order, those of groups inside as well."""
    if isinstance(result, GroupResult):
        for part in result.results:
            yield from tasks_in(part)
    else:
        yield result


def count_tasks(result: AsyncResult | GroupResult) -> int:
    """Return how many parts a header has: a group inside counts as many as it has tasks."""
    return sum(1 for _ in tasks_in(result))
