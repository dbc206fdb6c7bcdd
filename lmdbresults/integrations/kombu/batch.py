"""Batches: messages that are published together, as by ``Producer.batch()`` since kombu 5.7."""

from typing import Any

from lmdbresults.integrations.kombu.messages import Outgoing, from_kombu
from lmdbresults.store.queues import Message

__all__ = ["PublishBatch"]


class PublishBatch:
    """Collects messages, and publishes them in transactions of at most ``max_size`` messages."""

    def __init__(self, channel: Any, max_size: int) -> None:
        self.channel = channel
        self.max_size = max_size
        self._messages: list[Message] = []

    def publish(self, message: Outgoing, exchange: str = "", routing_key: str = "", **options: Any) -> None:
        """Add a message."""
        self._messages.append(from_kombu(message, exchange, routing_key, is_unique=self.channel.dedupe))
        if len(self._messages) >= self.max_size:
            self.flush()

    def flush(self) -> None:
        """Publish what was added: all of it, or none if it raises, as with `StoreFull`."""
        messages, self._messages = self._messages, []
        if messages:
            self.channel.store.queues.publish(messages)

    def discard(self) -> None:
        """Drop what was added since the last flush."""
        self._messages = []

    def close(self) -> None:
        """End the batch."""
        self.discard()
