"""What a channel has delivered and what is not settled yet, and how much more it may deliver."""

__all__ = ["QoS"]


class QoS:
    """The window of a channel, by the names that kombu and Celery use.

    Celery replaces `can_consume` of a channel's object. Other threads may settle messages; only the thread that
    delivers adds them.
    """

    def __init__(self) -> None:
        #: Messages that may be unsettled at the same time; 0: any number.
        self.prefetch_count = 0
        #: Whether messages that are not settled return to their queues when the channel is closed. Else they do so when
        #: the process ends.
        self.restore_at_shutdown = True
        #: The tags of unsettled deliveries, in the order of their delivery.
        self.unsettled: dict[str, None] = {}

    def can_consume(self) -> bool:
        """Return whether one more message may be delivered."""
        return not self.prefetch_count or len(self.unsettled) < self.prefetch_count

    def can_consume_max_estimate(self) -> int | None:
        """Return how many messages may be delivered; None: any number."""
        return max(self.prefetch_count - len(self.unsettled), 0) if self.prefetch_count else None

    def limit(self, unlimited: int) -> int:
        """Return how many messages to take at once: so many if the channel may have any number."""
        if not self.can_consume():
            return 0
        credit = self.can_consume_max_estimate()
        return unlimited if credit is None else credit
