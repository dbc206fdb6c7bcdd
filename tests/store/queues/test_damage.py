"""A damaged record stays where it is, and does not stop the messages around it."""

from typing import Any

import pytest

from lmdbresults import LMDBStore
from lmdbresults.store.queues import ACKNOWLEDGE, Message, QueueState
from lmdbresults.testing.queue_owners import DEAD, as_process


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
