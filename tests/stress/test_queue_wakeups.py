"""The hunt for lost wake-ups of consumers: publishers and consumers in processes, none of which looks by the clock.

The law: no message waits while a consumer sleeps. A consumer follows the topics of its queues only while it is idle: it
follows them, looks, and sleeps if there was nothing. Once it has messages it stops following, and drains.
"""

import os
import random
import time

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store.base import Subscription, WriteTransaction
from lmdbresults.store.queues import ACKNOWLEDGE, Message, Settlement, topic
from tests.stress.test_wakeups import now_and_then
from tests.support.processes import FORKS_WITH_THREADS, Child
from tests.support.queue_audit import audit

#: Messages in all; set LMDBRESULTS_STRESS_ITEMS for more, LMDBRESULTS_STRESS_SEED to repeat.
MESSAGES = int(os.environ.get("LMDBRESULTS_STRESS_ITEMS", "4000"))
SEED = int(os.environ.get("LMDBRESULTS_STRESS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
PUBLISHERS = CONSUMERS = 4
QUEUES = ("a", "b")
TOPICS = [topic(queue) for queue in QUEUES]
#: Seconds without a message that are a hang.
PATIENCE = 240.0

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.timeout(480 + MESSAGES / 50)]


def consume(path: str, number: int) -> int:
    """Take messages until there will be no more; return how often it slept."""
    chance, slept = random.Random(SEED + number), 0
    settlements: list[Settlement] = []
    with open_store(path, durability="none") as store:
        subscription = store.subscribe()
        for name in ("follow", "remove", "receive", "_mark"):
            setattr(subscription, name, now_and_then(chance, getattr(subscription, name)))
        while True:
            (taken,) = store.queues.turn(settlements, [(QUEUES, chance.choice((1, 4)))])
            settlements = [(ACKNOWLEDGE, delivery.tag) for delivery in taken.deliveries]
            if taken.deliveries:
                time.sleep(chance.choice((0, 0, 1e-3)))  # it works
                continue
            subscription.follow(TOPICS)
            (taken,) = store.queues.turn((), [(QUEUES, 1)])
            settlements = [(ACKNOWLEDGE, delivery.tag) for delivery in taken.deliveries]
            if not taken.deliveries:
                if store.get(b"published") == b"%d" % PUBLISHERS:
                    return slept
                sleep(subscription)
                slept += 1
            subscription.remove(TOPICS)
            subscription.drain()


def sleep(subscription: Subscription) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        changed = subscription.receive(PATIENCE)
        if changed is None or not changed.keys().isdisjoint(TOPICS):
            return
    raise AssertionError("no wake-up came")


def publish(path: str, number: int) -> None:
    chance = random.Random(SEED - number)
    with open_store(path, durability="none") as store:
        for name in ("send", "_send_datagram"):
            setattr(store._notifier, name, now_and_then(chance, getattr(store._notifier, name)))
        left = MESSAGES // PUBLISHERS
        while left:
            count = min(chance.choice((1, 1, 1, 3)), left)
            store.queues.publish([Message(b"body", chance.choice(QUEUES)) for _ in range(count)])
            left -= count
            time.sleep(chance.choice((0, 0, 0, 1e-3)))
        store.update(has_published)


def has_published(txn: WriteTransaction) -> None:
    txn.incr(b"published")
    for each in TOPICS:
        txn.notify(each)


def test_no_message_waits_while_a_consumer_sleeps(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(path, durability="none") as store:
        for queue in QUEUES:
            store.queues.declare(queue)
        consumers = [Child(consume, path, number) for number in range(CONSUMERS)]
        publishers = [Child(publish, path, number) for number in range(PUBLISHERS)]
        slept = wait_for(store, consumers, publishers)
        with capsys.disabled():
            print(f"\n  {MESSAGES} messages, slept {slept} times, seed {SEED}")
        assert [store.queues.state(queue) for queue in QUEUES] == [(0, 0, 0)] * 2
        assert store.queues.unacknowledged() == []
        assert audit(store) == []


def wait_for(store: LMDBStore, consumers: list[Child], publishers: list[Child]) -> int:
    """Wait for the children, longer than the `Child` itself; return how often the consumers slept."""
    until, former = time.monotonic() + PATIENCE, -1
    try:
        while store.get(b"published") != b"%d" % PUBLISHERS and time.monotonic() < until:
            time.sleep(0.1)
            if (moment := store.moment()) != former:
                until, former = time.monotonic() + PATIENCE, moment
        for child in publishers:
            child.join()
        return sum(child.join() for child in consumers)
    finally:
        for child in [*consumers, *publishers]:
            child.close()
