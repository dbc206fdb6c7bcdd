"""A sweep that was asked for: in batches, between which other writers can write."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from lmdbresults.errors import StoreFull
from lmdbresults.store.lmdb.engine.environment import Environment
from lmdbresults.store.lmdb.records import expiry, expiry_index
from lmdbresults.store.lmdb.records.expiry_index import place_in
from lmdbresults.store.lmdb.types import FINAL, Change, Transaction
from lmdbresults.store.values import NEVER

__all__ = ["Sweeper"]

Result = TypeVar("Result")

#: Entries of the index that are read at once: the more, the more of their records share a page. Of a million results
#: with random ids, 100,000 at once took 9.5 µs each, 400,000 took 6.8. So many take about 60 MB of memory for a while.
_CHUNK: Final = 300_000
#: Entries that are read for each second that a sweep may last.
_CHUNK_PER_SECOND: Final = 50_000
#: Fewer entries are not worth two passes over the tree; also the size of the first batch.
_FEW: Final = 64
_SMALLEST_BATCH, _LARGEST_BATCH = 16, 10_000
#: Seconds for which a batch holds the write lock: while there are no other writers, and while there are.
_HOLD_ALONE: Final = 0.01
_HOLD_AMONG_OTHERS: Final = 0.0005
#: Seconds of pause after a batch: at least, and for each second that the batch took if there are other writers.
_PAUSE: Final = 0.0005
_PAUSE_AMONG_OTHERS: Final = 1.0
#: Seconds for which other writers are assumed to be there after one of them has written.
_OTHERS_STAY: Final = 1.0


class Sweeper:
    """One sweep of one store."""

    def __init__(
        self,
        environment: Environment,
        clock: Callable[[], float],
        notify: Callable[[Iterable[Change], int], object],
    ) -> None:
        self._environment = environment
        self._clock = clock
        self._notify = notify
        self._batches = Batches(environment)

    def run(self, limit: int | None, max_seconds: float | None) -> int:
        """Delete expired records, up to ``limit`` or for about ``max_seconds``; return how many.

        However short the time, one batch is done.
        """
        until = math.inf if max_seconds is None else time.monotonic() + max_seconds
        chunk = _CHUNK if max_seconds is None else min(_CHUNK, _FEW + int(max_seconds * _CHUNK_PER_SECOND))
        removed, more = 0, True
        while more and (limit is None or removed < limit):
            gone, more = self._sweep_chunk(chunk if limit is None else min(chunk, limit - removed), until)
            removed += gone
            more = more and time.monotonic() < until
        return removed

    def _sweep_chunk(self, limit: int, until: float) -> tuple[int, bool]:
        """Delete up to ``limit`` of the records that expired first; return how many, and whether there may be more."""
        due = self._environment.read(expiry_index.first_due, self._clock(), limit)
        removed = self._reap(due, until) if len(due) > _FEW else 0
        left, more = len(due) - removed, bool(due)
        while left > 0 and more and (not removed or time.monotonic() < until):
            gone, more = self.sweep(limit - removed)
            removed += gone
            left -= max(gone, 1)
        return removed, more

    def _reap(self, due: Sequence[bytes], until: float) -> int:
        """Delete records in the order of the tree, then their entries in the order of the index."""
        reaped: set[bytes] = set()
        for part in expiry.in_order_of_the_tree(due):
            gone = self._batches.over(part, lambda raw, batch: expiry.reap(raw, batch, self._clock()), until)
            reaped.update(gone)
            self._notify(((place_in(index_key)[1:], FINAL, None, NEVER) for index_key in gone), 0)
            if time.monotonic() >= until:
                break
        # No record can have been stored meanwhile that expires at one of these times, which are past.
        self._batches.over([index_key for index_key in due if index_key in reaped], expiry.drop)
        return len(reaped)

    def sweep(self, limit: int, most: int = _LARGEST_BATCH) -> tuple[int, bool]:
        """Delete up to ``limit`` records in one batch; return how many, and whether there may be more."""
        removed, more, changes = self._batches.run(lambda raw, size: self._sweep(raw, limit, size), most)
        self._notify(changes, 0)
        return removed, more

    def _sweep(self, raw: Transaction, limit: int, budget: int) -> tuple[int, bool, list[Change]]:
        changes: list[Change] = []
        return *expiry.sweep(raw, self._clock(), limit, budget, changes), changes


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
        self._size = _FEW
        self._pause = 0.0
        #: The number of the last batch's transaction. If the next batch's is not the next number, another writer wrote.
        self._last_id: int | None = None
        self._others_until = -math.inf

    def over(
        self,
        items: Sequence[bytes],
        step: Callable[[Transaction, Sequence[bytes]], Sequence[bytes]],
        until: float = math.inf,
    ) -> list[bytes]:
        """Run batches until all items are done, or time is up after the first one; return all that ``step`` returns."""
        results: list[bytes] = []
        done = 0

        def next_batch(raw: Transaction, size: int) -> tuple[Sequence[bytes], int]:
            batch = items[done : done + size]
            return step(raw, batch), len(batch)

        while done < len(items) and (not done or self._timer() < until):
            result, count = self.run(next_batch)
            results += result
            done += count
        return results

    def run(self, operation: Callable[[Transaction, int], Result], most: int = _LARGEST_BATCH) -> Result:
        """Return ``operation(raw, size)``, run in one transaction.

        If there is no space even for the pages that it copies, try a smaller size; raises `StoreFull` if the smallest
        finds none.
        """
        if self._pause:
            self._sleep(self._pause)
        result: Result
        while True:
            size = min(self._size, most)
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
