"""The one place that measures: peers take turns in blocks, in a new order each round, one clock reading per operation.

Apart from peers and scenarios, so that every benchmark means the same by a median or a ratio.
"""

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Any

from benchmarks.peers import Contestant

Work = tuple[Callable[[Any], object], Sequence[Any]]
"""An operation, and the arguments it is called with, one call each; making them is never in the timing."""

Scenario = Callable[[Contestant, int, Random], Work]
"""Makes the work of one block: this contestant, so many operations, this source of randomness."""

Rounds = list[list[int]]
"""Nanoseconds per operation, one list per round."""

Samples = Mapping[tuple[str, str], Rounds]
"""Rounds by (scenario, contestant)."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one contestant needed in one scenario, in microseconds an operation."""

    median: float
    p90: float
    p99: float
    ratio: float | None
    """Median over the rounds of (own median / reference's median in the same round); None without a reference."""

    @property
    def per_second(self) -> float:
        """Operations a second at the median."""
        return 1e6 / self.median


def time_each(operation: Callable[[Any], object], arguments: Sequence[Any]) -> list[int]:
    """Nanoseconds of each call."""
    clock = time.perf_counter_ns
    times = []
    for argument in arguments:
        start = clock()
        operation(argument)
        times.append(clock() - start)
    return times


def play(
    contestants: Sequence[Contestant], scenarios: Mapping[str, Scenario], rounds: Iterable[int], rng: Random
) -> Samples:
    """Measure every scenario with every contestant in every round; only the warm-up is thrown away."""
    play_round(contestants, scenarios, rng)
    gc.collect()
    gc.freeze()  # what the imports left behind would be walked again and again, in whichever block a collection falls
    samples: dict[tuple[str, str], Rounds] = defaultdict(list)
    for _ in rounds:
        for key, times in play_round(contestants, scenarios, rng):
            samples[key].append(times)
    return samples


def play_round(
    contestants: Sequence[Contestant], scenarios: Mapping[str, Scenario], rng: Random
) -> list[tuple[tuple[str, str], list[int]]]:
    """One block of each scenario for each contestant, in an order of its own."""
    blocks = []
    for name, scenario in scenarios.items():
        for contestant in rng.sample(contestants, len(contestants)):
            operation, arguments = scenario(contestant, contestant.entry.operations, rng)
            blocks.append(((name, contestant.entry.name), time_each(operation, arguments)))
    return blocks


def figures(own: Rounds, reference: Rounds | None) -> Figures:
    """Percentiles over all operations, and the ratio, which drifts of the machine between rounds do not touch."""
    times = sorted(chain.from_iterable(own))
    median, p90, p99 = (times[int(share * (len(times) - 1))] / 1000 for share in (0.5, 0.9, 0.99))
    return Figures(median, p90, p99, median_ratio(own, reference) if reference else None)


def median_ratio(own: Rounds, reference: Rounds) -> float:
    """Median over the rounds of the ratio of the two medians in that round."""
    blocks = zip(own, reference, strict=True)
    return statistics.median(statistics.median(mine) / statistics.median(theirs) for mine, theirs in blocks)
