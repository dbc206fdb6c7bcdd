"""What a scenario works with, and the registry of scenarios."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from benchmarks import measure
from benchmarks.measure import Key, Samples, median_ratio
from benchmarks.peers.base import Peer, check
from benchmarks.rows import BARE, BARE_ROW, OWN, OWN_ROW, Row, Section
from benchmarks.servers import Unavailable

#: Seconds after which no new round starts, by mode; a few rounds are always made.
LONGEST = {"tiny": 0.0, "short": 6.0, "full": 60.0, "huge": 60.0}
FEWEST_ROUNDS = 3

Size = TypeVar("Size")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Field:
    """The peers of a scenario, and why others are missing."""

    peers: Mapping[str, Peer]
    """All of them, in the order of their rows."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """The folders of those that run on this machine."""
    missing: Mapping[str, str] = field(default_factory=dict)
    clients: Mapping[str, Any] = field(default_factory=dict)
    """The open ones."""

    def row(self, name: str, work: str, x: float | None = None, **figures: Any) -> Row:
        """Return a row of a peer."""
        about = self.peers[name]
        given = {"configuration": about.configuration, "durability": about.durability, **figures}
        return Row(work=work, x=x, peer=name, **given)

    def table(self, figures: Mapping[Key, Mapping[str, Any]]) -> list[Row]:
        """Return a row for each peer and work: its figures, or why it is missing."""
        works = dict.fromkeys((key.work, key.x) for key in figures)
        missing = {Key(name, *work): {"missing": reason} for work in works for name, reason in self.missing.items()}
        found = {**figures, **missing}
        keys = [Key(name, *work) for work in works for name in self.peers]
        return [self.row(key.peer, key.work, key.x, **found[key]) for key in keys if key in found]

    def rows(self, samples: Samples, *, alike: bool = False) -> list[Row]:
        """Return a row for each peer and work. ``alike``: durability makes no difference, as in reading."""
        figures = {}
        for key, times in samples.items():
            durability = self.peers[key.peer].durability
            own = samples.get(key._replace(peer=OWN if alike else OWN_ROW[durability]))
            bare = samples.get(key._replace(peer=BARE if alike else BARE_ROW[durability]))
            ratios = {"to_own": median_ratio(times, own), "to_bare": median_ratio(times, bare)}
            figures[key] = {**measure.summary(times), **ratios}
        return self.table(figures)


@dataclass(slots=True)
class Bench:
    """A folder for one run of a scenario, and a stack of what must be closed at its end."""

    folder: Path
    mode: str
    rng: Random
    stack: ExitStack
    step: Callable[[str], None]
    """Reports progress. Only called between measurements."""

    def size(self, tiny: Size, short: Size, full: Size, huge: Size | None = None) -> Size:
        """Return the value for this mode; ``huge`` is as ``full`` unless it is given."""
        return {"tiny": tiny, "short": short, "full": full, "huge": full if huge is None else huge}[self.mode]

    def operations(self, about: Peer) -> int:
        """Return the number of operations in a block."""
        return min(about.operations, self.size(4, 1000, 1000))

    def few(self, peers: Iterable[Peer]) -> list[Peer]:
        """Return the peers; in tiny mode only the most important ones."""
        return [about for about in peers if self.mode != "tiny" or about.name in (OWN, "Redis", BARE)]

    def steps(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """Yield the items and report progress."""
        for number, item in enumerate(items, 1):
            self.step(f"{what} {number}/{len(items)}")
            yield item

    def interleave(self, blocks: Mapping[Key, measure.Block], rounds: int, *, warm_up: bool = True) -> Samples:
        """Measure all blocks in turns, in at most so many rounds."""
        return measure.interleave(blocks, self.rounds(rounds), self.rng, warm_up=warm_up)

    def rounds(self, most: int) -> Iterator[int]:
        """Yield numbers until there are enough rounds, or the time of this mode is over."""
        until = time.monotonic() + LONGEST[self.mode]
        for number in self.steps(range(most), "round"):
            if number >= FEWEST_ROUNDS and time.monotonic() > until:
                return
            yield number

    def open(self, peers: Iterable[Peer], group: str = "") -> Field:
        """Start and open peers, each in its own folder, and check that they return what is stored."""
        field = self.serve(peers, group)
        clients = {}
        for name, folder in field.folders.items():
            clients[name] = field.peers[name].open(folder)
            self.stack.callback(clients[name].close)
            check(clients[name], self.rng)
        return replace(field, clients=clients)

    def serve(self, peers: Iterable[Peer], group: str = "") -> Field:
        """Start the servers of peers; other processes open the peers. A scenario with several fields groups them."""
        named = {about.name: about for about in peers}
        folders, missing = {}, {}
        for number, (name, about) in enumerate(named.items()):
            folder = self.folder / f"{group}-{number}"  # short, for the paths of sockets
            folder.mkdir()
            try:
                about.serve(folder, self.stack)
                folders[name] = folder
            except Unavailable as reason:
                missing[name] = str(reason)
        return Field(named, folders, missing)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something to measure."""

    name: str
    title: str
    grows_with: str
    run: Callable[[Bench], list[Row]]

    def measured(self, mode: str, seed: int, step: Callable[[str], None]) -> Section:
        """Run in a temporary folder."""
        start = time.monotonic()
        with TemporaryDirectory(prefix="lmdbresults-bench-") as folder, ExitStack() as stack:
            rows = self.run(Bench(Path(folder), mode, Random(f"{seed} {self.name}"), stack, step))
        seconds = round(time.monotonic() - start, 1)
        return Section(
            name=self.name, title=self.title, grows_with=self.grows_with, seconds=seconds, rows=_with_growth(rows)
        )


def _with_growth(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Add how much more time each peer needs than at its smallest size."""
    smallest: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.x is not None and row.median:
            key = row.work, row.peer
            smallest[key] = min(smallest.get(key, row), row, key=lambda one: one.x or 0)

    def grown(row: Row) -> Row:
        base = smallest.get((row.work, row.peer))
        if base is None or base.x == row.x or not row.median or not base.median:
            return row
        return replace(row, growth=row.median / base.median)

    return tuple(map(grown, rows))


SCENARIOS: dict[str, Scenario] = {}

Measurement = Callable[[Bench], list[Row]]


def scenario(name: str, title: str, *, grows_with: str = "") -> Callable[[Measurement], Measurement]:
    """Register a function as a scenario. ``grows_with`` says what ``x`` counts in its rows."""

    def register(run: Measurement) -> Measurement:
        SCENARIOS[name] = Scenario(name, title, grows_with, run)
        return run

    return register


def arrange(order: Sequence[str]) -> None:
    """Put scenarios in this order; those that it does not name come after."""
    named = {name: SCENARIOS.pop(name) for name in order}
    others = dict(SCENARIOS)
    SCENARIOS.clear()
    SCENARIOS.update(named | others)
