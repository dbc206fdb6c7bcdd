"""The hunt for lost wake-ups of topics: producers and consumers in processes that wake one another, one at a time.

The law: no item is left lying while consumers sleep, although none looks again by itself. A consumer follows the topic
only while it is idle: it follows, takes what is there, and sleeps if that was nothing; else it stops following, drains,
and works. One that leaves more than it takes wakes another. A consumer that is killed may take a wake-up with it, so
its end is announced to all.
"""

import os
import random
import signal
import time

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store.base import Subscription, WriteTransaction
from tests.stress.test_wakeups import now_and_then
from tests.support.processes import FORKS_WITH_THREADS, Child

#: Items in all; set LMDBRESULTS_STRESS_ITEMS for more, LMDBRESULTS_STRESS_SEED to repeat.
ITEMS = int(os.environ.get("LMDBRESULTS_STRESS_ITEMS", "4000"))
SEED = int(os.environ.get("LMDBRESULTS_STRESS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
PRODUCERS = CONSUMERS = 4
TOPIC = b"topic"
#: Seconds without a message that are a hang; items that a consumer takes at most at a time.
PATIENCE, LIMIT = 240.0, 3

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.timeout(480 + ITEMS / 50)]


def take(txn: WriteTransaction) -> int | None:
    """Take some items; return how many, or None if no more will come."""
    found = [key for key, _ in txn.range(b"item ", limit=LIMIT + 1)]
    for key in found[:LIMIT]:
        txn.delete(key)
    if len(found) > LIMIT:
        txn.notify(TOPIC, one=True)
    elif not found and txn.get(b"produced") == b"%d" % PRODUCERS:
        return None
    txn.incr(b"taken", len(found[:LIMIT]))
    return len(found[:LIMIT])


def consume(path: str, number: int) -> int:
    """Take items until there will be no more; return how often it was woken."""
    chance, woken = random.Random(SEED + number), 0
    with open_store(path, durability="none") as store:
        subscription = store.subscribe()
        for name in ("follow", "remove", "receive", "_mark"):
            setattr(subscription, name, now_and_then(chance, getattr(subscription, name)))
        while True:
            subscription.follow([TOPIC])
            if (taken := store.update(take)) is None:
                return woken
            if taken:
                subscription.remove([TOPIC])
                subscription.drain()
                time.sleep(chance.choice((0, 0, 1e-3)))  # it works
            elif not sleep(subscription):
                raise AssertionError("no wake-up came")
            else:
                woken += 1


def sleep(subscription: Subscription) -> bool:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        changed = subscription.receive(PATIENCE)
        if changed is None or TOPIC in changed:
            return True
    return False


def produce(path: str, number: int) -> None:
    chance = random.Random(SEED - number)
    with open_store(path, durability="none") as store:
        harassed = store._notifier
        for name in ("send", "_send_datagram"):
            setattr(harassed, name, now_and_then(chance, getattr(harassed, name)))
        for item in range(ITEMS // PRODUCERS):
            add(store, b"item %d/%d" % (item, number))
            time.sleep(chance.choice((0, 0, 0, 1e-3)))
        store.update(lambda txn: [txn.incr(b"produced"), txn.notify(TOPIC)])


def add(store: LMDBStore, key: bytes) -> None:
    store.update(lambda txn: [txn.set(key, b""), txn.notify(TOPIC, one=True)])


def test_no_item_is_left_while_consumers_sleep(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(path, durability="none") as store:
        processes = [Child(produce, path, number) for number in range(PRODUCERS)]
        consumers = [Child(consume, path, number) for number in range(CONSUMERS)]
        kills = kill_some(path, store)
        try:
            woken = sum(each.join() or 0 for each in [*processes, *consumers])
        finally:
            for each in [*processes, *consumers]:
                each.close()
        with capsys.disabled():
            print(f"\n  {ITEMS} items, {kills} kills, {woken} wake-ups, seed {SEED}")
        assert store.get(b"taken") == b"%d" % ITEMS


def kill_some(path: str, store: LMDBStore) -> int:
    """Run one more consumer at a time, which is killed or stopped at a random moment, until all is produced."""
    chance, kills = random.Random(SEED), 0
    while store.get(b"produced") != b"%d" % PRODUCERS:
        doomed = Child(consume, path, 1000 + kills)
        time.sleep(chance.random() * 0.05)
        if chance.random() < 0.3:
            os.kill(doomed.pid, signal.SIGSTOP)
            time.sleep(0.02)
            store.notify(TOPIC)  # what it was woken for, another takes
        doomed.close()
        store.notify(TOPIC)
        kills += 1
    return kills
