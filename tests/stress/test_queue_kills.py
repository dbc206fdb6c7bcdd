"""Publishers and consumers of queues are killed at random moments, and at each step: nothing is lost or done twice.

The laws: a message that was acknowledged to its publisher is delivered until its effects are committed. Effects that
are committed together with the acknowledgement happen once. A message is delivered again only if it was held by a
process that was killed.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store import queues
from lmdbresults.store.base import WriteTransaction
from lmdbresults.store.queues import ACKNOWLEDGE, REJECT, REQUEUE, Arguments, Delivery, Message, transactional
from tests.support.interrupting import count_points, interrupted, spread
from tests.support.processes import FORKS_WITH_THREADS, Child
from tests.support.queue_audit import audit, bodies_held

#: Messages in all; set LMDBRESULTS_STRESS_ITEMS for more, LMDBRESULTS_STRESS_SEED to repeat.
MESSAGES = int(os.environ.get("LMDBRESULTS_STRESS_ITEMS", "4000"))
SEED = int(os.environ.get("LMDBRESULTS_STRESS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
CONSUMERS, PREFETCH = 4, 4
#: Steps of each operation at which a process is killed.
POINTS = 2000 if os.environ.get("LMDBRESULTS_FULL") == "1" else 30

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.timeout(480 + MESSAGES / 50)]


# -- at random moments -------------------------------------------------------------------------------------------------


def consume(path: str, log: str) -> None:
    """Run messages until all are done: note each in a log, then commit its effects with its acknowledgement."""
    with open_store(path, durability="none") as store, open(log, "ab", buffering=0) as runs:
        while store.get(b"done") != b"%d" % MESSAGES:
            store.queues.recover()
            found = store.queues.take(["q"], PREFETCH).deliveries
            for delivery in found:
                runs.write(b"%b %d\n" % (delivery.body, delivery.redelivered))
                store.update(lambda txn, delivery=delivery: end(txn, delivery))
            if not found:
                time.sleep(0.001)


def end(txn: WriteTransaction, delivery: Delivery) -> None:
    """Commit the effects of a message: a count of its own, one of all, and the message of a link every tenth time."""
    if queues.acknowledge(txn, delivery.tag):
        txn.incr(b"effects of " + delivery.body)
        txn.incr(b"done")
        if delivery.body.endswith(b"0"):
            queues.publish(txn, [Message(delivery.body, "links")])


def publish(path: str) -> None:
    """Publish messages, the next one that is not published."""
    with open_store(path, durability="none") as store:
        while store.update(publish_next):
            pass


def publish_next(txn: WriteTransaction) -> bool:
    number = txn.incr(b"published")
    if number > MESSAGES:
        return False
    queues.publish(txn, [Message(b"%d" % number, "q", priority=number % 3)])
    return True


def test_each_message_has_its_effects_once_whatever_processes_are_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, log, chance, kills = str(tmp_path / "queue.lmdb"), str(tmp_path / "log"), random.Random(SEED), 0
    with open_store(path, durability="none") as store:
        store.queues.declare("q")
        store.queues.declare("links")
        works: list[Callable[[], Child]] = [lambda: Child(consume, path, log)] * CONSUMERS
        works.append(lambda: Child(publish, path))
        children = [work() for work in works]
        try:
            while store.get(b"done") != b"%d" % MESSAGES:
                time.sleep(chance.expovariate(30))
                number = chance.randrange(len(children))
                children[number].kill()
                if children[number].status != -signal.SIGKILL:
                    children[number].join()  # it ended by itself: raise its error
                else:
                    kills += 1
                children[number].close()
                children[number] = works[number]()
            for child in children:
                child.join()
        finally:
            for child in children:
                child.close()
        runs = Counter(line.split()[0] for line in (tmp_path / "log").read_bytes().splitlines())
        redelivered = sum(line.endswith(b" 1") for line in (tmp_path / "log").read_bytes().splitlines())
        with capsys.disabled():
            print(f"\n  {MESSAGES} messages, {kills} kills, {runs.total() - MESSAGES} runs twice, seed {SEED}")
        bodies = [b"%d" % number for number in range(1, MESSAGES + 1)]
        assert store.mget([b"effects of " + body for body in bodies]) == [b"1"] * MESSAGES
        assert set(runs) == set(bodies)
        assert runs.total() - MESSAGES <= redelivered <= kills * PREFETCH
        links = Counter(delivery.body for delivery in store.queues.take(["links"], MESSAGES).deliveries)
        assert links == Counter(body for body in bodies if body.endswith(b"0"))
        assert (bodies_held(store) - links, audit(store), store.check()) == (Counter(), [], [])


# -- at each step ------------------------------------------------------------------------------------------------------


def one(store: LMDBStore) -> None:
    store.queues.publish([Message(b"new", "q"), Message(b"x" * 9000, "other")])


def turn(store: LMDBStore) -> None:
    first, second, third = store.queues.unacknowledged("q")[:3]
    store.queues.turn([(ACKNOWLEDGE, first.tag), (REJECT, second.tag), (REQUEUE, third.tag)], [(["q", "other"], 3)])


def recover(store: LMDBStore) -> None:
    store.queues.recover()


def delete(store: LMDBStore) -> None:
    store.queues.delete("other")


def purge(store: LMDBStore) -> None:
    store.queues.purge("other")


def prepare(path: Path) -> None:
    """Make queues with messages: some wait, some are held by a process that is dead, one is large."""
    with open_store(path, durability="none") as store:
        store.queues.declare("q", Arguments(dead_letter_key="dead"))
        store.queues.declare("dead")
        store.queues.declare("other")
        store.queues.publish([Message(b"%d" % number, "q") for number in range(8)])
        store.queues.publish([Message(b"other %d" % number, "other") for number in range(50)])
        store.queues.publish([Message(b"%d" % number * 9000, "other") for number in range(8)])
        store.queues.take(["q"], 4)


def die_at_point(path: Path, work: Callable[[LMDBStore], None], point: int) -> None:
    with open_store(path, durability="none") as store:
        store.get(b"")
        with interrupted(point, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            work(store)


@pytest.mark.parametrize("work", [one, turn, recover, delete, purge])
def test_a_process_that_is_killed_at_any_step_leaves_the_queues_in_order(
    tmp_path: Path, work: Callable[[LMDBStore], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactional, "_BATCH", 20)
    template = tmp_path / "template.lmdb"
    Child(prepare, template).join()
    with open_store(copy(template), durability="none") as store:
        points = count_points(lambda: work(store))
    kinds = set()
    for point in spread(points, POINTS):
        path = copy(template)
        child = Child(die_at_point, path, work, point)
        child.wait()
        child.close()
        with open_store(path, durability="none") as store:
            assert (audit(store), store.check()) == ([], []), point
            kinds.add(tuple(store.queues.state(name) for name in ("q", "dead", "other")))
            store.queues.recover()
            assert [key for key, _ in store.scan(b"queue-doomed-")] == [], point
            assert (audit(store), store.check()) == ([], []), point
            held = bodies_held(store)
            assert held[b"2"] == 1
            assert all(held[b"%d" % number] <= 1 for number in range(8)), point
    assert len(kinds) > 1, "killed before and after the commit"


def copy(template: Path) -> Path:
    """Return a fresh copy of a file."""
    target = template.with_name("copy.lmdb")
    for path in template.parent.glob("copy.lmdb*"):
        if path.is_file():
            path.unlink()
    target.write_bytes(template.read_bytes())
    target.chmod(0o600)
    return target
