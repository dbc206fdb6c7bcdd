"""Where a message goes that is published inside a larger transaction: not to the store, but to the transaction's owner.

The Celery integration replaces `find`, so that what a task publishes at its end is stored together with its result.
"""

from collections.abc import Callable
from typing import Any, Protocol

from lmdbresults.store.lmdb.store import LMDBStore
from lmdbresults.store.queues import Message

__all__ = ["Outbox", "find"]


class Outbox(Protocol):
    """Collects messages that its owner publishes."""

    def add(self, message: Message) -> object:
        """Take over a message."""


#: Returns the outbox for a message to a store, in kombu's form with headers and properties; None: publish it now.
find: Callable[[LMDBStore, dict[str, Any]], Outbox | None] | None = None
