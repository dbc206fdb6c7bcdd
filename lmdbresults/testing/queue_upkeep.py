"""What a store promises about the queues themselves: declaring, emptying, looking, waking, and dead owners."""

import pytest

from lmdbresults.process.identity import lease
from lmdbresults.store import queues
from lmdbresults.store.base import Store
from lmdbresults.store.queues import (
    Arguments,
    Message,
    QueueState,
    Recovered,
)
from lmdbresults.testing.queue_owners import DEAD, as_process
from lmdbresults.testing.queues import LARGE_BODY, QueueHooks, bodies, owner_key, publish, take

__all__ = ["QueueOwners", "QueueUpkeep"]


class QueueUpkeep(QueueHooks):
    """Queues are declared and deleted, looked into without taking, and wake their consumers."""

    def test_declaring_again_keeps_messages_and_arguments(self, broker: Store) -> None:
        broker.queues.declare("q", Arguments(max_length=1))
        publish(broker, b"1")
        assert broker.queues.declare("q") == QueueState(1, 1, 0)
        publish(broker, b"2")
        assert bodies(take(broker)) == [b"2"]
        broker.queues.declare("q", Arguments())
        publish(broker, b"3", b"4")
        assert bodies(take(broker)) == [b"3", b"4"]

    @pytest.mark.parametrize("name", ["", "x" * 256, "ä" * 128])
    def test_a_queue_needs_a_name_of_up_to_255_bytes(self, broker: Store, name: str) -> None:
        with pytest.raises(ValueError, match="1 to 255 bytes"):
            broker.queues.declare(name)
        broker.queues.declare("ä" * 127)
        assert broker.queues.names() == ["q", "ä" * 127]

    def test_purging_deletes_what_waits_and_leaves_what_was_taken(self, broker: Store) -> None:
        publish(broker, *[b"1"] * 600, LARGE_BODY)
        broker.queues.publish([Message(LARGE_BODY, "q", due=broker.now() + 1000.0 * self.second)])
        (taken,) = take(broker, 1)
        assert broker.queues.purge("q") == 601
        assert broker.queues.state("q") == QueueState(0, 0, 0)
        assert broker.queues.requeue(taken.tag) is True
        assert bodies(take(broker)) == [b"1"]
        assert broker.queues.purge("q") == broker.queues.purge("unknown") == 0

    def test_deleting_a_queue_leaves_nothing_of_it(self, broker: Store) -> None:
        publish(broker, *[b"1"] * 600, LARGE_BODY)
        broker.queues.publish([Message(LARGE_BODY, "q", due=broker.now() + 1000.0 * self.second)])
        (taken,) = take(broker, 1)
        assert broker.queues.delete("q") == 600
        assert broker.queues.delete("q") == 0
        assert broker.queues.names() == []
        broker.queues.declare("q")
        assert broker.queues.requeue(taken.tag) is True  # it was ours, and its queue is gone
        assert take(broker) == []
        broker.queues.delete("q")
        assert {key for key, _ in broker.scan()} == {b"queue-ids", owner_key(broker)}

    def test_waiting_messages_can_be_seen_and_removed_by_their_tags(self, broker: Store) -> None:
        due = broker.now() + 100.0 * self.second
        broker.queues.publish(
            [Message(b"later", "q", due=due), Message(b"1", "q"), Message(LARGE_BODY, "q", priority=5)]
        )
        seen = broker.queues.peek("q")
        assert [each.body for each in seen] == [LARGE_BODY, b"1", b"later"]
        assert [each.due for each in seen] == [None, None, due]
        assert [each.priority for each in seen] == [5, 0, 0]
        for number in range(3):
            assert broker.queues.peek("q", 5, after=seen[number].tag) == seen[number + 1 :]
        assert broker.queues.peek("q", 2) == seen[:2]
        broker.queues.declare("other")
        assert broker.queues.remove("other", seen[0].tag) is False
        for each in (seen[0], seen[2]):
            assert broker.queues.remove("q", each.tag) is True
            assert broker.queues.remove("q", each.tag) is False
        assert broker.queues.state("q") == QueueState(1, 1, 0)
        assert bodies(take(broker)) == [b"1"]
        assert broker.queues.remove("q", seen[1].tag) is False
        assert not any(key.startswith(b"queue-body-") for key, _ in broker.scan())

    def test_unacknowledged_messages_can_be_seen_with_their_owner(self, broker: Store) -> None:
        broker.queues.declare("other")
        publish(broker, b"1", LARGE_BODY)
        publish(broker, b"x", queue="other")
        tags = [each.tag for each in take(broker) + take(broker, 1, "other")]
        seen = broker.queues.unacknowledged()
        assert [(each.tag, each.body) for each in seen] == list(zip(tags, [b"1", LARGE_BODY, b"x"], strict=True))
        assert {each.owner for each in seen} == {broker.owner()}
        assert [each.tag for each in broker.queues.unacknowledged("other")] == tags[2:]

    # -- waking --------------------------------------------------------------------------------------------------

    def test_a_message_wakes_one_consumer_and_what_a_take_leaves_the_next(self, broker: Store) -> None:
        topic = queues.topic("q")
        with_messages = [broker.subscribe() for _ in range(2)]
        try:
            for each in with_messages:
                each.follow([topic])
            publish(broker, b"1", b"2")
            assert sum(topic in (each.drain() or ()) for each in with_messages) == 1
            take(broker, 1)
            assert sum(topic in (each.drain() or ()) for each in with_messages) == 1
            take(broker, 1)
            assert sum(topic in (each.drain() or ()) for each in with_messages) == 0
        finally:
            for each in with_messages:
                each.close()

    def test_the_first_delayed_message_wakes_all_consumers_to_sleep_no_longer(self, broker: Store) -> None:
        topic, now = queues.topic("q"), broker.now()
        consumers = [broker.subscribe() for _ in range(2)]
        try:
            for each in consumers:
                each.follow([topic])
            for delay, woken in ((100.0, 2), (50.0, 2), (70.0, 0)):
                broker.queues.publish([Message(b"", "q", due=now + delay * self.second)])
                assert sum(topic in (each.drain() or ()) for each in consumers) == woken
        finally:
            for each in consumers:
                each.close()


class QueueOwners(QueueHooks):
    """What a dead process held returns; what it owned goes."""

    def test_messages_of_a_dead_owner_return_to_their_old_places(
        self, broker: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(broker, b"1", LARGE_BODY, b"3", b"4")
        with as_process(monkeypatch, DEAD):
            taken = take(broker, 3)
            broker.queues.acknowledge(taken[2].tag)
        publish(broker, b"5")
        assert DEAD in broker.queues.owners()
        assert broker.queues.recover() == Recovered(2, 0)
        assert broker.queues.recover() == Recovered(0, 0)
        assert broker.queues.owners() == []
        again = take(broker)
        assert bodies(again) == [b"1", LARGE_BODY, b"4", b"5"]
        assert [each.redelivered for each in again] == [True, True, False, False]
        assert [each.deliveries for each in again] == [1, 1, 0, 0]
        assert [broker.queues.acknowledge(each.tag) for each in taken] == [False] * 3
        assert len(broker.queues.unacknowledged()) == 4

    def test_more_than_a_batch_returns(self, broker: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        publish(broker, *[b"%d" % number for number in range(1100)])
        with as_process(monkeypatch, DEAD):
            take(broker, 1000)
        assert broker.queues.recover() == Recovered(1000, 0)
        assert bodies(take(broker, 2000)) == [b"%d" % number for number in range(1100)]

    def test_a_recovery_that_finds_nothing_writes_nothing(self, broker: Store) -> None:
        publish(broker, b"1")
        take(broker)
        before = broker.moment()
        assert broker.queues.recover() == Recovered(0, 0)
        assert broker.moment() == before

    def test_a_message_that_kills_its_owners_becomes_a_dead_letter(
        self, broker: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker.queues.declare("dead")
        broker.queues.declare("q", Arguments(max_deliveries=2, dead_letter_key="dead"))
        publish(broker, b"poison")
        for _ in range(3):
            with as_process(monkeypatch, DEAD):
                take(broker)
            broker.queues.recover()
        assert take(broker) == []
        assert bodies(take(broker, 1, "dead")) == [b"poison"]

    def test_deliveries_and_queues_outlive_a_lease(self, broker: Store) -> None:
        publish(broker, b"1")
        with lease():
            broker.queues.declare("owned", owned=True)
            (delivery,) = take(broker)
        assert broker.queues.recover() == Recovered(0, 0)
        assert broker.queues.is_held(delivery.tag) is True
        assert broker.queues.names() == ["owned", "q"]

    def test_a_queue_dies_with_its_owner(self, broker: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        broker.queues.declare_exchange("x", "fanout")
        with as_process(monkeypatch, DEAD):
            broker.queues.declare("reply", owned=True)
            broker.queues.bind("reply", "x")
            broker.queues.declare("taken over", owned=True)
            broker.queues.declare("deleted", owned=True)
        publish(broker, b"1", queue="reply")
        broker.queues.declare("taken over", owned=True)
        broker.queues.delete("deleted")
        broker.queues.declare("deleted")
        assert broker.queues.recover() == Recovered(0, 1)
        assert broker.queues.names() == ["deleted", "q", "taken over"]
        assert broker.queues.bindings("x") == []
        assert broker.queues.recover() == Recovered(0, 0)

    def test_a_queue_keeps_an_owner_that_is_alive(self, broker: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        broker.queues.declare("q", owned=True)
        with as_process(monkeypatch, DEAD):
            before = broker.moment()
            broker.queues.declare("q", owned=True)
            assert broker.moment() == before
            take(broker)
        assert broker.queues.recover().queues == 0
        assert broker.queues.names() == ["q"]

    def test_a_queue_does_not_expire_while_its_consumer_or_its_owner_lives(
        self, broker: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.needs_fake_clock()
        broker.queues.declare("q", Arguments(expires=10.0))
        broker.queues.declare("owned", Arguments(expires=10.0), owned=True)
        take(broker)
        self.pass_time(1000.0)
        assert broker.queues.recover() == Recovered(0, 0)
        before = broker.moment()
        take(broker, 1, "owned")  # an idle owner of a queue writes nothing, however long it waits
        assert broker.moment() == before
        broker.queues.leave("q")
        self.pass_time(9.0)
        assert broker.queues.recover() == Recovered(0, 0)
        self.pass_time(1.0)
        assert broker.queues.recover() == Recovered(0, 1)
        assert broker.queues.names() == ["owned"]

    def test_an_unused_queue_expires(self, broker: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.needs_fake_clock()
        broker.queues.declare("q", Arguments(expires=10.0))
        for _ in range(5):
            self.pass_time(6.0)
            with as_process(monkeypatch, DEAD):
                take(broker)
            publish(broker, b"1")
            assert broker.queues.recover().queues == 0
        self.pass_time(9.0)
        assert broker.queues.recover() == Recovered(0, 0)
        self.pass_time(1.0)
        assert broker.queues.recover() == Recovered(0, 1)
        assert broker.queues.names() == []

    def test_a_registered_process_is_an_owner(self, broker: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        subscription = broker.subscribe()
        subscription.follow([queues.OWNERS_TOPIC])
        with as_process(monkeypatch, DEAD):
            broker.queues.register()
        broker.queues.register()
        assert broker.queues.owners() == [DEAD]
        assert queues.OWNERS_TOPIC in (subscription.drain() or ())
        subscription.close()
