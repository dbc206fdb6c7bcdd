"""A sweep that was asked for: in batches, between which other writers can write."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeVar

from lmdbresults.errors import StoreFull
from lmdbresults.store.lmdb.engine.environment import Environment
from lmdbresults.store.lmdb.records.hand import Walk, advance, hand_of
from lmdbresults.store.lmdb.types import Change, Transaction

__all__ = ["Batches", "Sweeper", "Swept"]

Result = TypeVar("Result")

#: Records in a batch: in the first one, and the fewest and the most.
_FIRST_BATCH, _SMALLEST_BATCH, _LARGEST_BATCH = 64, 16, 10_000
#: Seconds for which a batch holds the write lock: while there are no other writers, and while there are.
_HOLD_ALONE: Final = 0.01
_HOLD_AMONG_OTHERS: Final = 0.0005
#: Seconds of pause after a batch: at least, and for each second that the batch took if there are other writers.
_PAUSE: Final = 0.0005
_PAUSE_AMONG_OTHERS: Final = 1.0
#: Seconds for which other writers are assumed to be there after one of them has written.
_OTHERS_STAY: Final = 1.0


class Swept(NamedTuple):
    """What a sweep has done."""

    removed: int
    """How many records it deleted."""
    looked: int
    """How many records it looked at."""
    is_over: bool
    """Whether it came to every record."""


class Sweeper:
    """One sweep of one store."""

    def __init__(
        self,
        environment: Environment,
        clock: Callable[[], float],
        notify: Callable[[Iterable[Change], int], object],
    ) -> None:
        self._clock = clock
        self._notify = notify
        self._batches = Batches(environment)

    def run(self, limit: float = math.inf, max_seconds: float = math.inf, most: float = math.inf) -> Swept:
        """Move the hand on until it has come to every record.

        Stop sooner once ``limit`` records are deleted, after ``max_seconds``, or once ``most`` records were looked at.
        However short the time, one batch is done.
        """
        until = time.monotonic() + max_seconds
        removed = looked = passes = 0
        position = b""
        while removed < limit and looked < most and (not looked or time.monotonic() < until):
            start, walk = self._walk(limit - removed, most - looked)
            removed += walk.removed
            looked += walk.looked
            # The first pass began before the sweep did. Another process may have ended it.
            passes += (start < position) + (not walk.hand.position)
            position = walk.hand.position
            if passes > 1 or not walk.hand.is_due(self._clock()):
                return Swept(removed, looked, True)
        return Swept(removed, looked, False)

    def _walk(self, limit: float, most: float) -> tuple[bytes, Walk]:
        """Make one batch; return the position before it, and what it has done."""
        changes: list[Change] = []

        def step(raw: Transaction, size: int) -> tuple[bytes, Walk]:
            changes.clear()
            hand, now = hand_of(raw), self._clock()
            if not hand.is_due(now):
                return b"", Walk(hand, 0, 0, 0)
            return hand.position, advance(raw, hand, now, size, limit, changes)

        found = self._batches.run(step, most)
        self._notify(changes, 0)
        return found


class Batches:
    """Batches that hold the write lock for a short while each, however slow the disk and large the values."""

    def __init__(
        self,
        environment: Environment,
        *,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._environment = environment
        self._timer = timer
        self._sleep = sleep
        self._size = _FIRST_BATCH
        self._pause = 0.0
        #: The number of the last batch's transaction. If the next batch's is not the next number, another writer wrote.
        self._last_id: int | None = None
        self._others_until = -math.inf

    def run(self, operation: Callable[[Transaction, int], Result], most: float = math.inf) -> Result:
        """Return ``operation(raw, size)``, run in one transaction; the size is at most ``most``.

        If there is no space even for the pages that it copies, try a smaller size; raises `StoreFull` if the smallest
        finds none.
        """
        if self._pause:
            self._sleep(self._pause)
        result: Result
        while True:
            size = int(min(self._size, most))
            try:
                result, id_, began = self._environment.write(self._run, operation, size, durably=False)
                break
            except StoreFull:
                if size == 1:
                    raise
                self._size = max(size // 8, 1)
        self._learn(size, id_, self._timer() - began)
        return result

    def _run(
        self, raw: Transaction, operation: Callable[[Transaction, int], Result], size: int
    ) -> tuple[Result, int, float]:
        began = self._timer()
        self._environment.file.reserve_for_delete(raw)
        return operation(raw, size), raw.id(), began

    def _learn(self, size: int, id_: int, held: float) -> None:
        """Choose size and pause of the next batch: by how long this one held the lock, and whether others write."""
        now = self._timer()
        if self._last_id is not None and id_ != self._last_id + 1:
            self._others_until = now + _OTHERS_STAY
        self._last_id = id_
        among_others = now < self._others_until
        hold = _HOLD_AMONG_OTHERS if among_others else _HOLD_ALONE
        self._size = min(max(int(size * min(hold / held, 2)), _SMALLEST_BATCH), _LARGEST_BATCH)
        self._pause = max(_PAUSE, held * _PAUSE_AMONG_OTHERS) if among_others else _PAUSE
