"""Tasks as they change: what `tail` and `watch` print."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from lmdbresults.monitoring.values import Filters, Listing, TaskRow

__all__ = ["follow"]

#: A task may be committed so long after the time that its record says.
_LATE: Final = timedelta(seconds=3)
#: The most tasks that are looked at after a change.
_MOST: Final = 10_000
#: The part of its time that a follower may spend on looking, and the shortest pause between two looks.
_SHARE: Final = 0.1
_PAUSE: Final = 0.1


class Lists(Protocol):
    """What a follower looks at."""

    def tasks(self, filters: Filters, *, limit: int) -> Listing:
        """Return the newest tasks."""


def follow(
    monitor: Lists,
    filters: Filters,
    last: int,
    has_changed: Callable[[], bool],
    *,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[TaskRow]:
    """Yield the ``last`` newest tasks, the oldest first; then each task that ends, or whose state changes.

    ``has_changed()`` waits for a change, and returns False to stop. Of changes that come at once the last one is seen.
    """
    rows = monitor.tasks(filters, limit=_MOST).rows
    yield from reversed(rows[:last])
    seen = dict.fromkeys(rows)
    while has_changed():
        began = clock()
        newest = max((row.ended for row in seen if row.ended is not None), default=filters.since)
        since = None if newest is None else max(newest - _LATE, filters.since or newest - _LATE)
        rows = monitor.tasks(replace(filters, since=since), limit=_MOST).rows
        yield from (row for row in reversed(rows) if row not in seen)
        seen = dict.fromkeys(rows) or _newest_of(seen)
        sleep(max(_PAUSE, (clock() - began) / _SHARE))


def _newest_of(seen: dict[TaskRow, None]) -> dict[TaskRow, None]:
    """Return the newest task that was seen: nothing older is looked at again."""
    ended = [row for row in seen if row.ended is not None]
    return {max(ended, key=_ended): None} if ended else {}


def _ended(row: TaskRow) -> datetime:
    assert row.ended is not None, "only these are compared"
    return row.ended
