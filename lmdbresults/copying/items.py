"""What a copy carries: results, groups, other values and open chords, in the form in which our stores keep them."""

import math
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Final, NamedTuple

from lmdbresults import states
from lmdbresults.backends.chords import CLAIMS_KEY
from lmdbresults.backends.keyvalue import KeyValueStoreBackend
from lmdbresults.errors import NewerFormat, SerializationError
from lmdbresults.record import TaskRecord
from lmdbresults.store.chords import Run

__all__ = [
    "CHORD_PREFIX",
    "CLAIMS",
    "GROUP",
    "PREFIXES",
    "RESULT",
    "VALUE",
    "Item",
    "OpenChord",
    "ended_since",
    "same_deadline",
    "wins",
]

RESULT, GROUP, VALUE = "result", "group", "value"


def _bytes(prefix: str | bytes) -> bytes:
    return prefix if isinstance(prefix, bytes) else prefix.encode()


#: What comes before the id in a key, by kind.
PREFIXES: Final = {
    RESULT: _bytes(KeyValueStoreBackend.task_keyprefix),
    GROUP: _bytes(KeyValueStoreBackend.group_keyprefix),
    VALUE: b"",
}
CHORD_PREFIX: Final = _bytes(KeyValueStoreBackend.chord_keyprefix)
#: Where the claims of chords are listed.
CLAIMS: Final = CHORD_PREFIX + CLAIMS_KEY.encode()
#: What a record raises that is damaged, not one of ours, or of a newer version.
_UNREADABLE: Final = (SerializationError, NewerFormat)
#: Seconds by which two deadlines may differ and still count as the same.
_CLOSE: Final = 1.0


class Item(NamedTuple):
    """One value of a store."""

    kind: str
    """`RESULT`, `GROUP` or `VALUE`."""
    id: bytes
    """The id of the task or group; for a value its key."""
    value: bytes
    """A packed `TaskRecord`, a group by `pack_payload`, or the value itself."""
    deadline: float
    """When it expires, in seconds since the epoch; infinity: never."""

    @property
    def key(self) -> bytes:
        """The key under which the engines of lmdbresults keep it."""
        return PREFIXES[self.kind] + self.id

    def __str__(self) -> str:
        return f"{self.kind} {self.id.decode(errors='backslashreplace')}"

    def ttl(self, now: Callable[[], float] = time.time) -> float | None:
        """Return for how many seconds it is still to be kept, None for ever. Zero or less: it has expired."""
        return None if self.deadline == math.inf else self.deadline - now()


class OpenChord(NamedTuple):
    """A chord whose parts have not all returned."""

    id: bytes
    size: int | None
    """How many parts it waits for, with those of results that were added to it; None: not known yet."""
    run: Run
    """Body, header, and the parts that have returned."""
    deadline: float

    def __str__(self) -> str:
        size = "?" if self.size is None else self.size
        return f"chord {self.id.decode(errors='backslashreplace')}: {len(self.run.parts)} of {size} parts have returned"


def same_deadline(one: float, other: float) -> bool:
    """Return whether two deadlines are the same to the second."""
    return one == other or abs(one - other) <= _CLOSE


def wins(item: Item, present: Item) -> bool:
    """Return whether an item replaces the one that the other side has.

    As in any one store, a success is never replaced. A result that has ended replaces one that has not; otherwise the
    newer one wins, by the time at which it ended, else by its deadline.
    """
    if item.kind == RESULT and item.value != present.value:
        ours, other = _age(item), _age(present)
        if ours != other:
            return ours > other
    return item.deadline > present.deadline and not same_deadline(item.deadline, present.deadline)


def _age(item: Item) -> tuple[int, float]:
    try:
        record = TaskRecord.unpack(item.value)
    except _UNREADABLE:  # is older than anything that can be read
        return -1, 0.0
    rank = 2 if record.state == states.SUCCESS else int(record.state in states.READY_STATES)
    return rank, _timestamp(record.date_done)


def _timestamp(date_done: str | None) -> float:
    if date_done is None:
        return 0.0
    try:
        date = datetime.fromisoformat(date_done)
    except ValueError:
        return 0.0
    return (date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)).timestamp()


def ended_since(item: Item, moment: float | None) -> bool:
    """Return whether an item is a result that has ended at a moment or later, or not yet, or is no result.

    Of a result that cannot be read here this is not known; it is copied, as it is without a moment.
    """
    if moment is None or item.kind != RESULT:
        return True
    try:
        record = TaskRecord.unpack(item.value)
    except _UNREADABLE:
        return True
    return record.date_done is None or _timestamp(record.date_done) >= moment
