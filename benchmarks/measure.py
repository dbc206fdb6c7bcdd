"""The only code that measures, so that a median or a ratio means the same in every scenario.

Peers take turns in blocks, in a new order each round; each operation is timed by one pair of clock readings.
"""

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, NamedTuple


class Key(NamedTuple):
    """What a block of measurements belongs to."""

    peer: str
    work: str
    x: float | None = None


Block = Callable[[], Sequence[float]]
"""Does a peer's share of a round; returns the nanoseconds of each operation, without preparation."""

Rounds = list[Sequence[float]]
"""Nanoseconds per operation, by round."""

Samples = Mapping[Key, Rounds]


def time_each(operation: Callable[[Any], object], arguments: Iterable[Any]) -> list[int]:
    """Return the nanoseconds of each call."""
    clock = time.perf_counter_ns
    times = []
    for argument in arguments:
        start = clock()
        operation(argument)
        times.append(clock() - start)
    return times


class CPU:
    """Counts the processor time of this process, without what its main thread does between operations."""

    def __init__(self, operation: Callable[[Any], object]) -> None:
        self.operation = operation
        self.start = time.process_time_ns() - time.thread_time_ns()
        self.used = 0

    def time(self, argument: Any) -> int:
        """Return the nanoseconds of one operation, and count its processor time."""
        before = time.thread_time_ns()
        start = time.perf_counter_ns()
        self.operation(argument)
        took = time.perf_counter_ns() - start
        self.used += time.thread_time_ns() - before
        return took

    def total(self) -> int:
        """Return the nanoseconds that operations and other threads took."""
        return self.used + time.process_time_ns() - time.thread_time_ns() - self.start


def interleave(blocks: Mapping[Key, Block], rounds: Iterable[int], rng: Random, *, warm_up: bool = True) -> Samples:
    """Run every block once a round; return their times. ``warm_up`` adds a first round that does not count."""
    if warm_up:
        _round(blocks, rng)
    gc.collect()
    gc.freeze()  # else each collection would traverse the imported modules again, in whichever block it falls
    samples: dict[Key, Rounds] = defaultdict(list)
    for _ in rounds:
        for key, times in _round(blocks, rng):
            samples[key].append(times)
    gc.unfreeze()
    return {key: samples[key] for key in blocks if key in samples}


def _round(blocks: Mapping[Key, Block], rng: Random) -> list[tuple[Key, Sequence[float]]]:
    """Run each block: works in their order (a result is stored before it is read), peers in random order."""
    order = sorted(blocks, key=lambda key: rng.random())
    works = list(dict.fromkeys((key.work, key.x) for key in blocks))
    order.sort(key=lambda key: works.index((key.work, key.x)))
    return [(key, blocks[key]()) for key in order]


def disk_usage(folder: Path) -> int:
    """Return the bytes on disk of all files in a folder."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def summary(own: Rounds) -> dict[str, Any]:
    """Return percentiles over all operations in microseconds, as fields of a row."""
    times = sorted(chain.from_iterable(own))
    median, p90, p99 = (times[int(share * (len(times) - 1))] / 1000 for share in (0.5, 0.9, 0.99))
    return {"median": median, "p90": p90, "p99": p99, "maximum": times[-1] / 1000}


def median_ratio(own: Rounds | None, reference: Rounds | None) -> float | None:
    """Return the median over rounds of the ratio of two medians within a round: drift between rounds cancels out."""
    if not own or not reference:
        return None
    rounds = zip(own, reference, strict=True)
    return statistics.median(statistics.median(mine) / statistics.median(other) for mine, other in rounds)
