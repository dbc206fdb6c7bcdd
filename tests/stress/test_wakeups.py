"""The hunt for lost wake-ups: producers and waiters in processes, with a pause now and then at every step.

The law: no wait hangs although no waiter looks again by itself, while other waiters and writers are killed by kill -9.
What is counted is results: keys that one process waits for and another one sets.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store import following
from lmdbresults.store.lmdb.notify.box import Box
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait
from tests.support.processes import FORKS_WITH_THREADS, Child
from tests.support.waits import registrations, sockets

#: Results that are waited for, in all; set LMDBRESULTS_STRESS_RESULTS for more, LMDBRESULTS_STRESS_SEED to repeat.
RESULTS = int(os.environ.get("LMDBRESULTS_STRESS_RESULTS", "2000"))
SEED = int(os.environ.get("LMDBRESULTS_STRESS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
PRODUCERS = WAITERS = 4
#: Results that a waiter waits for at a time, and seconds without any that are a hang.
ROUND = 20
PATIENCE = 240.0

pytestmark = [
    pytest.mark.filterwarnings(FORKS_WITH_THREADS),
    pytest.mark.timeout(480 + RESULTS / 100),
]


def key_of(waiter: int, number: int) -> bytes:
    return b"result %d/%d" % (waiter, number)


def now_and_then(chance: random.Random, step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that pauses before and after itself, now and then, for up to 200 us."""

    def pause() -> None:
        if chance.random() < 0.2:
            time.sleep(chance.random() * 2e-4)

    def pausing(*args: Any, **kwargs: Any) -> Any:
        pause()
        outcome = step(*args, **kwargs)
        pause()
        return outcome

    return pausing


def harass(chance: random.Random, store: LMDBStore, hub: ThreadHub | None = None) -> None:
    """Put pauses around everything between a change and the thread that waits for it."""
    steps: list[tuple[Any, tuple[str, ...]]] = [(store._notifier, ("send", "_send_datagram"))]
    if hub is not None:
        steps.append((hub, ("follow", "unfollow", "_unsubscribe", "_read", "_take")))
        steps.append((hub.subscription, ("follow", "remove", "receive", "_look", "_datagram", "_mark")))
        steps.append((Box, ("mark", "has_lost")))
    for owner, names in steps:
        for name in names:
            setattr(owner, name, now_and_then(chance, getattr(owner, name)))


def wait_for_all(hub: ThreadHub, keys: list[bytes]) -> int:
    """Wait for keys; return how many were given up after `PATIENCE`."""
    left = set(keys)
    with ThreadWait(hub, keys, time.monotonic() + PATIENCE) as wait:
        for values in wait:
            left.difference_update(key for key, value in values.items() if value is not None)
            if not left or wait._has_ended:  # what only the last look has found was lost
                break
    return len(left)


def run(number: int, path: str, results: int) -> int:
    """Be a producer or a waiter; return how many results were waited for in vain."""
    following.LOOK_EVERY = 3600.0  # type: ignore[misc]
    chance = random.Random(SEED + number)
    with open_store(path, durability="none") as store:
        if number < PRODUCERS:
            harass(chance, store)
            produce(store, number, results)
            return 0
        hub = ThreadHub(store, lambda: None)
        harass(chance, store, hub)
        lost, waiter = 0, number - PRODUCERS
        for start in range(0, results, ROUND):
            store.set(b"round %d" % waiter, b"%d" % start)
            lost += wait_for_all(hub, [key_of(waiter, each) for each in range(start, start + ROUND)])
        hub.close()
        return lost


def produce(store: LMDBStore, producer: int, results: int) -> None:
    """Set one in `PRODUCERS` of the results of each round as soon as its waiter has begun it."""
    done = [0] * WAITERS
    while min(done) < results:
        for waiter in range(WAITERS):
            begun = store.get(b"round %d" % waiter)
            if begun is not None and int(begun) >= done[waiter]:
                start = int(begun)
                for number in range(start + producer, start + ROUND, PRODUCERS):
                    store.set(key_of(waiter, number), b"done", ttl=60.0)
                done[waiter] = start + ROUND


def test_no_wake_up_is_lost(path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.processes.PATIENCE", 240 + RESULTS / 100)
    results = RESULTS // WAITERS // ROUND * ROUND
    begun = time.monotonic()
    processes = [Child(run, number, path, results) for number in range(PRODUCERS + WAITERS)]
    try:
        with others_are_killed(path) as kills:
            lost = sum(each.join() or 0 for each in processes)
    finally:
        for each in processes:
            each.close()
    with capsys.disabled():
        seconds = time.monotonic() - begun
        print(f"\n  {WAITERS * results} results in {seconds:.1f} s, {lost} lost, {len(kills)} kills, seed {SEED}")
    assert lost == 0
    leaves_nothing(path)


def leaves_nothing(path: str) -> None:
    """Check that a sweep clears what killed processes have left."""
    with open_store(path, durability="none") as store:
        store.sweep()
        assert store.check() == []
    assert (registrations(path), sockets(path)) == (0, [])


@contextmanager
def others_are_killed(path: str) -> Iterator[list[int]]:
    """Run waiters and writers that are killed at random moments, and replaced, during the block."""
    chance, ended, kills = random.Random(SEED), threading.Event(), list[int]()
    works = [(work, number) for work in (wait_on, write_on) for number in range(2)]

    def kill() -> None:
        doomed = [Child(work, path, number) for work, number in works]
        while not ended.wait(chance.random() * 0.1):
            victim = chance.randrange(len(doomed))
            doomed[victim].close()
            kills.append(doomed[victim].pid)
            doomed[victim] = Child(works[victim][0], path, works[victim][1])
        for each in doomed:
            each.close()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield kills
    finally:
        ended.set()
        thread.join()


def wait_on(path: str, number: int) -> None:
    """Wait for some results after others, until killed; also for those that the waiters of the hunt wait for."""
    with open_store(path, durability="none") as store:
        hub, turn = ThreadHub(store, lambda: None), 0
        while True:
            keys = [b"killed %d/%d/%d" % (number, turn, each) for each in range(5)]
            keys += [key_of(number, int(store.get(b"round %d" % number) or 0) + each) for each in range(ROUND)]
            with ThreadWait(hub, keys, time.monotonic() + 0.02) as wait:
                next(wait)
                store.set(b"asked %d" % number, b"%d" % turn)
                next(wait)
            turn += 1


def write_on(path: str, number: int) -> None:
    """Set what the waiters that are killed ask for, until killed."""
    with open_store(path, durability="none") as store:
        while True:
            for asker in range(WAITERS):
                turn = int(store.get(b"asked %d" % asker) or 0)
                for each in range(number, 5, 2):
                    store.set(b"killed %d/%d/%d" % (asker, turn, each), b"done", ttl=60.0)


def wait_in_turn(path: str, count: int) -> int:
    with open_store(path, durability="none") as store:
        hub = ThreadHub(store, lambda: None)
        for number in range(count):
            store.set(b"wanted", b"%d" % number)
            with ThreadWait(hub, [key := b"turn %d" % number]) as wait:
                while not next(wait).get(key):
                    pass
        hub.close()
    return count


def write_in_turn(path: str) -> None:
    """Set what is wanted, until killed."""
    with open_store(path, durability="none") as store:
        while True:
            wanted = int(store.get(b"wanted") or -1)
            if wanted >= 0:
                store.add(b"turn %d" % wanted, b"done")


def test_a_writer_that_is_killed_before_it_sends_makes_a_wait_no_longer_than_a_look(path: str) -> None:
    """Waiters look again: here every hundredth of a second."""
    chance, count = random.Random(SEED), max(RESULTS // 10, 200)

    def wait() -> int:
        following.LOOK_EVERY = 0.01  # type: ignore[misc]
        return wait_in_turn(path, count)

    waiter, writer = Child(wait), Child(write_in_turn, path)
    try:
        for _ in range(40):
            time.sleep(chance.random() * 0.05)
            writer.close()
            writer = Child(write_in_turn, path)
        assert waiter.join() == count
    finally:
        waiter.close()
        writer.close()
    leaves_nothing(path)
