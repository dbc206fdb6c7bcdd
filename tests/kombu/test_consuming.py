"""Consumers: each message goes to one of them, within its window, and returns if it is not acknowledged."""

import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Exchange, Queue
from kombu.exceptions import ChannelError, MessageStateError

from lmdbresults.store import queues
from tests.support.kombu_parts import PATIENCE, consuming, is_silent, publish, queue, receive, waiting

pytestmark = pytest.mark.usefixtures("no_second_look")


def test_a_message_is_delivered_once(connect: Callable[..., Any]) -> None:
    first, second = connect(), connect()
    with consuming(first) as one, consuming(second) as two:
        publish(first, *range(6))
        receive(first, one, 3)
        receive(second, two, 3)
        assert is_silent(first)
        assert is_silent(second)
    assert sorted(one + two) == list(range(6))


def test_a_sleeping_consumer_is_woken_by_another_process(connection: Any, url: str) -> None:
    publisher = multiprocessing.get_context("spawn").Process(target=_publish, args=(url, 10))
    with consuming(connection) as received:
        publisher.start()
        assert receive(connection, received, 10) == list(range(10))
    publisher.join(PATIENCE)
    assert publisher.exitcode == 0


def _publish(url: str, count: int) -> None:
    from kombu import Connection

    import lmdbresults.integrations.kombu  # noqa: F401

    with Connection(url) as connection:
        for number in range(count):
            publish(connection, number)


def test_a_channel_has_no_more_unacknowledged_messages_than_its_prefetch_count(connection: Any) -> None:
    publish(connection, *range(10))
    with consuming(connection, prefetch=3, ack=False) as received:
        receive(connection, received, 3)
        assert is_silent(connection)
        assert not received.messages[0].channel.qos.can_consume()
        received.messages[1].ack()  # out of order
        receive(connection, received, 4)
        assert is_silent(connection)
        received.messages[0].channel.basic_qos(0, 5, False)
        assert receive(connection, received, 6) == list(range(6))
        assert received.messages[0].channel.qos.can_consume_max_estimate() == 0


def test_several_messages_are_acknowledged_at_once(connection: Any) -> None:
    publish(connection, *range(4))
    with consuming(connection, ack=False) as received:
        receive(connection, received, 4).messages[2].ack(multiple=True)
    assert waiting(connection) == 1


def test_an_acknowledged_message_cannot_be_settled_again(connection: Any) -> None:
    publish(connection, "body")
    with consuming(connection) as received:
        (message,) = receive(connection, received, 1).messages
    with pytest.raises(MessageStateError):
        message.reject()


def test_an_acknowledgement_in_another_thread_lets_the_next_message_in(connection: Any) -> None:
    publish(connection, 1, 2)
    with consuming(connection, prefetch=1, ack=False) as received:
        receive(connection, received, 1)
        threading.Timer(0.05, received.messages[0].ack).start()
        assert receive(connection, received, 2) == [1, 2]


def test_closing_a_channel_returns_its_messages_to_their_places(connection: Any) -> None:
    publish(connection, *range(4))
    with consuming(connection, ack=False) as received:
        receive(connection, received, 2)
    with consuming(connection) as received:
        assert receive(connection, received, 4) == list(range(4))
        assert [message.delivery_info["redelivered"] for message in received.messages] == [True, True, False, False]


def test_acknowledging_on_a_closed_channel_is_a_connection_error(connection: Any) -> None:
    publish(connection, 1)
    with consuming(connection, ack=False) as received:
        message = receive(connection, received, 1).messages[0]
    with pytest.raises(connection.recoverable_connection_errors):
        message.ack()
    assert waiting(connection) == 1


def test_closing_a_channel_can_keep_its_messages(connection: Any) -> None:
    publish(connection, 1, 2)
    with consuming(connection, ack=False, prefetch=1) as received:
        receive(connection, received, 1).messages[0].channel.qos.restore_at_shutdown = False
    assert waiting(connection) == 1


def test_a_requeued_message_comes_again_and_says_so(connection: Any) -> None:
    publish(connection, 1, 2)
    with consuming(connection, ack=False, prefetch=1) as received:
        receive(connection, received, 1).messages[0].requeue()
        (_, again) = receive(connection, received, 2).messages
    assert received == [1, 1]
    assert again.delivery_info["redelivered"]
    assert again.headers["x-delivery-count"] == 1


def test_recovering_a_channel_returns_all_its_messages(connection: Any) -> None:
    publish(connection, 1, 2)
    with consuming(connection, ack=False) as received:
        receive(connection, received, 2).messages[0].channel.basic_recover(requeue=True)
        assert receive(connection, received, 4) == [1, 2, 1, 2]


def test_without_acknowledgement_a_message_is_gone_when_it_is_delivered(connection: Any) -> None:
    publish(connection, 1, 2)
    with consuming(connection, ack=False, no_ack=True) as received:
        receive(connection, received, 2)
    assert waiting(connection) == 0
    assert is_silent(connection)


def test_what_a_consumer_without_acknowledgement_has_not_been_given_stays_in_the_queue(connection: Any) -> None:
    publish(connection, *range(5))
    with consuming(connection, ack=False, no_ack=True) as received:
        receive(connection, received, 2)
    assert waiting(connection) == 3


def test_get_takes_one_message(connection: Any) -> None:
    publish(connection, 1, 2)
    bound = queue()(connection.default_channel)
    assert bound.get().payload == 1
    assert bound.get(no_ack=True).payload == 2
    assert bound.get() is None
    connection.close()
    assert waiting(connection) == 1


def test_eight_queues_on_one_consumer_take_turns(connection: Any) -> None:
    queues = [queue(f"q{number}") for number in range(8)]
    for each in queues:
        publish(connection, *[each.name] * 4, to=each)
    with consuming(connection, *queues, prefetch=1, ack=False) as received:
        for count in range(1, 33):
            receive(connection, received, count).messages[-1].ack()
    assert all(sorted(received[start : start + 8]) == [each.name for each in queues] for start in range(0, 32, 8))


def test_queues_can_be_added_and_cancelled_while_consuming(connection: Any) -> None:
    from kombu import Consumer

    got: list[Any] = []
    consumer = Consumer(connection.default_channel, [queue("a")], on_message=lambda message: got.append(message.body))
    with consumer:
        consumer.add_queue(queue("b"))
        consumer.consume()
        publish(connection, "1", to=queue("b"))
        connection.drain_events(timeout=PATIENCE)
        consumer.cancel_by_queue("b")
        publish(connection, "2", to=queue("b"))
        assert is_silent(connection)
        publish(connection, "3", to=queue("a"))
        connection.drain_events(timeout=PATIENCE)
    assert got == [b"1", b"3"]
    assert waiting(connection, "b") == 1


def test_several_connections_of_one_process_have_windows_of_their_own(connect: Callable[..., Any]) -> None:
    publish(connect(), *range(4))
    with consuming(first := connect(), prefetch=1, ack=False) as one:
        receive(first, one, 1)
        with consuming(second := connect(), prefetch=2, ack=False) as two:
            receive(second, two, 2)
        assert is_silent(first)
        one.messages[0].ack()
        receive(first, one, 2)
    assert two == [1, 2]
    assert one == [0, 1]


# -- exchanges -----------------------------------------------------------------------------------------------------


def test_a_direct_exchange_routes_by_the_key(connection: Any) -> None:
    exchange = Exchange("direct", type="direct")
    one, two = Queue("one", exchange, routing_key="1"), Queue("two", exchange, routing_key="2")
    with consuming(connection, one) as ones, consuming(connection, two) as twos:
        publish(connection, "a", to=one)
        publish(connection, "b", to=two)
        publish(connection, "nowhere", to=Queue("one", exchange, routing_key="3"))
        receive(connection, ones, 1)
        receive(connection, twos, 1)
    assert (ones, twos) == (["a", "nowhere"], ["b"]) or (ones, twos) == (["a"], ["b"])


@pytest.mark.parametrize("kind", ["fanout", "topic"])
def test_a_receiver_that_comes_late_gets_what_is_sent_from_then_on(connect: Callable[..., Any], kind: str) -> None:
    exchange = Exchange("events", type=kind)
    sender, key = connect(), "task.sent"
    with consuming(early := connect(), Queue("early", exchange, routing_key="task.#", auto_delete=True)) as earlier:
        sender.Producer(exchange=exchange).publish(1, routing_key=key)
        with consuming(late := connect(), Queue("late", exchange, routing_key="*.sent", auto_delete=True)) as later:
            sender.Producer(exchange=exchange).publish(2, routing_key=key)
            assert receive(late, later, 1) == [2]
        assert receive(early, earlier, 2) == [1, 2]


def test_an_automatically_deleted_queue_ends_with_its_last_consumer(connection: Any) -> None:
    temporary = queue("temporary", auto_delete=True)
    with consuming(connection, temporary):
        with consuming(connection, temporary):
            pass
        publish(connection, 1, to=temporary)
    with pytest.raises(ChannelError, match="no queue 'temporary'") as raised:
        waiting(connection, "temporary")
    assert raised.value.code == 404


def test_a_passive_declaration_counts_the_messages(connection: Any) -> None:
    publish(connection, 1, 2, 3)
    assert waiting(connection) == 3
    assert queue()(connection.default_channel).purge() == 3
    assert waiting(connection) == 0


def test_the_bindings_can_be_listed(connection: Any) -> None:
    exchange = Exchange("events", type="topic")
    Queue("one", exchange, routing_key="a.*")(connection.default_channel).declare()
    expected = {"destination": "one", "source": "events", "routing_key": "a.*"}
    assert expected in connection.get_manager().get_bindings()
    Queue("one", exchange, routing_key="a.*")(connection.default_channel).unbind_from(exchange, "a.*")
    assert expected not in connection.get_manager().get_bindings()


def test_no_message_waits_while_several_processes_publish_and_several_threads_consume(
    connect: Callable[..., Any], url: str
) -> None:
    processes, threads, each = 3, 3, 200
    connections, received = [connect() for _ in range(threads)], []

    def consume(connection: Any) -> None:
        with consuming(connection, prefetch=2) as got:
            while True:
                connection.drain_events(timeout=PATIENCE)
                received.append(got.pop())
                if received[-1] == "end":
                    break

    consumers = [threading.Thread(target=consume, args=(connection,)) for connection in connections]
    publishers = [
        multiprocessing.get_context("spawn").Process(target=_publish, args=(url, each)) for _ in range(processes)
    ]
    for worker in consumers + publishers:
        worker.start()
    for publisher in publishers:
        publisher.join(PATIENCE)
    publish(connect(), *["end"] * threads)
    for consumer in consumers:
        consumer.join(PATIENCE)
        assert not consumer.is_alive()
    assert sorted(number for number in received if number != "end") == sorted(list(range(each)) * processes)


def test_a_message_that_cannot_be_decoded_goes_to_the_dead_letters(
    connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    work, dead = queue(queue_arguments=arguments), queue("dead")
    for each in (work, dead):
        each(connection.default_channel).declare()
    connection.default_channel.store.queues.publish([queues.Message(b"\xc1 foreign", "work")])
    publish(connection, 1, to=work)
    with consuming(connection, work) as received:
        assert receive(connection, received, 1) == [1]
    assert waiting(connection, "dead") == 1
    assert "in queue 'work' cannot be decoded" in caplog.text


def test_an_automatically_deleted_queue_outlives_a_process_that_only_publishes_to_it(connection: Any, url: str) -> None:
    import multiprocessing

    temporary = queue("temporary", auto_delete=True)
    publisher = multiprocessing.get_context("spawn").Process(target=_publish_and_exit, args=(url,))
    publisher.start()
    publisher.join(PATIENCE)
    assert publisher.exitcode == 0
    store = connection.default_channel.store
    store.queues.recover()
    with consuming(connection, temporary) as received:
        assert receive(connection, received, 1) == [1]
        store.queues.recover()
        assert store.queues.state("temporary") is not None
    assert store.queues.state("temporary") is None


def _publish_and_exit(url: str) -> None:
    from kombu import Connection

    import lmdbresults.integrations.kombu  # noqa: F401

    with Connection(url) as connection:
        publish(connection, 1, to=queue("temporary", auto_delete=True))
