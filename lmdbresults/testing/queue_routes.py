"""What a store promises about full queues, dead letters and exchanges."""

import pytest

from lmdbresults.errors import QueueFull
from lmdbresults.store import queues
from lmdbresults.store.base import Store, WriteTransaction
from lmdbresults.store.queues import (
    Arguments,
    Message,
    QueueState,
)
from lmdbresults.testing.queues import LARGE_BODY, QueueHooks, bodies, publish, take

__all__ = ["QueueRoutes"]


class QueueRoutes(QueueHooks):
    """A message goes where the routing key leads, and from there to the dead letters if it cannot stay."""

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

    def test_a_message_that_leads_nowhere_writes_nothing(self, broker: Store) -> None:
        broker.queues.declare_exchange("events", "topic")
        before = broker.moment()
        assert broker.queues.publish([Message(b"1", "task.sent", "events"), Message(b"2", "", "unknown")]) == [0, 0]
        assert broker.moment() == before
        assert broker.queues.publish([Message(b"1", "task.sent", "events"), Message(b"2", "q")]) == [0, 1]

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
