"""What a store promises about queues: `Store.queues`, and the steps of `lmdbresults.store.queues`."""

import pytest

from lmdbresults.store import queues
from lmdbresults.store.base import Store, WriteTransaction
from lmdbresults.store.queues import (
    ACKNOWLEDGE,
    REJECT,
    REQUEUE,
    REQUEUE_UNCOUNTED,
    Arguments,
    Delivery,
    Message,
    QueueState,
)
from lmdbresults.testing.hooks import Hooks

__all__ = ["LARGE_BODY", "QueueHooks", "Queues", "bodies", "owner_key", "publish", "take"]

#: Larger than what lies beside its message.
LARGE_BODY = bytes(range(256)) * 400


def publish(broker: Store, *bodies: bytes, queue: str = "q", priority: int = 0) -> None:
    broker.queues.publish([Message(body, queue, priority=priority) for body in bodies])


def take(broker: Store, limit: int = 100, *names: str) -> list[Delivery]:
    return broker.queues.take(names or ("q",), limit).deliveries


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def owner_key(broker: Store) -> bytes:
    """Return the key of the record of the only owner."""
    (key,) = [key for key, _ in broker.scan(b"queue-owner-")]
    return key


class QueueHooks(Hooks):
    """What the tests of queues share."""

    @pytest.fixture
    def broker(self, store: Store) -> Store:
        """The store under test, with a queue."""
        self.needs_queues(store)
        store.queues.declare("q")
        return store


class Queues(QueueHooks):
    """Messages wait in order, belong to an owner once they are taken, and are settled once."""

    def test_messages_are_taken_in_the_order_in_which_they_were_published(self, broker: Store) -> None:
        publish(broker, b"1", b"2")
        publish(broker, b"3", LARGE_BODY)
        assert broker.queues.state("q") == QueueState(4, 3 + len(LARGE_BODY), 0)
        assert bodies(take(broker, 3)) == [b"1", b"2", b"3"]
        (last,) = take(broker)
        assert (last.body, last.queue, last.redelivered, last.deliveries) == (LARGE_BODY, "q", False, 0)
        assert broker.queues.state("q") == QueueState(0, 0, 0)
        assert take(broker) == []

    def test_a_higher_priority_is_taken_first(self, broker: Store) -> None:
        for priority in (0, 9, 4, 9):
            publish(broker, b"%d" % priority, priority=priority)
        found = take(broker)
        assert bodies(found) == [b"9", b"9", b"4", b"0"]
        assert [each.priority for each in found] == [9, 9, 4, 0]

    @pytest.mark.parametrize("priority", [-1, 10])
    def test_an_invalid_priority_publishes_nothing(self, broker: Store, priority: int) -> None:
        with pytest.raises(ValueError, match="priority must be between 0 and 9"):
            broker.queues.publish([Message(b"1", "q"), Message(b"2", "q", priority=priority)])
        assert take(broker) == []

    def test_what_needs_no_acknowledgement_is_gone_when_it_is_taken(self, broker: Store) -> None:
        broker.queues.declare("other")
        publish(broker, b"1", LARGE_BODY)
        publish(broker, b"2", queue="other")
        (taken,) = broker.queues.turn((), [(("q", "other"), 10)], ["q"])
        assert bodies(taken.deliveries) == [b"1", LARGE_BODY, b"2"]
        assert [bool(each.tag) for each in taken.deliveries] == [False, False, True]
        assert [each.queue for each in broker.queues.unacknowledged()] == ["other"]
        assert broker.queues.turn((), [(("q",), 10)], ["q"], is_woken=True)[0].deliveries == []
        assert list(broker.scan(b"queue-body-")) == []

    def test_a_unique_message_is_added_again_once_it_is_settled(self, broker: Store) -> None:
        broker.queues.declare("other")
        message = Message(b"1", "q", unique="nightly")
        assert broker.queues.publish([message, message, message._replace(key="other")]) == [1, 1, 1]
        (taken,) = take(broker)
        broker.queues.publish([message, message._replace(body=b"2", unique="hourly")])
        assert broker.queues.requeue(taken.tag)
        found = take(broker)
        assert bodies(found) == [b"1", b"2"]
        for delivery in found:
            broker.queues.acknowledge(delivery.tag)
        broker.queues.publish([message])
        assert bodies(take(broker)) == [b"1"]
        assert bodies(take(broker, 100, "other")) == [b"1"]

    def test_a_dead_letter_is_not_unique(self, broker: Store) -> None:
        broker.queues.declare("q", Arguments(dead_letter_key="dead"))
        broker.queues.declare("dead")
        message = Message(LARGE_BODY, "q", unique="nightly")
        broker.queues.publish([message])
        for _ in range(2):
            (taken,) = take(broker)
            assert broker.queues.reject(taken.tag)
            broker.queues.publish([message])
        assert bodies(take(broker)) == [LARGE_BODY]
        assert bodies(take(broker, 100, "dead")) == [LARGE_BODY, LARGE_BODY]

    def test_a_message_for_an_unknown_queue_is_dropped_and_reported(self, broker: Store) -> None:
        assert broker.queues.publish([Message(b"", "unknown"), Message(b"", "q")]) == [0, 1]
        assert broker.queues.state("unknown") is None
        assert take(broker, 5, "unknown") == []

    def test_a_take_finds_about_as_many_in_each_queue_and_fills_up(self, broker: Store) -> None:
        for name in ("a", "b", "c"):
            broker.queues.declare(name)
        publish(broker, *[b"a"] * 10, queue="a")
        publish(broker, b"b", queue="b")
        publish(broker, *[b"c"] * 10, queue="c")
        found = bodies(take(broker, 9, "a", "b", "c"))
        assert sorted(found) == [b"a"] * 5 + [b"b"] + [b"c"] * 3

    # -- settling ------------------------------------------------------------------------------------------------

    def test_an_acknowledged_message_is_gone_and_its_tag_leads_to_nothing(self, broker: Store) -> None:
        before = sorted(broker.scan())
        publish(broker, b"1", LARGE_BODY)
        tags = [each.tag for each in take(broker)]
        assert [broker.queues.is_held(tag) for tag in tags] == [True, True]
        for tag in reversed(tags):
            assert broker.queues.acknowledge(tag) is True
            assert broker.queues.acknowledge(tag) is False
            assert broker.queues.is_held(tag) is False
        assert [key for key, _ in sorted(broker.scan()) if key not in dict(before)] == [owner_key(broker)]

    @pytest.mark.parametrize("tag", ["", "00", "no tag", "zz", "0" * 34])
    def test_what_is_not_a_tag_settles_nothing(self, broker: Store, tag: str) -> None:
        publish(broker, b"1")
        for settle in (broker.queues.acknowledge, broker.queues.reject, broker.queues.requeue, broker.queues.is_held):
            assert settle(tag) is False
        assert bodies(take(broker)) == [b"1"]

    def test_a_requeued_message_takes_its_old_place_and_says_that_it_came_back(self, broker: Store) -> None:
        publish(broker, b"1", LARGE_BODY, b"3")
        first, second, _ = take(broker)
        assert broker.queues.requeue(second.tag) is True
        assert broker.queues.requeue(first.tag, counted=False) is True
        publish(broker, b"4")
        assert broker.queues.state("q") == QueueState(3, 2 + len(LARGE_BODY), 0)
        again = take(broker)
        assert bodies(again) == [b"1", LARGE_BODY, b"4"]
        assert [each.redelivered for each in again] == [True, True, False]
        assert [each.deliveries for each in again] == [0, 1, 0]
        assert broker.queues.acknowledge(first.tag) is False
        assert broker.queues.is_held(again[0].tag) is True

    def test_a_rejected_message_without_dead_letters_is_deleted(self, broker: Store) -> None:
        publish(broker, LARGE_BODY)
        (delivery,) = take(broker)
        assert broker.queues.reject(delivery.tag) is True
        assert broker.queues.reject(delivery.tag) is False
        assert take(broker) == []
        assert not any(key.startswith(b"queue-body-") for key, _ in broker.scan())

    def test_a_turn_settles_and_takes_in_one_transaction(self, broker: Store) -> None:
        broker.queues.declare("other")
        publish(broker, b"1", b"2", b"3", b"4")
        first, second, third = take(broker, 3)
        before = broker.moment()
        settlements = [(ACKNOWLEDGE, first.tag), (REQUEUE, second.tag), (REJECT, third.tag)]
        wanted, other = broker.queues.turn(settlements, [(["q"], 1), (["other"], 5)])
        if before is not None:
            assert broker.moment() == before + 1
        assert (bodies(wanted.deliveries), other.deliveries) == ([b"2"], [])
        assert broker.queues.turn([(REQUEUE_UNCOUNTED, wanted.deliveries[0].tag)], []) == []
        assert [each.deliveries for each in take(broker)] == [1, 0]

    def test_a_turn_that_has_nothing_to_do_writes_nothing(self, broker: Store) -> None:
        before = broker.moment()
        assert take(broker) == []
        assert broker.queues.turn([], []) == []
        assert broker.moment() == before

    def test_publishing_and_settling_are_steps_of_a_transaction_of_the_caller(self, broker: Store) -> None:
        publish(broker, b"1")
        (delivery,) = take(broker)

        def end(txn: WriteTransaction) -> bool:
            is_ours = queues.acknowledge(txn, delivery.tag)
            if is_ours:
                txn.set(b"result", b"value")
                queues.publish(txn, [Message(b"link", "q")])
            return is_ours

        def fail(txn: WriteTransaction) -> None:
            end(txn)
            raise LookupError

        with pytest.raises(LookupError):
            broker.update(fail)
        assert (broker.get(b"result"), broker.queues.is_held(delivery.tag)) == (None, True)
        assert broker.update(end) is True
        assert broker.get(b"result") == b"value"
        assert broker.update(end) is False
        assert bodies(take(broker)) == [b"link"]

    # -- time ----------------------------------------------------------------------------------------------------

    def test_a_delayed_message_is_taken_once_it_is_due(self, broker: Store) -> None:
        due = broker.now() + 10.0 * self.second
        broker.queues.publish([Message(b"later", "q", due=due + 10.0 * self.second), Message(LARGE_BODY, "q", due=due)])
        assert broker.queues.state("q") == QueueState(0, 0, 2)
        assert broker.queues.take(["q"], 1) == ([], due)
        publish(broker, b"now")
        assert broker.queues.take(["q"], 1).next_due == due
        self.pass_time(10.0 * self.second)
        found = broker.queues.take(["q"], 5)
        assert bodies(found.deliveries) == [LARGE_BODY]
        assert found.next_due == due + 10.0 * self.second
        assert broker.queues.state("q") == QueueState(0, 0, 1)

    def test_a_message_that_is_due_already_is_ready(self, broker: Store) -> None:
        broker.queues.publish([Message(b"1", "q", due=broker.now()), Message(b"2", "q", due=1.0)])
        assert bodies(take(broker)) == [b"1", b"2"]

    def test_an_expired_message_is_never_taken(self, broker: Store) -> None:
        ttl = 10.0 * self.second
        broker.queues.publish(
            [Message(LARGE_BODY, "q", ttl=ttl), Message(b"2", "q"), Message(b"3", "q", ttl=100 * ttl)]
        )
        self.pass_time(ttl)
        assert bodies(take(broker)) == [b"2", b"3"]
        assert broker.queues.state("q") == QueueState(0, 0, 0)
        assert not any(key.startswith(b"queue-body-") for key, _ in broker.scan())

    def test_messages_of_a_queue_can_expire(self, broker: Store) -> None:
        broker.queues.declare("q", Arguments(message_ttl=10.0 * self.second))
        broker.queues.publish([Message(b"1", "q"), Message(b"2", "q", ttl=1000.0 * self.second)])
        self.pass_time(10.0 * self.second)
        assert take(broker) == []

    def test_a_queue_without_consumers_whose_messages_expire_does_not_grow(self, broker: Store) -> None:
        self.needs_fake_clock()
        broker.queues.declare("q", Arguments(message_ttl=10.0))
        for _ in range(50):
            publish(broker, b"event")
            self.pass_time(1.0)
        state = broker.queues.state("q")
        assert state is not None
        assert state.ready <= 11
