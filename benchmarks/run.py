"""A run of a benchmark: its entries opened, checked, measured side by side, shown. What is compared is elsewhere."""

import argparse
import signal
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import track

from benchmarks import machine, report
from benchmarks.measure import Scenario, Work, play
from benchmarks.peers import Contestant, Entry
from benchmarks.servers import Unavailable


def store(contestant: Contestant, count: int, rng: Random) -> Work:
    """Store the result of a task that has none yet."""
    ids = new_ids(count, rng)
    contestant.stored += ids
    return contestant.peer.store, [contestant.peer.request(task_id) for task_id in ids]


def get(contestant: Contestant, count: int, rng: Random) -> Work:
    """Read any result stored so far."""
    return contestant.peer.get, rng.choices(contestant.stored, k=count)


def miss(contestant: Contestant, count: int, rng: Random) -> Work:
    """Ask for a result that is not there."""
    return contestant.peer.get, new_ids(count, rng)


def new_ids(count: int, rng: Random) -> list[str]:
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def open_all(entries: Sequence[Entry], folder: Path, stack: ExitStack) -> tuple[list[Contestant], dict[str, str]]:
    """Those that run here, and why the others do not."""
    contestants, missing = [], {}
    for entry in entries:
        try:
            contestants.append(Contestant(entry, entry.open(folder, stack)))
            stack.callback(contestants[-1].peer.close)
        except Unavailable as reason:
            missing[entry.name] = str(reason)
    return contestants, missing


def check(contestant: Contestant, rng: Random) -> None:
    """A peer that returned something else than what was stored would be fast for nothing."""
    peer, (known, unknown) = contestant.peer, new_ids(2, rng)
    peer.store(peer.request(known))
    if not peer.holds(known) or peer.holds(unknown):
        raise RuntimeError(f"{contestant.entry.name} does not return what was stored")


def options(module: str, description: str | None) -> argparse.ArgumentParser:
    """What every benchmark can be asked for; one may add options of its own."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--rounds", type=int, default=100, help="blocks a peer is measured in (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of ids and order (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser


def run(
    settings: argparse.Namespace, entries: Sequence[Entry], scenarios: Mapping[str, Scenario], reference: str
) -> None:
    """Open, check, measure, show."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a server as Ctrl-C does
    rng = Random(settings.seed)
    with TemporaryDirectory(prefix="lmdbresults-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        header = machine.describe(folder)
        contestants, missing = open_all(entries, folder, stack)
        for contestant in contestants:
            check(contestant, rng)
        rounds = track(range(settings.rounds), "measuring", console=Console(stderr=True), transient=True)
        samples = play(contestants, scenarios, rounds, rng)
    measured = report.results(entries, missing, samples, reference)
    report.show(Console(), header, measured, report.LEGEND.format(reference=reference))
    if settings.json:
        how = {name: value for name, value in vars(settings).items() if name != "json"}
        report.write_json(settings.json, header, how, measured)
