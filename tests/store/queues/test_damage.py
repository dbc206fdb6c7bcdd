"""A damaged record stays where it is, and does not stop the messages around it."""

import time
from typing import Any

import pytest

from lmdbresults import LMDBStore
from lmdbresults.store.queues import ACKNOWLEDGE, Message, QueueState
from lmdbresults.store.queues.records import Head
from lmdbresults.testing.queue_owners import DEAD, as_process
from tests.support.queue_audit import audit


def damage(store: LMDBStore, prefix: bytes, number: int) -> None:
    """Change a byte of a record behind the store's back."""
    key = sorted(key for key, _ in store.scan(prefix))[number]

    def change(raw: Any) -> None:
        data = raw.get(b"k" + key)
        raw.put(b"k" + key, data[:-1] + bytes([data[-1] ^ 1]))

    store._environment.write(change)


@pytest.fixture
def queue(store: LMDBStore) -> LMDBStore:
    store.queues.declare("q")
    store.queues.publish([Message(b"%d" % number, "q") for number in range(5)])
    return store


def bodies(store: LMDBStore, limit: int = 10) -> list[bytes]:
    return [each.body for each in store.queues.take(["q"], limit).deliveries]


@pytest.mark.parametrize("number", [0, 2, 4])
def test_messages_around_a_damaged_one_are_taken(queue: LMDBStore, number: int):
    damage(queue, b"queue-ready-", number)
    rest = [b"%d" % each for each in range(5) if each != number]
    assert [each.body for each in queue.queues.peek("q")] == rest
    assert bodies(queue, 2) + bodies(queue, 1) + bodies(queue) == rest
    assert bodies(queue) == []
    assert queue.queues.state("q") == QueueState(0, 0, 0)
    queue.queues.publish([Message(b"new", "q")])
    assert bodies(queue) == [b"new"]
    assert len(queue.check()) == 1


def test_heads_that_disagree_with_their_messages_are_named_and_repaired(queue: LMDBStore):
    queue.queues.publish([Message(b"later", "q", due=time.time() + 60), Message(b"much later", "q", due=2e9)])
    (taken,) = queue.queues.take(["q"], 1).deliveries
    before, (key, head) = queue.queues.state("q"), next(queue.scan(b"queue-head-"))
    assert queue.check() == []
    for wrong in (Head.new(1).pack(), head[:4] + bytes(8) + head[12:]):  # nothing is counted; numbers begin again
        queue.set(key, wrong)
        assert len(queue.check()) == len(queue.check(deep=True)) == 1
        assert "The head of queue 'q'" in queue.check()[0]
        assert len(queue.repair()) == 1
        assert queue.check() == audit(queue) == []
        assert queue.queues.state("q") == before
    queue.queues.publish([Message(b"new", "q")])
    assert queue.queues.requeue(taken.tag)
    assert bodies(queue) == [b"0", b"1", b"2", b"3", b"4", b"new"]


@pytest.mark.parametrize("is_taken", [True, False])
def test_messages_of_a_queue_whose_head_is_lost_get_one(queue: LMDBStore, is_taken: bool):
    queue.queues.take(["q"], int(is_taken))
    queue.delete(b"queue-head-q")
    queue.delete(b"queue-ids")
    assert len(queue.check()) == 2
    queue.repair()
    name = "q" if is_taken else "salvaged-1"  # a delivery knows the name of its queue
    assert queue.queues.state(name) == QueueState(5 - is_taken, 5 - is_taken, 0)
    queue.queues.declare("other")
    assert queue.check() == audit(queue) == []


def test_deliveries_around_a_damaged_one_are_recovered(queue: LMDBStore, monkeypatch: pytest.MonkeyPatch):
    with as_process(monkeypatch, DEAD):
        taken = queue.queues.take(["q"], 5).deliveries
    damage(queue, b"queue-unacked-", 1)
    assert queue.queues.recover().messages == 4
    assert queue.queues.recover().messages == 0
    queue.queues.turn([(ACKNOWLEDGE, taken[1].tag)], [])
    assert bodies(queue) == [b"0", b"2", b"3", b"4"]
    assert queue.check() == []


def test_a_queue_with_a_damaged_message_can_be_purged_and_deleted(queue: LMDBStore):
    damage(queue, b"queue-ready-", 1)
    assert queue.queues.purge("q") == 4
    queue.queues.delete("q")
    assert queue.queues.names() == []
