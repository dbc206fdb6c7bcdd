"""Simulated power cuts: ``python -m tests.crash.power_cut --images 500 --durability checkpoint``.

Records real processes at work on a store, rebuilds what the disk may hold after a power cut at a random moment, opens
that, and compares it with what was acknowledged. Prints a table; an image that is not as promised is kept.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import ceil
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from tests.crash.disk import UNITS, Disk
from tests.crash.history import History, Verdict
from tests.crash.opener import Opener
from tests.crash.recording import Event, Kind, Recording
from tests.crash.workload import NAME, record, write_files

__all__ = ["Outcome", "Simulation", "simulate", "table", "varied"]

_KINDS: Final = ("consistent", "lost", "wrong", "error", "aborted")
#: Images of one recording.
_IMAGES: Final = 60
#: Of so many images, one is cut a second time while it is being recovered.
_AGAIN: Final = 3
#: One image of so many is of a second life, whose seed is this much higher.
_SHARE: Final = 5
_SECOND: Final = 500_000
_NOTHING: Final[Mapping[bytes, bytes]] = {}


class Outcome(NamedTuple):
    """What became of one image."""

    seed: int
    unit: int
    stage: str
    """Where in the life of the store it was taken."""
    verdict: Verdict


_Outcomes = Iterator[Outcome]


class Simulation:
    """Power cuts of stores that are opened with some options. The first of them comes in the boot with a number."""

    def __init__(self, place: Path, options: dict[str, Any], ignores_sync: Iterable[str] = (), boot: int = 0) -> None:
        self._place, self._ignored, self._boot = place, tuple(ignores_sync), boot
        self._options = {**options, "durability": options["durability"].replace("mixed", "checkpoint")}
        self._opener = Opener()
        #: One of the images that were as they should be, and what it held.
        self.survivor: tuple[dict[str, bytes], dict[bytes, bytes]] = {}, {}
        self._survivors = 0

    def close(self) -> None:
        self._opener.close()

    def run(self, recording: Recording, images: int, seed: int, before: Mapping[bytes, bytes] = _NOTHING) -> _Outcomes:
        """Yield what becomes of a recorded store in so many power cuts, and in some more while it is recovered.

        ``before`` is what it held when the recording was begun.
        """
        events = recording.events()
        history, disk, done = History(events, before), self._disk(recording), 0
        for number, moment in enumerate(sorted(_moments(events, images, Random(seed)))):
            for event in events[done:moment]:
                disk.apply(event)
            done = moment
            case = _Case(history, events[moment], seed * 1000 + number, UNITS[number % 2])
            yield from self._cut(case, disk.image(Random(case.seed), case.unit), number // 2 % _AGAIN == 0)

    def _disk(self, recording: Recording) -> Disk:
        return Disk(recording.inode, recording.before, ignores_sync=self._ignored)

    def _cut(self, case: "_Case", image: dict[str, bytes], again: bool) -> _Outcomes:
        if not again:
            yield self._open(case, image)
            return
        folder, log = self._place / f"image-{case.seed}", self._place / f"recovery-{case.seed}"
        write_files(folder, image)
        log.mkdir()
        recording = Recording(log, folder)
        yield self._open(case, image, log)
        choose, events = Random(-case.seed), recording.events()
        read = next(number for number, event in enumerate(events) if event.kind is Kind.MARK)
        if read:
            disk = self._disk(recording)
            for event in events[: choose.randrange(read) + 1]:
                disk.apply(event)
            yield self._open(case._replace(is_again=True), disk.image(choose, case.unit))
        shutil.rmtree(log)

    def _open(self, case: "_Case", image: dict[str, bytes], log: Path | None = None) -> Outcome:
        folder = self._place / f"image-{case.seed}{'-again' if case.is_again else ''}"
        write_files(folder, image)
        found = self._opener.open(folder / NAME, self._options, f"boot {self._boot + 1 + case.is_again}", log)
        verdict = case.history.judge(case.cut, found)
        stage = f"{', second life' if self._boot else ''}{', in recovery' if case.is_again else ''}"
        outcome = Outcome(case.seed, case.unit, stage, verdict)
        shutil.rmtree(folder)
        if verdict.kind != "consistent":
            write_files(folder, image)
            (folder / "verdict.json").write_text(json.dumps([*outcome, case.cut.place, case.cut.kind.name]))
        elif not case.is_again:  # which was written in the boot in which a second life begins
            self._survivors += 1
            if Random(case.seed).random() * self._survivors < 1:  # each with the same probability in the end
                self.survivor = image, found.values
        return outcome


class _Case(NamedTuple):
    """What an image is made and judged by."""

    history: History
    cut: Event
    seed: int
    unit: int
    is_again: bool = False
    """Whether it is of the recovery of another image."""


def _moments(events: list[Event], count: int, choose: Random) -> Iterator[int]:
    """Yield positions in the list of events: near a sync, while the file is new, or anywhere; and the end."""
    syncs = [number for number, event in enumerate(events) if event.kind in (Kind.SYNC_BEGIN, Kind.SYNC_END)]
    for number in range(count):
        near_sync, early = choose.choice(syncs) + choose.randrange(-2, 4), choose.randrange(1, 60)
        moment = (near_sync, near_sync, early, choose.randrange(1, len(events)))[number % 4]
        yield min(max(moment, 1), len(events) - 1) if number else len(events) - 1


def table(outcomes: list[Outcome]) -> str:
    """Return what became of the images, a line for each unit of tearing."""
    rows = [f"{'torn at':<34}{'images':>8}" + "".join(f"{kind:>12}" for kind in _KINDS) + "   most lost"]
    for stage in sorted({outcome.stage for outcome in outcomes}):
        for unit in UNITS:
            chosen = [outcome for outcome in outcomes if (outcome.unit, outcome.stage) == (unit, stage)]
            rows.append(_row(f"{unit} B{stage}", chosen))
    return "\n".join([*rows, _row("all", outcomes)])


def _row(name: str, outcomes: list[Outcome]) -> str:
    kinds = Counter(outcome.verdict.kind for outcome in outcomes)
    verdicts = [outcome.verdict for outcome in outcomes if outcome.verdict.kind in ("consistent", "lost")]
    most = max(verdicts, key=lambda verdict: verdict.commits, default=Verdict("", ""))
    longest = max((verdict.seconds for verdict in verdicts), default=0.0)
    counts = "".join(f"{kinds[kind]:>12}" for kind in _KINDS)
    return f"{name:<34}{len(outcomes):>8}{counts}   {most.commits} commits, {longest:.2f} s"


def main() -> None:
    """Run as many images as are wanted, with a new recording for each sixty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--durability", choices=("checkpoint", "commit", "mixed", "none"), default="checkpoint")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="power-cut-"))
    outcomes = list(simulate(place, asked.durability, asked.images, asked.seed))
    print(f"durability={asked.durability}, seed {asked.seed}\n{table(outcomes)}")
    failed = [outcome for outcome in outcomes if outcome.verdict.kind != "consistent"]
    for outcome in failed[:20]:
        print(f"image {outcome.seed}: {outcome.verdict.kind}: {outcome.verdict.detail[:200]}")
    if failed and asked.durability != "none":
        sys.exit(f"kept in {place}")
    shutil.rmtree(place)


def simulate(place: Path, durability: str, images: int, seed: int) -> _Outcomes:
    """Yield what becomes of so many images, of one recording for each sixty, with various options.

    A part of them are of a second life: what had survived a power cut goes on as a store, until the next one.
    """
    for number in range(seed, seed + ceil(images / _IMAGES)):
        options, count = varied(durability, number), min(images, _IMAGES)
        first, second = Simulation(place, options), Simulation(place, options, boot=1)
        yield from _run(first, record(place, number, options), count - count // _SHARE, number)
        image, values = first.survivor
        recording = record(place, number + _SECOND, options, image=image, boot="boot 1")
        yield from _run(second, recording, count // _SHARE, number + _SECOND, values)
        images -= count


def _run(simulation: Simulation, recording: Recording, *args: Any) -> _Outcomes:
    try:
        yield from simulation.run(recording, *args)
    finally:
        simulation.close()
        shutil.rmtree(recording.log)
        shutil.rmtree(recording.folder)


def varied(durability: str, seed: int) -> dict[str, Any]:
    """Return options that have checkpoints be made for one reason and another."""
    choose = Random(seed)
    return {
        "durability": durability,
        "checkpoint_interval": choose.choice((0.03, 0.1, 0.3, 1.0)),
        "checkpoint_bytes": choose.choice((1, 64)) << 20,
    }


if __name__ == "__main__":
    main()
