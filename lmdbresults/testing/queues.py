"""What a store promises about queues: `Store.queues`, and the steps of `lmdbresults.store.queues`."""

import pytest

from lmdbresults.errors import QueueFull
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
    Recovered,
)
from lmdbresults.testing.hooks import Hooks
from lmdbresults.testing.queue_owners import DEAD, as_process

__all__ = ["QueueOwners", "Queues"]

#: Larger than what lies beside its message.
LARGE_BODY = bytes(range(256)) * 400


def publish(broker: Store, *bodies: bytes, queue: str = "q", priority: int = 0) -> None:
    broker.queues.publish([Message(body, queue, priority=priority) for body in bodies])


def take(broker: Store, limit: int = 100, *names: str) -> list[Delivery]:
    return broker.queues.take(names or ("q",), limit).deliveries


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


class QueueHooks(Hooks):
    """What the tests of queues share."""

    @pytest.fixture
    def broker(self, store: Store) -> Store:
        """The store under test, with a queue."""
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
        assert [key for key, _ in sorted(broker.scan()) if key not in dict(before)] == [self._owner_key(broker)]

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

    # -- limits --------------------------------------------------------------------------------------------------

    def test_a_full_queue_drops_its_oldest_message(self, broker: Store) -> None:
        broker.queues.declare("q", Arguments(max_length=2))
        publish(broker, b"1", b"2", b"3")
        assert bodies(take(broker)) == [b"2", b"3"]
        broker.queues.declare("q", Arguments(max_bytes=10))
        publish(broker, b"1" * 6, b"2" * 6)
        assert bodies(take(broker)) == [b"2" * 6]

    def test_a_full_queue_that_refuses_raises_and_stays_as_it_is(self, broker: Store) -> None:
        broker.queues.declare("q", Arguments(max_length=1, refuse=True))
        publish(broker, b"1")
        with pytest.raises(QueueFull, match="'q' holds 1 messages"):
            publish(broker, b"2")
        assert bodies(take(broker)) == [b"1"]

    def test_a_refused_message_leaves_right_counts_if_the_caller_goes_on(self, broker: Store) -> None:
        broker.queues.declare("q", Arguments(max_length=1, refuse=True))

        def publish_two(txn: WriteTransaction) -> None:
            with pytest.raises(QueueFull):
                queues.publish(txn, [Message(b"1", "q"), Message(b"2", "q")])

        broker.update(publish_two)
        assert broker.queues.state("q") == QueueState(1, 1, 0)
        assert bodies(take(broker)) == [b"1"]

    # -- dead letters --------------------------------------------------------------------------------------------

    def test_dead_letters_go_to_another_queue_and_say_why(self, broker: Store) -> None:
        broker.queues.declare("dead")
        limits = Arguments(max_length=2, message_ttl=10.0 * self.second, dead_letter_key="dead")
        broker.queues.declare("q", limits)
        publish(broker, LARGE_BODY, b"rejected", b"expired", priority=3)
        (rejected,) = take(broker, 1)
        broker.queues.reject(rejected.tag)
        self.pass_time(10.0 * self.second)
        assert take(broker) == []
        found = take(broker, 5, "dead")
        assert bodies(found) == [LARGE_BODY, b"rejected", b"expired"]
        assert [each.deaths[0][:3] for each in found] == [
            ("q", "maxlen", 1),
            ("q", "rejected", 1),
            ("q", "expired", 1),
        ]
        assert [each.priority for each in found] == [3] * 3
        assert all(broker.queues.acknowledge(each.tag) for each in found)
        assert not any(key.startswith(b"queue-body-") for key, _ in broker.scan())

    def test_dead_letters_go_through_an_exchange(self, broker: Store) -> None:
        for name in ("dead1", "dead2"):
            broker.queues.declare(name)
        broker.queues.declare_exchange("dlx", "fanout")
        broker.queues.bind("dead1", "dlx")
        broker.queues.bind("dead2", "dlx")
        broker.queues.declare("q", Arguments(dead_letter_exchange="dlx"))
        publish(broker, LARGE_BODY)
        broker.queues.reject(take(broker)[0].tag)
        assert bodies(take(broker, 5, "dead1")) == bodies(take(broker, 5, "dead2")) == [LARGE_BODY]

    def test_the_same_death_again_is_counted(self, broker: Store) -> None:
        broker.queues.declare("q", Arguments(dead_letter_key="q"))
        publish(broker, b"1")
        for times in (1, 2, 3):
            broker.queues.reject(take(broker)[0].tag)
            (delivery,) = take(broker)
            assert [death[:3] for death in delivery.deaths] == [("q", "rejected", times)]
            broker.queues.requeue(delivery.tag)

    def test_a_message_does_not_circle_between_full_queues(self, broker: Store) -> None:
        broker.queues.declare("q", Arguments(max_length=1, dead_letter_key="other"))
        broker.queues.declare("other", Arguments(max_length=1, dead_letter_key="q"))
        for number in range(5):
            publish(broker, b"%d" % number)
        assert bodies(take(broker, 5, "q")) == [b"4"]
        assert len(take(broker, 5, "other")) == 1

    def test_a_message_that_came_back_too_often_is_a_dead_letter(self, broker: Store) -> None:
        broker.queues.declare("dead")
        broker.queues.declare("q", Arguments(max_deliveries=1, dead_letter_key="dead"))
        publish(broker, b"poison")
        broker.queues.requeue(take(broker)[0].tag, counted=False)
        broker.queues.requeue(take(broker)[0].tag)
        broker.queues.requeue(take(broker)[0].tag)
        assert take(broker) == []
        (delivery,) = take(broker, 1, "dead")
        assert delivery.deaths[0][:3] == ("q", "delivery_limit", 1)

    # -- exchanges -----------------------------------------------------------------------------------------------

    def test_a_direct_exchange_leads_to_queues_bound_by_the_key_itself(self, broker: Store) -> None:
        broker.queues.declare("other")
        broker.queues.declare_exchange("x")
        broker.queues.bind("q", "x", "one")
        broker.queues.bind("other", "x", "two")
        broker.queues.bind("other", "x", "one")
        assert broker.queues.publish(
            [Message(b"1", "one", "x"), Message(b"2", "two", "x"), Message(b"3", "", "x")]
        ) == [
            2,
            1,
            0,
        ]
        assert bodies(take(broker)) == [b"1"]
        assert bodies(take(broker, 5, "other")) == [b"1", b"2"]
        assert sorted(broker.queues.bindings("x")) == [("one", "other"), ("one", "q"), ("two", "other")]

    @pytest.mark.parametrize(
        ("pattern", "matching", "others"),
        [
            ("a.b", ["a.b"], ["a", "a.b.c", "axb", "b"]),
            ("*.b", ["a.b", "x.b"], ["b", "a.x.b", "a.bb"]),
            ("#", ["", "a", "a.b"], []),
            ("a.#", ["a", "a.b", "a.b.c"], ["ab", "b.a"]),
            ("#.c", ["c", "b.c", "a.b.c"], ["c.d", "cc"]),
            ("a.#.c", ["a.c", "a.b.c", "a.b.b.c"], ["a", "c", "ac"]),
            ("task-*", ["task-*"], ["task-sent"]),
            ("a.*.#", ["a.b", "a.b.c"], ["a"]),
        ],
    )
    def test_a_topic_exchange_leads_to_queues_whose_pattern_matches(
        self, broker: Store, pattern: str, matching: list[str], others: list[str]
    ) -> None:
        broker.queues.declare_exchange("x", "topic")
        broker.queues.bind("q", "x", pattern)
        assert [key for key in matching if broker.queues.route("x", key) != ("q",)] == []
        assert [key for key in others if broker.queues.route("x", key) != ()] == []

    def test_a_fanout_exchange_leads_to_all_queues(self, broker: Store) -> None:
        broker.queues.declare("other")
        broker.queues.declare_exchange("x", "fanout")
        broker.queues.bind("q", "x")
        broker.queues.bind("q", "x", "again")
        broker.queues.bind("other", "x", "key")
        assert broker.queues.publish([Message(b"1", "any", "x")]) == [2]

    def test_exchanges_and_bindings_can_be_removed(self, broker: Store) -> None:
        assert broker.queues.bind("q", "x") is False
        broker.queues.declare_exchange("x", "topic")
        assert broker.queues.bind("unknown", "x") is False
        assert broker.queues.bind("q", "x", "a") is True
        assert broker.queues.bind("q", "x", "b") is True
        assert broker.queues.unbind("q", "x", "a") is True
        assert broker.queues.unbind("q", "x", "a") is False
        assert broker.queues.bindings("x") == [("b", "q")]
        broker.queues.declare_exchange("x", "fanout")
        assert (broker.queues.exchanges(), broker.queues.bindings("x")) == ({"x": "fanout"}, [("b", "q")])
        broker.queues.delete("q")
        assert broker.queues.bindings("x") == []
        assert broker.queues.delete_exchange("x") is True
        assert broker.queues.delete_exchange("x") is False
        assert broker.queues.exchange_kind("x") is None

    # -- queues --------------------------------------------------------------------------------------------------

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
        assert {key for key, _ in broker.scan()} == {b"queue-ids", self._owner_key(broker)}

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

    @staticmethod
    def _owner_key(broker: Store) -> bytes:
        (key,) = [key for key, _ in broker.scan(b"queue-owner-")]
        return key


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

    def test_an_unused_queue_expires(self, broker: Store) -> None:
        self.needs_fake_clock()
        broker.queues.declare("q", Arguments(expires=10.0))
        for _ in range(5):
            self.pass_time(6.0)
            take(broker)
            publish(broker, b"1")
            assert broker.queues.recover() == Recovered(0, 0)
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
