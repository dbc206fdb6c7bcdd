"""Arguments of queues, by RabbitMQ's names."""

from collections.abc import Mapping
from typing import Any

from lmdbresults.store.queues import Arguments

__all__ = ["queue_arguments"]


def queue_arguments(given: Mapping[str, Any] | None) -> Arguments | None:
    """Return how a queue behaves that is declared with ``x-`` arguments. Those that only RabbitMQ has are ignored.

    None if none are given: an existing queue keeps its own.
    """
    if not given:
        return None
    return Arguments(
        max_length=given.get("x-max-length"),
        max_bytes=given.get("x-max-length-bytes"),
        refuse=str(given.get("x-overflow", "")).startswith("reject-publish"),
        message_ttl=_seconds(given.get("x-message-ttl")),
        expires=_seconds(given.get("x-expires")),
        max_deliveries=given.get("x-delivery-limit"),
        dead_letter_exchange=given.get("x-dead-letter-exchange") or "",
        dead_letter_key=given.get("x-dead-letter-routing-key"),
    )


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
