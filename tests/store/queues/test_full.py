"""In a full store publishing fails, and everything that leads to fewer messages goes on."""

import os
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.errors import StoreFull
from lmdbresults.store.queues import ACKNOWLEDGE, REJECT, REQUEUE, Arguments, Message
from lmdbresults.testing.queue_owners import DEAD, as_process
from tests.support.queue_audit import audit


@pytest.fixture
def full(tmp_path: Path) -> LMDBStore:
    """A store that takes no more messages, small or large."""
    store = open_store(tmp_path / "full.lmdb", durability="none", max_size=2 << 20)
    store.queues.declare("dead")
    store.queues.declare("q", Arguments(dead_letter_key="dead"))
    for size in (60_000, 9000, 500):
        with pytest.raises(StoreFull):
            fill(store, size)
    return store


def fill(store: LMDBStore, size: int, exchange: str = "") -> None:
    while True:
        store.queues.publish([Message(os.urandom(size), "q", exchange)])


def test_messages_can_be_taken_and_settled(full: LMDBStore):
    state = full.queues.state("q")
    assert state is not None
    settlements, count = [], 0
    while taken := full.queues.turn(settlements, [(["q"], 10)])[0].deliveries:
        count += len(taken)
        settlements = [(ACKNOWLEDGE, each.tag) for each in taken]
    assert count == state.ready
    assert audit(full) == []
    full.queues.publish([Message(b"again", "q")])


def test_a_worker_that_starts_can_declare_what_it_needs(full: LMDBStore):
    full.queues.declare_exchange("pidbox", "fanout")
    for number in range(20):
        full.queues.declare(f"mine-{number}", Arguments(expires=10), owned=True)
        assert full.queues.bind(f"mine-{number}", "pidbox")
    assert len(full.queues.route("pidbox", "")) == 20
    assert len(full.queues.take(["q"], 10).deliveries) == 10
    assert audit(full) == []


def test_a_few_small_messages_still_reach_queues_that_are_owned_or_expire(full: LMDBStore):
    full.queues.declare_exchange("pidbox", "fanout")
    for number in range(10):
        full.queues.declare(f"mine-{number}", owned=True)
        full.queues.declare(f"reply-{number}", Arguments(expires=10))
        full.queues.bind(f"mine-{number}", "pidbox")
        full.queues.bind(f"reply-{number}", "pidbox")
    assert full.queues.publish([Message(bytes(1000), "", "pidbox")]) == [20]
    with pytest.raises(StoreFull):
        fill(full, 1000, exchange="pidbox")
    with pytest.raises(StoreFull):
        full.queues.publish([Message(b"", "q")] * 100)
    assert len(full.queues.take(["q", "mine-0"], 10).deliveries) == 10  # the reserve is not used up
    assert full.queues.purge("q") > 10
    assert audit(full) == []


def test_messages_can_be_rejected_and_requeued(full: LMDBStore):
    rejected = 0
    for _ in range(10):
        taken = full.queues.take(["q"], 20).deliveries
        rejected += len(taken) // 2
        full.queues.turn([(REJECT if number % 2 else REQUEUE, each.tag) for number, each in enumerate(taken)], [])
    assert full.queues.state("dead").ready == rejected > 10
    assert audit(full) == []


def test_messages_of_a_dead_owner_return(full: LMDBStore, monkeypatch: pytest.MonkeyPatch):
    before = full.queues.state("q")
    with as_process(monkeypatch, DEAD):
        full.queues.take(["q"], 1000)
    full.queues.recover()
    assert full.queues.state("q") == before
    assert audit(full) == []


@pytest.mark.parametrize("operation", ["purge", "delete"])
def test_queues_can_be_emptied(full: LMDBStore, operation: str):
    getattr(full.queues, operation)("q")
    full.queues.declare("q")
    full.queues.publish([Message(os.urandom(60_000), "q") for _ in range(10)])
    assert audit(full) == []
