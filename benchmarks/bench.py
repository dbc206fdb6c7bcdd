"""What a scenario is given to work with, and the register in which scenarios stand by name."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from benchmarks import measure
from benchmarks.measure import Key, Samples, median_ratio
from benchmarks.peers.base import Peer, check
from benchmarks.rows import LIMIT, LIMIT_ROW, OUR_ROW, OURS, Row, Section
from benchmarks.servers import Unavailable

#: Seconds after which no new round begins, unless there were too few of them; by the mode.
LONGEST = {"tiny": 0.0, "short": 6.0, "full": 60.0}
FEWEST_ROUNDS = 3

Size = TypeVar("Size")
Item = TypeVar("Item")

#: How much is measured: just that it runs, minutes, or everything.
MODES = ("tiny", "short", "full")


@dataclass(frozen=True, slots=True)
class Field:
    """The peers that compete, and why others do not."""

    classes: Mapping[str, Any]
    """All, in the order of their rows: subclasses of `Peer`, or what has its class attributes."""
    peers: Mapping[str, Any]
    """Those that are open."""
    folders: Mapping[str, Path]
    """Of those that run here."""
    missing: Mapping[str, str] = field(default_factory=dict)

    def row(self, name: str, work: str, x: float | None = None, **figures: Any) -> Row:
        """A row of this peer."""
        about = self.classes[name]
        given = {"configuration": about.configuration, "durability": about.durability, **figures}
        return Row(work=work, x=x, peer=name, **given)

    def rows(self, samples: Samples, *, alike: bool = False) -> list[Row]:
        """A row for each peer and piece of work. ``alike``: durability does not matter, as when something is read."""
        found = []
        for work, x in dict.fromkeys((key.work, key.x) for key in samples):
            for name, about in self.classes.items():
                if name in self.missing:
                    found.append(self.row(name, work, x, missing=self.missing[name]))
                elif (own := samples.get(Key(name, work, x))) is not None:
                    ours = samples.get(Key(OURS if alike else OUR_ROW[about.durability], work, x))
                    limit = samples.get(Key(LIMIT if alike else LIMIT_ROW[about.durability], work, x))
                    ratios = {"to_ours": median_ratio(own, ours), "to_limit": median_ratio(own, limit)}
                    found.append(self.row(name, work, x, **measure.summary(own), **ratios))
        return found


@dataclass(slots=True)
class Bench:
    """One scenario's stay: a folder of its own, and a stack of what is to be ended."""

    folder: Path
    mode: str
    rng: Random
    stack: ExitStack
    step: Callable[[str], None]
    """Says what goes on. Called between measurements only: whoever draws has no thread for it."""

    def size(self, tiny: Size, short: Size, full: Size) -> Size:
        """The one for this mode."""
        return {"tiny": tiny, "short": short, "full": full}[self.mode]

    def operations(self, about: type[Peer] | Peer) -> int:
        """How many make a block."""
        return min(about.operations, self.size(4, 1000, 1000))

    def few(self, classes: Iterable[type[Any]]) -> list[type[Any]]:
        """All of them, but for the tiny mode only those without which there would be nothing to compare."""
        return [about for about in classes if self.mode != "tiny" or about.name in (OURS, "Redis", LIMIT)]

    def steps(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """The items, saying how far it is."""
        for number, item in enumerate(items, 1):
            self.step(f"{what} {number}/{len(items)}")
            yield item

    def interleave(self, blocks: Mapping[Key, measure.Block], rounds: int, **how: Any) -> Samples:
        """Measure all blocks in turns: so many rounds, or fewer where they take too long for the mode."""
        return measure.interleave(blocks, self.rounds(rounds), self.rng, **how)

    def rounds(self, most: int) -> Iterator[int]:
        """Numbers, until they are enough."""
        until = time.monotonic() + LONGEST[self.mode]
        for number in self.steps(range(most), "round"):
            if number >= FEWEST_ROUNDS and time.monotonic() > until:
                return
            yield number

    def open(self, classes: Iterable[type[Any]], **settings: Any) -> Field:
        """Start and open these peers, each in a folder of its own, and see that they return what is stored."""
        field = self.serve(classes)
        peers, missing = {}, dict(field.missing)
        for name, folder in field.folders.items():
            try:
                peers[name] = field.classes[name](folder, **settings)
            except Unavailable as reason:
                missing[name] = str(reason)
                continue
            self.stack.callback(peers[name].close)
            check(peers[name], self.rng)
        return replace(field, peers=peers, missing=missing)

    def serve(self, classes: Iterable[type[Any]]) -> Field:
        """Start these peers for others to open."""
        named = {about.name: about for about in classes}
        folders, missing = {}, {}
        for name, about in named.items():
            folder = self.folder / re.sub(r"\W+", "-", name)
            folder.mkdir(exist_ok=True)
            try:
                about.serve(folder, self.stack)
                folders[name] = folder
            except Unavailable as reason:
                missing[name] = str(reason)
        return Field(named, {}, folders, missing)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something to measure."""

    name: str
    title: str
    grows_with: str
    run: Callable[[Bench], list[Row]]

    def measured(self, mode: str, seed: int, step: Callable[[str], None]) -> Section:
        """Run in a temporary folder, which is gone afterwards."""
        start = time.monotonic()
        with _bench(mode, f"{seed} {self.name}", step) as bench:
            rows = tuple(with_growth(self.run(bench)))
        seconds = round(time.monotonic() - start, 1)
        return Section(name=self.name, title=self.title, grows_with=self.grows_with, seconds=seconds, rows=rows)


@contextmanager
def _bench(mode: str, seed: str, step: Callable[[str], None]) -> Iterator[Bench]:
    with TemporaryDirectory(prefix="lmdbresults-bench-") as name, ExitStack() as stack:
        yield Bench(Path(name), mode, Random(seed), stack, step)


def with_growth(rows: Sequence[Row]) -> list[Row]:
    """Tell how much more than at the smallest size a peer needs, where the work grows with something."""
    smallest: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.x is not None and row.median:
            key = row.work, row.peer
            smallest[key] = min(smallest.get(key, row), row, key=lambda one: one.x or 0)

    def grown(row: Row) -> Row:
        base = smallest.get((row.work, row.peer))
        if row.growth is not None or base is None or base.x == row.x or not row.median or not base.median:
            return row
        return replace(row, growth=row.median / base.median)

    return [grown(row) for row in rows]


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, title: str, *, grows_with: str = "") -> Callable[[Callable[[Bench], list[Row]]], Any]:
    """Register a function as the scenario of this name. ``grows_with`` says what ``x`` counts in its rows."""

    def register(run: Callable[[Bench], list[Row]]) -> Callable[[Bench], list[Row]]:
        SCENARIOS[name] = Scenario(name, title, grows_with, run)
        return run

    return register
