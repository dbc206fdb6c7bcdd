"""kombu's event loop, as Celery's worker runs it: nothing waits for the fallback that looks once a second."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from kombu.asynchronous import Hub, set_event_loop

from lmdbresults.errors import StoreBusy
from tests.support.kombu_parts import PATIENCE, consuming, publish, queue, receive, waiting

pytestmark = pytest.mark.usefixtures("no_second_look")


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = set_event_loop(Hub())
    yield hub
    hub.close()
    set_event_loop(None)


class Loop:
    """A connection that is served by an event loop."""

    def __init__(self, hub: Hub, connection: Any) -> None:
        self._hub = hub
        connection.connect()
        connection.register_with_event_loop(hub)
        hub.call_repeatedly(0.02, lambda: None)  # or a round would sleep for a second before the condition is seen

    def run_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "the loop sleeps too long"
            self._hub.run_once()


@pytest.fixture
def loop(hub: Hub, connection: Any) -> Loop:
    return Loop(hub, connection)


def test_messages_of_others_arrive(loop: Loop, connection: Any, connect: Callable[..., Any]) -> None:
    publisher = connect()
    with consuming(connection) as received:
        loop.run_until(lambda: connection.transport.receiver.subscription.fileno() in loop._hub.readers)
        for count in range(1, 20):
            threading.Timer(0.01, publish, (publisher, count)).start()
            loop.run_until(lambda: len(received) == count)  # noqa: B023
    assert received == list(range(1, 20))


def test_acknowledging_lets_the_next_messages_in(loop: Loop, connection: Any) -> None:
    publish(connection, *range(20))
    with consuming(connection, prefetch=2, ack=False) as received:
        for done in range(20):
            loop.run_until(lambda: len(received) > done)  # noqa: B023
            loop._hub.call_soon(received.messages[done].ack)
        loop.run_until(lambda: not received.messages[0].channel.qos.unsettled)
    assert received == list(range(20))
    assert waiting(connection) == 0


def test_acknowledging_in_another_thread_lets_the_next_messages_in(loop: Loop, connection: Any) -> None:
    publish(connection, *range(5))
    with consuming(connection, prefetch=1, ack=False) as received:
        for done in range(5):
            loop.run_until(lambda: len(received) > done)  # noqa: B023
            threading.Timer(0.01, received.messages[done].ack).start()
        loop.run_until(lambda: not received.messages[0].channel.qos.unsettled)
    assert received == list(range(5))


def test_acknowledgements_of_one_round_are_one_transaction(loop: Loop, connection: Any) -> None:
    publish(connection, *range(50))
    with consuming(connection, ack=False) as received:
        loop.run_until(lambda: len(received) == 50)
        store = received.messages[0].channel.store
        for message in received.messages:
            loop._hub.call_soon(message.ack)
        moment = store.moment()
        loop.run_until(lambda: not received.messages[0].channel.qos.unsettled)
        loop._hub.run_once()
        assert store.moment() == moment + 1
    assert store.queues.unacknowledged() == []


def test_what_is_acknowledged_after_the_last_consumer_was_cancelled_is_committed_at_once(
    loop: Loop, connection: Any
) -> None:
    publish(connection, 1)
    channel = connection.channel()
    with consuming(connection, ack=False) as received:
        loop.run_until(lambda: received)
        (message,) = received.messages
        for tag in list(message.channel.consumers):
            message.channel.basic_cancel(tag)
        message.ack()
        assert channel.store.queues.unacknowledged() == []


def test_a_task_with_an_eta_arrives_then(loop: Loop, connection: Any) -> None:
    due = datetime.now(timezone.utc) + timedelta(seconds=0.2)
    with consuming(connection) as received:
        publish(connection, 1, headers={"eta": due.isoformat()})
        loop.run_until(lambda: received)
        assert datetime.now(timezone.utc) >= due


class IdlePolls:
    """A poller that notes for how many seconds it would sleep without an event, and does not sleep."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._poller = hub, hub.poller
        self.slept: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)

    def poll(self, timeout: float) -> Any:
        events = self._poller.poll(0)
        if not events:
            self.slept.append(timeout)
        return events

    def run_until_idle(self) -> None:
        """Run the loop until it would sleep."""
        while not self.slept:
            self._hub.run_once()
        self.slept.clear()

    def run_until(self, done: list[Any], *, longest: float) -> None:
        """Run the loop until something is done. Before, no sleep may be longer than so many seconds."""
        while not done:
            self._hub.run_once()
            assert done or max(self.slept, default=0.0) <= longest, "the loop sleeps too long"


@pytest.fixture
def idle_polls(hub: Hub) -> IdlePolls:
    hub.poller = IdlePolls(hub)
    return hub.poller


def test_the_loop_sleeps_no_longer_than_until_a_task_with_an_eta_is_due_and_begun(
    hub: Hub, idle_polls: IdlePolls, connection: Any
) -> None:
    begun: list[int] = []
    connection.connect()
    connection.register_with_event_loop(hub)
    consumer = connection.Consumer(queue(), no_ack=True)
    # Celery's worker begins such a task by a timer, also if it is due.
    consumer.register_callback(lambda body, message: hub.call_later(0, begun.append, body))
    with consumer:
        idle_polls.run_until_idle()
        publish(connection, 1, headers={"eta": (datetime.now(timezone.utc) + timedelta(seconds=0.2)).isoformat()})
        idle_polls.run_until(begun, longest=0.2)
    assert begun == [1]


def test_the_messages_of_a_dead_process_arrive(loop: Loop, connection: Any, connect: Callable[..., Any]) -> None:
    publish(connection, 1)
    ready, end = os.pipe()
    victim = os.fork()
    if not victim:
        try:
            with consuming(other := connect(), ack=False):
                other.drain_events(timeout=PATIENCE)
                os.write(end, b"1")
                time.sleep(PATIENCE)
        finally:
            os._exit(1)
    os.read(ready, 1)
    with consuming(connection) as received:
        threading.Timer(0.1, os.kill, (victim, 9)).start()
        loop.run_until(lambda: received)
        assert received.messages[0].delivery_info["redelivered"]
    os.waitpid(victim, 0)


def test_a_connection_that_is_closed_leaves_the_loop(loop: Loop, connection: Any) -> None:
    with consuming(connection):
        loop._hub.run_once()
    connection.close()
    assert not loop._hub.readers
    assert not loop._hub.on_tick


def test_a_loop_serves_another_connection_after_it_was_reset(
    loop: Loop, hub: Hub, connection: Any, connect: Callable[..., Any]
) -> None:
    with consuming(connection):
        loop._hub.run_once()
        hub.reset()  # as Celery's worker does after an error
    connection.close()
    second = connect()
    again = Loop(hub, second)
    with consuming(second, queue()) as received:
        publish(second, 1)
        again.run_until(lambda: received)


def test_a_connection_that_is_closed_while_the_store_is_busy_leaves_the_loop(
    loop: Loop, connection: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise StoreBusy("another transaction holds the write lock")

    publish(connection, 1)
    with consuming(connection, ack=False) as received:
        loop.run_until(lambda: received)
        monkeypatch.setattr(connection.transport.receiver._queues, "turn", refuse)
        connection.close()
    assert not loop._hub.readers
    assert not loop._hub.on_tick


def test_what_could_not_be_settled_while_the_store_was_busy_the_next_connection_settles(
    loop: Loop, connection: Any, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise StoreBusy("another transaction holds the write lock")

    publish(connection, 1, 2)
    with consuming(connection, prefetch=2, ack=False) as received:
        loop.run_until(lambda: len(received) == 2)
        received.messages[0].ack()
        monkeypatch.setattr(connection.transport.receiver._queues, "turn", refuse)
        connection.close()
    again = connect()
    with consuming(again) as received:
        assert receive(again, received, 1) == [2]
    assert (waiting(again), again.transport.store.queues.unacknowledged()) == (0, [])
