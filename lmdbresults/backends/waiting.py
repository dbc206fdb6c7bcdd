"""Waiting for results: a look at once, then one whenever there is news, or every ``interval`` seconds where none comes.

What there is to wait by is for `Waiting._looks` to say; here it is nothing but the monotonic clock.
"""

import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from typing import Any

from lmdbresults import states
from lmdbresults.backends.encoding import Meta
from lmdbresults.errors import ResultTimeout
from lmdbresults.results import AsyncResult, ResultSet, settle

__all__ = ["Deadline", "Looks", "Waiting", "looks"]

OnInterval = Callable[[], Any]
OnMessage = Callable[[Meta], Any]
#: The ids of tasks that may have changed, whenever it is time to look. None: any.
Looks = Generator[Collection[str] | None, None, None]


class Waiting:
    """Waiting in the present thread. Mixed into a backend that knows `get_task_meta` and `get_many`."""

    get_task_meta: Callable[..., Meta]
    get_many: Callable[..., Iterator[tuple[str, Meta]]]

    @property
    def is_async(self) -> bool:
        """Whether results are pushed to whoever waits, rather than looked for."""
        return False

    def wait_for(
        self, task_id: str, timeout: float | None = None, interval: float = 0.5, on_interval: OnInterval | None = None
    ) -> Meta:
        """Return the meta of a task once it has ended; a ``timeout`` of 0 looks once. Raises `ResultTimeout`."""
        for _ in self._looks({str(task_id): None}, timeout, interval, on_interval, f"task {task_id}"):
            meta = self.get_task_meta(task_id)
            if meta["status"] in states.READY_STATES:
                return meta
        raise AssertionError("_looks() raises when time is up")

    def _looks(
        self,
        pending: Mapping[str, object],
        timeout: float | None,
        interval: float,
        on_interval: OnInterval | None,
        what: str,
        *,
        every_change: bool = False,
        ready_states: frozenset[str] = states.READY_STATES,
    ) -> Looks:
        """Yield whenever it is time to look, the first time at once: the ids of tasks that may have changed; None: any.

        ``pending`` has the ids that are waited for, and may lose some between two looks. Raises `ResultTimeout`.
        """
        yield from looks(timeout, interval, on_interval, what)

    def wait_for_pending(
        self,
        result: AsyncResult,
        timeout: float | None = None,
        interval: float = 0.5,
        on_interval: OnInterval | None = None,
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
        on_message: OnMessage | None = None,
    ) -> Any:
        """Wait for a result and return it, or raise it if it is a failure that is to ``propagate``.

        ``on_message(meta)`` is called for the last state, and for those on the way, as by `get_many`.
        """
        if on_message is None:
            meta = self.wait_for(result.id, timeout=timeout, interval=interval, on_interval=on_interval)
        else:
            [(_, meta)] = self.get_many(
                [result.id], timeout=timeout, interval=interval, on_message=on_message, on_interval=on_interval
            )
        return settle(result.id, meta, propagate, callback)

    def iter_native(
        self,
        result: ResultSet,
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
    ) -> Iterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of the tasks of a set as they end. Groups inside are not entered."""
        ids = [part.id for part in result.results if isinstance(part, AsyncResult)]
        return self.get_many(ids, timeout=timeout, interval=interval, on_message=on_message, on_interval=on_interval)

    def add_pending_result(self, result: AsyncResult, weak: bool = False) -> AsyncResult:
        """Say that somebody is going to wait for a result. Nothing needs to be done for those who look."""
        return result

    def remove_pending_result(self, result: AsyncResult) -> AsyncResult:
        """Say that nobody is going to wait for a result any more."""
        return result


class looks(Iterator[Collection[str] | None]):  # noqa: N801 - called like a generator, which takes longer to leave
    """Yield what ``pause(seconds)`` returns whenever it is time to look; None the first time, which is at once.

    The last look comes after the last pause, so that a result which is there wins over a timeout that has run out.
    Raises `ResultTimeout` when time is up.
    """

    def __init__(
        self,
        timeout: float | None,
        interval: float,
        on_interval: OnInterval | None,
        what: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Collection[str] | None] = time.sleep,
    ) -> None:
        self._deadline = Deadline(timeout, what, clock)
        self._interval = interval
        self._on_interval = on_interval
        self._pause = pause
        self._has_begun = False

    def __next__(self) -> Collection[str] | None:
        if not self._has_begun:
            self._has_begun = True
            return None
        self._deadline.check()
        if self._on_interval is not None:
            self._on_interval()
        return self._pause(max(min(self._interval, self._deadline.left()), 0))


class Deadline:
    """The time until which somebody waits, by a monotonic clock; for ever, if ``timeout`` is None."""

    def __init__(self, timeout: float | None, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._what = what
        self._clock = clock
        self._until = math.inf if timeout is None else clock() + timeout

    def left(self) -> float:
        """Return the seconds that are left; 0 or less when time is up."""
        return self._until - self._clock()

    def check(self) -> None:
        """Raise `ResultTimeout` if time is up."""
        if self.left() <= 0:
            raise ResultTimeout(f"No end of {self._what} within {self._timeout} seconds. It may come later.")
