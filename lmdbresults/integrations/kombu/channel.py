"""A channel: what kombu's producers and consumers call, over the queues of a store."""

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any, Final, NamedTuple, NoReturn
from uuid import uuid4

import msgpack
from amqp.exceptions import NotFound, RecoverableConnectionError
from kombu.transport.base import StdChannel, to_rabbitmq_queue_arguments

from lmdbresults.integrations.kombu import outbox
from lmdbresults.integrations.kombu.arguments import queue_arguments
from lmdbresults.integrations.kombu.batch import PublishBatch
from lmdbresults.integrations.kombu.messages import Message, Outgoing, from_kombu
from lmdbresults.integrations.kombu.qos import QoS
from lmdbresults.store import queues
from lmdbresults.store.queues import Delivery

__all__ = ["Channel"]

logger = logging.getLogger(__name__)

_numbers: Final = count(1)


class Declared(NamedTuple):
    """What is known of a queue, by the names of the library amqp."""

    queue: str
    message_count: int
    consumer_count: int
    """Always 0: consumers are not counted."""


class _Consumer(NamedTuple):
    """A consumer of one queue."""

    queue: str
    no_ack: bool
    callback: Callable[[Message], object]


class Channel(StdChannel):
    """A channel of a connection. `connection` is the transport, and None once the channel is closed."""

    supports_batch_publish = True

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.store = connection.store
        self.identity: str = connection.identity
        self.channel_id = next(_numbers)
        self.closed = False
        self.qos = QoS()
        #: By their tags.
        self.consumers: dict[str, _Consumer] = {}
        self._queues = self.store.queues
        #: Whether a task that is queued is not queued again.
        self.dedupe: bool = connection.dedupe
        #: The queues that this channel has declared, and that are deleted when it cancels their last consumer.
        self._auto_deleted: set[str] = set()

    # -- exchanges and queues ----------------------------------------------------------------------------------------

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str | None = "direct",  # noqa: A002
        passive: bool = False,
        **options: Any,
    ) -> None:
        """Create an exchange: direct, topic or fanout."""
        kind = type or "direct"
        name = exchange or f"amq.{kind}"
        present = self._queues.exchange_kind(name)
        if passive and present is None:
            self._raise_not_found("exchange", name)
        if not passive and present != kind:
            self._queues.declare_exchange(name, kind)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange and its bindings."""
        if not if_unused or not self._queues.bindings(exchange):
            self._queues.delete_exchange(exchange)

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Declared:
        """Create a queue, or with ``passive`` only look; return its name and its numbers of messages and consumers.

        An exclusive queue also ends with this process, an automatically deleted one with the process that consumes
        from it. With ``passive``, raises NotFound, a ChannelError, for an unknown queue.
        """
        name = queue or f"amq.gen-{uuid4()}"
        if passive:
            state = self._queues.state(name)
            if state is None:
                self._raise_not_found("queue", name)
            return Declared(name, state.ready, 0)
        if exclusive or auto_delete:
            self._auto_deleted.add(name)
        else:
            self.connection.declared[name] = arguments
        declared = self._queues.declare(name, queue_arguments(arguments), owned=exclusive)
        return Declared(name, declared.ready, 0)

    def prepare_queue_arguments(self, arguments: Mapping[str, Any], **options: Any) -> Any:
        return to_rabbitmq_queue_arguments(arguments, **options)

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **options: Any
    ) -> None:
        """Have a queue receive what is published to an exchange with a routing key, or a pattern of a topic."""
        name = exchange or "amq.direct"
        if (routing_key, queue) not in self._queues.bindings(name) and not self._queues.bind(queue, name, routing_key):
            self.exchange_declare(name)
            self._queues.declare(queue)
            self._queues.bind(queue, name, routing_key)

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **options: Any
    ) -> None:
        """Undo `queue_bind`."""
        self._queues.unbind(queue, exchange or "amq.direct", routing_key)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **options: Any) -> int:
        """Delete a queue; return how many messages it had."""
        state = self._queues.state(queue)
        if state is None or (if_empty and state.ready + state.delayed):
            return 0
        self._auto_deleted.discard(queue)
        deleted: int = self._queues.delete(queue)
        return deleted

    def queue_purge(self, queue: str, **options: Any) -> int:
        """Delete the waiting messages of a queue; return how many."""
        purged: int = self._queues.purge(queue)
        return purged

    def after_reply_message_received(self, queue: str) -> None:
        """Delete a queue for replies."""
        self.queue_delete(queue)

    def list_bindings(self) -> Iterable[tuple[str, str, str]]:
        """Yield queue, exchange and routing key of each binding."""
        for exchange in self._queues.exchanges():
            for key, queue in self._queues.bindings(exchange):
                yield queue, exchange, key

    def _size(self, queue: str) -> int:
        """Return how many messages wait in a queue. Programs that watch queues call it for any virtual transport."""
        state = self._queues.state(queue)
        return 0 if state is None else state.ready

    def _raise_not_found(self, what: str, name: str) -> NoReturn:
        raise NotFound(f"NOT_FOUND - no {what} {name!r}", method_name=f"Channel.{what}_declare")

    # -- publishing --------------------------------------------------------------------------------------------------

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Outgoing:
        """Return a message in the form that `basic_publish` takes."""
        properties = properties if properties is not None else {}
        properties.setdefault("priority", priority or 0)
        return {
            "body": body,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers or {},
            "properties": properties,
        }

    def basic_publish(self, message: Outgoing, exchange: str = "", routing_key: str = "", **options: Any) -> None:
        """Publish a message. It is in the store when this returns. Raises `StoreFull` and `QueueFull`."""
        packed = from_kombu(message, exchange, routing_key, is_unique=self.dedupe)
        if outbox.find is not None and (box := outbox.find(self.store, message)) is not None:
            box.add(packed)
            return
        (count,) = self._queues.publish((packed,))
        if not count and not exchange and routing_key in self.connection.declared:  # and deleted by others since
            self.queue_declare(routing_key, arguments=self.connection.declared[routing_key])
            self._queues.publish((packed,))

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Return what collects messages and publishes up to ``max_size`` of them in one transaction."""
        return PublishBatch(self, max_size)

    # -- consuming ---------------------------------------------------------------------------------------------------

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Message], object], consumer_tag: str = "", **options: Any
    ) -> str:
        """Have a callback called with the messages of a queue; return the tag of the consumer."""
        tag = consumer_tag or str(uuid4())
        if queue in self._auto_deleted:
            self._queues.declare(queue, owned=True)  # not earlier: a publisher declares it too, and exits
        self.consumers[tag] = _Consumer(queue, no_ack, callback)
        self.connection.receiver.changed(self)
        return tag

    def basic_cancel(self, consumer_tag: str) -> None:
        """End a consumer. What it has not settled yet, it can settle."""
        consumer = self.consumers.pop(consumer_tag, None)
        if consumer is None:
            return
        self.connection.receiver.changed(self)
        if consumer.queue in self.queues():
            return
        if consumer.queue in self._auto_deleted:
            self._auto_deleted.discard(consumer.queue)
            self._queues.delete(consumer.queue)
        else:
            self._queues.leave(consumer.queue)

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Message | None:
        """Take a message; return None if there is none."""
        (taken,) = self._queues.turn((), [((queue,), 1)], (queue,) if no_ack else ())
        for delivery in taken.deliveries:
            if not no_ack:
                self.qos.unsettled[delivery.tag] = None
            return Message(delivery, self)
        return None

    def queues(self) -> list[str]:
        """Return the queues that this channel consumes from."""
        return list(dict.fromkeys(consumer.queue for consumer in self.consumers.values()))

    def deliver(self, delivery: Delivery) -> None:
        """Call the callback of a consumer with a message."""
        for consumer in self.consumers.values():
            if consumer.queue == delivery.queue:
                break
        else:  # it was cancelled meanwhile
            self.give_back([delivery.tag] if delivery.tag else ())
            return
        try:
            message = Message(delivery, self)
        except (ValueError, TypeError, msgpack.UnpackException):
            logger.exception("A message in queue %r cannot be decoded: it goes to the dead letters.", delivery.queue)
            if delivery.tag:
                self._settle(queues.REJECT, delivery.tag)
            return
        if consumer.no_ack and delivery.tag:
            self._settle(queues.ACKNOWLEDGE, delivery.tag)
        consumer.callback(message)

    # -- settling ----------------------------------------------------------------------------------------------------

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Acknowledge a message, with ``multiple`` also all that were delivered before it."""
        for tag in self._until(delivery_tag) if multiple else ():
            self._settle(queues.ACKNOWLEDGE, tag)
        self._settle(queues.ACKNOWLEDGE, delivery_tag)

    def _until(self, last: str) -> list[str]:
        tags = list(self.qos.unsettled)
        return tags[: tags.index(last)] if last in tags else []

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Return a message to its queue, or move it to the dead letters."""
        self._settle(queues.REQUEUE if requeue else queues.REJECT, delivery_tag)

    def basic_recover(self, requeue: bool = False) -> None:
        """Return all messages to their queues that are not settled."""
        if not requeue:
            raise NotImplementedError("basic_recover(requeue=False) is not supported: use requeue=True")
        for tag in list(self.qos.unsettled):
            self._settle(queues.REQUEUE, tag)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Set how many messages of this channel may be unsettled at the same time; 0: any number."""
        self.qos.prefetch_count = prefetch_count
        self.connection.receiver.changed(self)

    def _settle(self, action: Any, tag: str) -> None:
        if self.connection is None:
            raise RecoverableConnectionError("The channel is closed: its messages went back to their queues.")
        could_consume = self.qos.can_consume()
        self.qos.unsettled.pop(tag, None)
        receiver = self.connection.receiver
        receiver.settle(((action, tag),))
        if not could_consume:
            receiver.wake()

    def give_back(self, tags: Iterable[str]) -> None:
        """Return messages to their queues that were not worked on."""
        settlements = [(queues.REQUEUE_UNCOUNTED, tag) for tag in tags]
        for _, tag in settlements:
            self.qos.unsettled.pop(tag, None)
        if settlements:
            self.connection.receiver.settle(settlements, now=True)

    # -- the end -----------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Leave all consumers and messages to the parent process: this is a forked child."""
        self.consumers.clear()
        self.qos.unsettled.clear()
        self._auto_deleted.clear()

    def flow(self, active: bool = True) -> NoReturn:
        """Raise NotImplementedError: use `basic_qos`."""
        raise NotImplementedError("the flow of a channel cannot be stopped: use basic_qos")

    def close(self) -> None:
        """Cancel all consumers, and return to their queues the messages that are not settled."""
        if self.closed:
            return
        self.closed = True
        try:
            for tag in list(self.consumers):
                self.basic_cancel(tag)
        finally:
            self.consumers.clear()  # if the store is busy
            try:
                if self.qos.restore_at_shutdown:
                    self.give_back(list(self.qos.unsettled))
            finally:
                self.connection.close_channel(self)
