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
from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from tests.crash.disk import UNITS, Disk
from tests.crash.history import History, Verdict
from tests.crash.opener import Opener
from tests.crash.recording import Event, Kind, Recording
from tests.crash.workload import NAME, record

__all__ = ["Outcome", "Simulation", "table", "varied"]

_KINDS: Final = ("consistent", "lost", "wrong", "error", "aborted")
#: Images of one recording.
_IMAGES: Final = 60
#: Of so many images, one is cut a second time while it is being recovered.
_AGAIN: Final = 3


class Outcome(NamedTuple):
    """What became of one image."""

    seed: int
    unit: int
    during_recovery: bool
    verdict: Verdict


class Simulation:
    """Power cuts of stores that are opened with some options."""

    def __init__(self, place: Path, options: dict[str, Any], ignores_sync: Iterable[str] = ()) -> None:
        self._place, self._ignored = place, tuple(ignores_sync)
        self._options = {**options, "durability": options["durability"].replace("mixed", "checkpoint")}
        self._opener = Opener()

    def close(self) -> None:
        self._opener.close()

    def run(self, recording: Recording, images: int, seed: int) -> Iterator[Outcome]:
        """Yield what becomes of a recorded store in so many power cuts, and in some more while it is recovered."""
        events = recording.events()
        history, disk, done = History(events), Disk(recording.inode, self._ignored), 0
        for number, moment in enumerate(sorted(_moments(events, images, Random(seed)))):
            for event in events[done:moment]:
                disk.apply(event)
            done = moment
            yield from self._cut(disk, history, events[moment], seed * 100_000 + number)

    def _cut(self, disk: Disk, history: History, cut: Event, seed: int) -> Iterator[Outcome]:
        unit, again = UNITS[seed % 2], seed // 2 % _AGAIN == 0
        image = _Image(self._place / f"image-{seed}", disk.image(Random(seed), unit))
        case = _Case(history, cut, Outcome(seed, unit, False, Verdict("", "")))
        if not again:
            yield self._open(image, case, None)
            return
        inodes = image.write()
        log = self._place / f"recovery-{seed}"
        log.mkdir()
        recording = Recording(log, image.folder)
        yield self._open(image, case, log)
        recovered = Disk(recording.inode, self._ignored)
        recovered.load(image.files, inodes)
        if _recover(recovered, recording.events(), Random(-seed)):
            second = _Image(self._place / f"image-{seed}-again", recovered.image(Random(-seed), unit))
            yield self._open(second, case._replace(outcome=case.outcome._replace(during_recovery=True)), None)
        shutil.rmtree(log)

    def _open(self, image: "_Image", case: "_Case", log: "Path | None") -> Outcome:
        image.write()
        boot = "the boot after the next" if case.outcome.during_recovery else "the next boot"
        found = self._opener.open(image.folder / NAME, self._options, boot, log)
        outcome = case.outcome._replace(verdict=case.history.judge(case.cut, found))
        shutil.rmtree(image.folder)
        if outcome.verdict.kind != "consistent":
            image.write()
            (image.folder / "verdict.json").write_text(json.dumps([*outcome, case.cut.place, case.cut.kind.name]))
        return outcome


class _Image(NamedTuple):
    """What is left of a store, and where it is put."""

    folder: Path
    files: dict[str, bytes]

    def write(self) -> dict[str, int]:
        """Put the files into the folder; return their inodes."""
        self.folder.mkdir(exist_ok=True)
        for name, content in self.files.items():
            (self.folder / name).write_bytes(content)
            (self.folder / name).chmod(0o600)
        return {name: (self.folder / name).stat().st_ino for name in self.files}


class _Case(NamedTuple):
    """What an image is judged by."""

    history: History
    cut: Event
    outcome: Outcome


def _recover(disk: Disk, events: list[Event], choose: Random) -> bool:
    """Apply what a recovery has written, up to a random moment of it; return whether there was anything."""
    read = next(number for number, event in enumerate(events) if event.kind is Kind.MARK)
    for event in events[: choose.randrange(read) + 1 if read else 0]:
        disk.apply(event)
    return read > 0


def _moments(events: list[Event], count: int, choose: Random) -> Iterator[int]:
    """Yield positions in the list of events: near a sync, while the file is new, or anywhere; and the end."""
    syncs = [number for number, event in enumerate(events) if event.kind in (Kind.SYNC_BEGIN, Kind.SYNC_END)]
    for number in range(count):
        near_sync, early = choose.choice(syncs) + choose.randrange(-2, 4), choose.randrange(1, 60)
        moment = (near_sync, near_sync, early, choose.randrange(1, len(events)))[number % 4]
        yield min(max(moment, 1), len(events) - 1) if number else len(events) - 1


def table(outcomes: list[Outcome]) -> str:
    """Return what became of the images, a line for each unit of tearing."""
    rows = [f"{'torn at':<22}{'images':>8}" + "".join(f"{kind:>12}" for kind in _KINDS) + "   most lost"]
    for again in (False, True):
        for unit in UNITS:
            chosen = [o for o in outcomes if o.unit == unit and o.during_recovery == again]
            if chosen:
                rows.append(_row(f"{unit} B{', in recovery' if again else ''}", chosen))
    return "\n".join([*rows, _row("all", outcomes)])


def _row(name: str, outcomes: list[Outcome]) -> str:
    kinds = Counter(outcome.verdict.kind for outcome in outcomes)
    verdicts = [outcome.verdict for outcome in outcomes if outcome.verdict.kind in ("consistent", "lost")]
    most = max(verdicts, key=lambda verdict: verdict.commits, default=Verdict("", ""))
    longest = max((verdict.seconds for verdict in verdicts), default=0.0)
    counts = "".join(f"{kinds[kind]:>12}" for kind in _KINDS)
    return f"{name:<22}{len(outcomes):>8}{counts}   {most.commits} commits, {longest:.2f} s"


def main() -> None:
    """Run as many images as are wanted, with a new recording for each sixty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--durability", choices=("checkpoint", "commit", "mixed", "none"), default="checkpoint")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="power-cut-"))
    outcomes = list(_simulate(place, asked.durability, asked.images, asked.seed))
    print(f"durability={asked.durability}, seed {asked.seed}\n{table(outcomes)}")
    failed = [outcome for outcome in outcomes if outcome.verdict.kind != "consistent"]
    for outcome in failed[:20]:
        print(f"image {outcome.seed}: {outcome.verdict.kind}: {outcome.verdict.detail[:200]}")
    if failed and asked.durability != "none":
        sys.exit(f"kept in {place}")
    shutil.rmtree(place)


def _simulate(place: Path, durability: str, images: int, seed: int) -> Iterator[Outcome]:
    for number in range(seed, seed + ceil(images / _IMAGES)):
        options = varied(durability, number)
        recording, simulation = record(place, number, options), Simulation(place, options)
        yield from simulation.run(recording, min(images, _IMAGES), number)
        simulation.close()
        shutil.rmtree(recording.log)
        shutil.rmtree(recording.folder)
        images -= _IMAGES


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
