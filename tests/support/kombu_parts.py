"""What the tests of the transport do with queues: publish, receive, and receive in another process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu import Consumer, Producer, Queue

#: Seconds after which a test gives up waiting for a message.
PATIENCE = 240.0


def queue(name: str = "work", **options: Any) -> Queue:
    """Return a queue that messages reach by its name."""
    return Queue(name, routing_key=name, **options)


def publish(connection: Any, *bodies: Any, to: Any = None, **options: Any) -> None:
    """Publish messages to a queue."""
    target = queue() if to is None else to
    producer = Producer(connection.default_channel)
    for body in bodies:
        producer.publish(body, routing_key=target.routing_key, exchange=target.exchange, declare=[target], **options)


class Received(list[Any]):
    """The bodies that a consumer has received; `messages` are what they came in."""

    def __init__(self) -> None:
        self.messages: list[Any] = []


@contextmanager
def consuming(connection: Any, *queues: Any, ack: bool = True, prefetch: int = 0, **options: Any) -> Iterator[Received]:
    """Consume from queues on a channel of its own, whose messages are returned at the end if they are not settled."""
    received = Received()

    def take(body: Any, message: Any) -> None:
        received.append(body)
        received.messages.append(message)
        if ack:
            message.ack()

    with connection.channel() as channel:
        channel.basic_qos(0, prefetch, False)
        options.setdefault("accept", ["json", "pickle", "text/plain"])
        with Consumer(channel, queues or [queue()], callbacks=[take], **options):
            yield received


def receive(connection: Any, received: Received, count: int) -> Received:
    """Wait until so many messages have been received in all."""
    while len(received) < count:
        connection.drain_events(timeout=PATIENCE)
    return received


def is_silent(connection: Any) -> bool:
    """Return whether there is nothing to deliver now."""
    try:
        connection.drain_events(timeout=0)
    except TimeoutError:
        return True
    return False


def waiting(connection: Any, name: str = "work") -> int:
    """Return how many messages wait in a queue."""
    count: int = queue(name)(connection.default_channel).queue_declare(passive=True).message_count
    return count
