"""What one result costs through Celery's backend classes in one process: stored, read back, asked for in vain.

Run as python -m benchmarks.celery_backends. Entries and scenarios are here, peers.py opens the former and
measure.py times the latter.
"""

import argparse
import signal
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import track

from benchmarks import machine, peers, report
from benchmarks.measure import Work, play
from benchmarks.peers import Contestant, Entry
from benchmarks.servers import Unavailable

REFERENCE = "ours"
ENTRIES = (
    Entry(REFERENCE, "lmdb://, durability=none", "none", peers.ours("none")),
    Entry("Redis", "redis+socket://, no persistence", "memory", peers.redis),
    Entry("files", "file://", "none", peers.files),
    Entry("limit", "bare py-lmdb transaction, sync=False, no decoding", "none", peers.limit),
    Entry("SQLite", "db+sqlite://, WAL, synchronous=NORMAL, pooled", "checkpoint", peers.sqlite, 40),
    Entry("ours, commit", "lmdb://, durability=commit", "commit", peers.ours("commit"), 10),
)


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


SCENARIOS = {"store": store, "get": get, "miss": miss}


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


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.celery_backends", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="blocks a peer is measured in (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of ids and order (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser.parse_args()


def main() -> None:
    """Open, check, measure, show."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the server as Ctrl-C does
    settings = options()
    rng = Random(settings.seed)
    with TemporaryDirectory(prefix="lmdbresults-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        header = machine.describe(folder)
        contestants, missing = open_all(ENTRIES, folder, stack)
        for contestant in contestants:
            check(contestant, rng)
        rounds = track(range(settings.rounds), "measuring", console=Console(stderr=True), transient=True)
        samples = play(contestants, SCENARIOS, rounds, rng)
    measured = report.results(ENTRIES, missing, samples, REFERENCE)
    report.show(Console(), header, measured, REFERENCE)
    if settings.json:
        how = {"rounds": settings.rounds, "seed": settings.seed}
        report.write_json(settings.json, header, how, measured)


if __name__ == "__main__":
    main()
