"""The hunt for lost wake-ups: producers and waiters in processes, with a pause now and then at every step.

The law: no wait hangs though nobody looks again just in case. What is counted is results: keys that one process waits
for and another one sets. And with the second look, whoever is killed, by kill -9, keeps nobody else waiting.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store import following
from lmdbresults.store.lmdb.records import waiters
from lmdbresults.store.thread_hub import ThreadHub, ThreadWait
from tests.support.processes import FORKS_WITH_THREADS, Child, in_children

#: Results that are waited for, in all; set LMDBRESULTS_STRESS_RESULTS for more, LMDBRESULTS_STRESS_SEED to repeat.
RESULTS = int(os.environ.get("LMDBRESULTS_STRESS_RESULTS", "2000"))
SEED = int(os.environ.get("LMDBRESULTS_STRESS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
PRODUCERS = WAITERS = 4
#: Results that a waiter waits for at a time, and seconds without any that are a hang.
ROUND = 20
PATIENCE = 30.0

pytestmark = [
    pytest.mark.filterwarnings(FORKS_WITH_THREADS),
    pytest.mark.timeout(120 + RESULTS / 100),
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
    """Put pauses around everything between a change and whoever waits for it."""
    store._wakes.send = now_and_then(chance, store._wakes.send)
    if hub is not None:
        subscription = hub.subscription
        for owner, names in (
            (subscription, ("add", "remove", "receive", "_datagram", "_register")),
            (subscription._registrations, ("watch", "unwatch")),
            (hub, ("follow", "unfollow", "_read", "_take")),
        ):
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
    monkeypatch.setattr("tests.support.processes.PATIENCE", 60 + RESULTS / 100)
    results = RESULTS // WAITERS // ROUND * ROUND
    begun = time.monotonic()
    lost = sum(in_children(PRODUCERS + WAITERS, run, path, results))
    with capsys.disabled():
        print(f"\n  {WAITERS * results} results in {time.monotonic() - begun:.1f} s, {lost} lost, seed {SEED}")
    assert lost == 0
    with open_store(path, durability="none") as store:
        assert store.check() == []
        assert store._environment.read(waiters.page, b"", 10) == ([], None)
    assert not Path(path + "-wake").exists()


def wait_on(path: str, number: int) -> None:
    """Wait for one result after another, until killed."""
    with open_store(path, durability="none") as store:
        hub, turn = ThreadHub(store, lambda: None), 0
        while True:
            keys = [b"killed %d/%d/%d" % (number, turn, each) for each in range(5)]
            with ThreadWait(hub, keys, time.monotonic() + 0.02) as wait:
                next(wait)
                store.set(b"asked %d" % number, b"%d" % turn)
                next(wait)
            turn += 1


def write_on(path: str, number: int) -> None:
    """Set what those ask for who are killed, until killed."""
    with open_store(path, durability="none") as store:
        while True:
            for asker in range(WAITERS):
                turn = int(store.get(b"asked %d" % asker) or 0)
                for each in range(number, 5, 2):
                    store.set(b"killed %d/%d/%d" % (asker, turn, each), b"done", ttl=60.0)


def wait_in_peace(path: str, count: int) -> int:
    with open_store(path, durability="none") as store:
        hub = ThreadHub(store, lambda: None)
        for number in range(count):
            store.set(b"wanted", b"%d" % number)
            with ThreadWait(hub, [key := b"peace %d" % number]) as wait:
                while not next(wait).get(key):
                    pass
        hub.close()
    return count


def write_in_peace(path: str, count: int) -> None:
    with open_store(path, durability="none") as store:
        number = -1
        while number < count - 1:
            wanted = int(store.get(b"wanted") or -1)
            if wanted > number:
                number = wanted
                store.set(b"peace %d" % number, b"done")


def test_who_is_killed_keeps_nobody_waiting(path: str) -> None:
    chance, count = random.Random(SEED), max(RESULTS // 4, 200)
    works = [(wait_on, number) for number in range(2)] + [(write_on, number) for number in range(2)]
    peaceful = [Child(wait_in_peace, path, count), Child(write_in_peace, path, count)]
    doomed = [Child(work, path, number) for work, number in works]
    try:
        for _ in range(40):
            time.sleep(chance.random() * 0.1)
            victim = chance.randrange(len(doomed))
            doomed[victim].close()
            work, number = works[victim]
            doomed[victim] = Child(work, path, number)
        assert peaceful[0].join() == count
        peaceful[1].join()
    finally:
        for each in peaceful + doomed:
            each.close()
    with open_store(path, durability="none") as store:
        store.sweep()
        assert store._environment.read(waiters.page, b"", 10) == ([], None)
        assert not Path(path + "-wake").exists()
        assert store.check() == []
