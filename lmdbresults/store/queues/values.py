"""What the queues take and return."""

from typing import Final, Literal, NamedTuple, TypeAlias

from lmdbresults.process.identity import Owner

__all__ = [
    "NO_ARGUMENTS",
    "PRIORITIES",
    "Arguments",
    "Death",
    "Delivery",
    "Message",
    "QueueState",
    "Reason",
    "Recovered",
    "Taken",
    "Unacknowledged",
    "Waiting",
]

#: Priorities are 0 to 9; a higher one is delivered first.
PRIORITIES: Final = 10

#: Why a message was moved to the dead-letter exchange, in RabbitMQ's words.
Reason: TypeAlias = Literal["rejected", "expired", "maxlen", "delivery_limit"]


class Message(NamedTuple):
    """A message to publish."""

    body: bytes
    key: str
    """The routing key. For the default exchange, the name of a queue."""
    exchange: str = ""
    priority: int = 0
    ttl: float | None = None
    """Seconds until it expires, if it still waits then. None: never."""
    due: float | None = None
    """The time, by the clock of the store, before which it is not delivered. None: at once."""
    unique: str | None = None
    """Not added to a queue that holds a message with the same text, waiting or taken. Ignored if it has a ``ttl``."""


class Arguments(NamedTuple):
    """How a queue behaves."""

    max_length: int | None = None
    """Messages that may be ready; None: any number."""
    max_bytes: int | None = None
    """Bytes of bodies that may be ready; None: any number."""
    refuse: bool = False
    """A full queue refuses a message with `QueueFull`, instead of dropping the oldest one."""
    message_ttl: float | None = None
    """Seconds after which a waiting message expires; None: never."""
    expires: float | None = None
    """Seconds without use after which the queue is deleted; None: never. Declaring and taking are use.

    It stays while the process lives that owns it, or the last one that has taken from it and has not left it.
    """
    max_deliveries: int | None = None
    """A message that came back more often than this is a dead letter; None: there is no such limit."""
    dead_letter_exchange: str = ""
    """Where dead letters go: rejected and expired ones, those dropped from a full queue, and poison messages."""
    dead_letter_key: str | None = None
    """The routing key of dead letters; None: the name of the queue. If neither is set, dead letters are dropped."""


NO_ARGUMENTS: Final = Arguments()


class QueueState(NamedTuple):
    """How much a queue holds, unacknowledged messages aside."""

    ready: int
    """Messages that can be taken. One that has expired counts until a take meets it."""
    size: int
    """Bytes of their bodies."""
    delayed: int
    """Messages that are not due yet."""


class Death(NamedTuple):
    """Why a message left a queue without being acknowledged, and how often."""

    queue: str
    reason: Reason
    times: int
    first: float
    """When it happened first."""


class Delivery(NamedTuple):
    """A message that was taken. Its owner settles it by its tag."""

    tag: str
    """Empty if it was settled when it was taken."""
    queue: str
    body: bytes
    redelivered: bool
    """Whether it was taken before, and came back."""
    deliveries: int
    """How often it came back, requeues that are not counted aside."""
    deaths: tuple[Death, ...]
    """The queues in which it was a dead letter, the latest first."""
    priority: int
    published: float


class Taken(NamedTuple):
    """What a take has found."""

    deliveries: list[Delivery]
    next_due: float | None
    """When the next delayed message is due, by the clock of the store; None: there is none."""


class Waiting(NamedTuple):
    """A message that waits in a queue."""

    tag: str
    """Leads to it while it waits."""
    body: bytes
    priority: int
    published: float
    due: float | None
    """None: it is ready."""
    deliveries: int


class Unacknowledged(NamedTuple):
    """A message that was taken and is not settled."""

    tag: str
    queue: str
    owner: Owner
    body: bytes
    taken: float
    published: float


class Recovered(NamedTuple):
    """What a recovery has done."""

    messages: int
    """Messages of dead owners that were returned to their queues."""
    queues: int
    """Queues that were deleted, because their owner was dead or they were not in use."""
