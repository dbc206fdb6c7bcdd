"""The one place that measures: peers take turns in blocks, in a new order each round, one clock reading per operation.

Apart from peers and scenarios, so that every scenario means the same by a median or a ratio.
"""

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from random import Random
from typing import Any, NamedTuple

#: Steps of the quantiles that are kept of a distribution.
STEPS = 40


class Key(NamedTuple):
    """What a block belongs to."""

    peer: str
    work: str
    x: float | None = None


Block = Callable[[], Sequence[float]]
"""Does a peer's share of a round; returns the nanoseconds of each operation, less what preparing them took."""

Rounds = list[Sequence[float]]
"""Nanoseconds per operation, by round."""

Samples = Mapping[Key, Rounds]


def time_each(operation: Callable[[Any], object], arguments: Iterable[Any]) -> list[int]:
    """Nanoseconds of each call."""
    clock = time.perf_counter_ns
    times = []
    for argument in arguments:
        start = clock()
        operation(argument)
        times.append(clock() - start)
    return times


def interleave(blocks: Mapping[Key, Block], rounds: Iterable[int], rng: Random, *, warm_up: bool = True) -> Samples:
    """Run every block in every round, in turns; a first round is thrown away."""
    if warm_up:
        _round(blocks, rng)
    gc.collect()
    gc.freeze()  # what the imports left behind would be walked again and again, in whichever block a collection falls
    samples: dict[Key, Rounds] = defaultdict(list)
    for _ in rounds:
        for key, times in _round(blocks, rng):
            samples[key].append(times)
    gc.unfreeze()
    return {key: samples[key] for key in blocks if key in samples}


def _round(blocks: Mapping[Key, Block], rng: Random) -> list[tuple[Key, Sequence[float]]]:
    """One block each. Works come in their order (a result is stored before it is read), peers in one of their own."""
    order = sorted(blocks, key=lambda key: rng.random())
    works = list(dict.fromkeys((key.work, key.x) for key in blocks))
    order.sort(key=lambda key: works.index((key.work, key.x)))
    return [(key, blocks[key]()) for key in order]


def summary(own: Rounds) -> dict[str, Any]:
    """Percentiles over all operations, in microseconds, as the fields of a row."""
    times = sorted(chain.from_iterable(own))
    median, p90, p99 = (quantile(times, share) / 1000 for share in (0.5, 0.9, 0.99))
    shape = tuple(quantile(times, step / STEPS) / 1000 for step in range(STEPS + 1))
    return {"median": median, "p90": p90, "p99": p99, "maximum": times[-1] / 1000, "quantiles": shape}


def quantile(times: Sequence[float], share: float) -> float:
    """Of times in order."""
    return times[int(share * (len(times) - 1))]


def median_ratio(own: Rounds | None, reference: Rounds | None) -> float | None:
    """Median over the rounds of the ratio of the two medians in that round: drifts between rounds do not touch it."""
    if not own or not reference:
        return None
    rounds = zip(own, reference, strict=True)
    return statistics.median(statistics.median(mine) / statistics.median(theirs) for mine, theirs in rounds)
