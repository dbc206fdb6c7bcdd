"""Workers are killed at random moments by kill -9; nothing acknowledged is lost. This does not test power failures."""

import mmap
import os
import random
import signal
import time
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_store
from tests.stress.worker import SHARED, History, totals, work
from tests.support.processes import FORKS_WITH_THREADS, Child

#: Seconds that each test runs; set LMDBRESULTS_STRESS_SECONDS for more, LMDBRESULTS_STRESS_SEED to repeat a run.
SECONDS = float(os.environ.get("LMDBRESULTS_STRESS_SECONDS", "4"))
SEED = int(os.environ.get("LMDBRESULTS_STRESS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
PROCESSES = 8

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.timeout(2 * SECONDS + 480)]


def run_worker(folder: Path, owner: int, seed: int, stop: mmap.mmap, options: dict[str, object]) -> None:
    with open_store(folder / "results.lmdb", **options) as store:
        work(store, History(folder / f"history {owner}", owner), seed, stop)


def kill_at_random(folder: Path, seconds: float, chance: random.Random, options: dict[str, object]) -> int:
    """Kill and restart one worker after another for so many seconds; return the number of kills."""

    def start(owner: int) -> Child:
        return Child(run_worker, folder, owner, chance.getrandbits(32), stop, options)

    stop = mmap.mmap(-1, 1)
    workers = [start(owner) for owner in range(PROCESSES)]
    kills, end = 0, time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            time.sleep(chance.expovariate(50))
            owner = chance.randrange(PROCESSES)
            workers[owner].kill()
            if workers[owner].status != -signal.SIGKILL:
                workers[owner].join()  # it ended by itself: raise its error
            workers[owner].close()
            workers[owner] = start(owner)
            kills += 1
        stop[0] = 1
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.close()
    return kills


def assert_nothing_lost(folder: Path, store: LMDBStore) -> int:
    """Compare the store with the acknowledged operations; return their number."""
    histories = [History(folder / f"history {owner}", owner) for owner in range(PROCESSES)]
    for history in histories:
        history.settle(store)
    operations, least, most = totals(histories)
    assert least <= int(store.get(SHARED) or 0) <= most
    assert store.check() == []
    return operations


@pytest.mark.parametrize(
    "options",
    [{"durability": "none"}, {"durability": "commit"}, {"durability": "none", "max_size": 8 << 20}],
    ids=["none", "commit", "none, often full"],
)
def test_nothing_acknowledged_is_lost_when_processes_are_killed(
    tmp_path: Path, options: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        kills = kill_at_random(tmp_path, SECONDS, random.Random(SEED), options)
        with open_store(tmp_path / "results.lmdb", **options) as store:
            operations = assert_nothing_lost(tmp_path, store)
    except BaseException:
        print(f"seed {SEED}; the file and what the workers did are in {tmp_path}")
        raise
    with capsys.disabled():
        print(f"\n  {operations} operations acknowledged, {kills} processes killed, seed {SEED}")
    assert operations > kills > 0
