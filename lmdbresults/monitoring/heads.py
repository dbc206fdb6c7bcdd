"""The pass over the heads of all task records, on which lists and figures rest.

Nearly every record is of a task that has ended, written by a backend with a time zone. Where the fields of such a
record lie is known, so a visitor compares slices of bytes, and parses only what it keeps. All others are *unusual*:
they are parsed one by one.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import islice
from struct import Struct
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar

import msgpack

from lmdbresults import states
from lmdbresults.errors import DecodeError, NewerFormat, RecordDamaged
from lmdbresults.monitoring.values import TaskRow
from lmdbresults.record import SUCCESS_PREFIX, TaskHead, TaskRecord
from lmdbresults.store.base import Skimmable, Store

__all__ = [
    "UNREADABLE",
    "Entry",
    "Layout",
    "Unusual",
    "Visitor",
    "bytes_of_text",
    "head_of",
    "offset_of",
    "pass_over",
    "row_of",
    "skim",
    "utc",
]

#: Bytes of a value that are read of an unusual record. The head of nearly every record ends before.
HEAD_BYTES: Final = 512
_BATCH: Final = 5000
_DEADLINE: Final = Struct(">d")
#: A deadline that never comes, and no flags.
_NEVER: Final = bytes(_DEADLINE.size + 1)
#: What reading a record raises that is damaged, or not a task record.
UNREADABLE: Final = (DecodeError, NewerFormat, RecordDamaged, ValueError)

Seen = TypeVar("Seen")
#: Place and data, as `Skimmable.skim` has them.
Entry: TypeAlias = tuple[bytes, bytes]


def _usual_mark(state: str) -> bytes:
    """Return what a usual record begins with: no flags; its version; its state; the length of a date with a zone."""
    beginning = SUCCESS_PREFIX.removesuffix(msgpack.packb(states.SUCCESS))
    packed: bytes = msgpack.packb(state)
    return b"\0" + beginning + packed + b"\xd9\x20"


class Layout:
    """Where the parts of a usual entry lie in its data, as slices."""

    #: The states by the marks of usual records, which all have the same length.
    states: Final = {_usual_mark(state): state for state in sorted(states.READY_STATES)}

    def __init__(self, store: Store) -> None:
        #: By the clock of the store.
        self.now = store.now()
        self.key_at, value_at = store.entry_layout if isinstance(store, Skimmable) else (0, len(_NEVER))
        self.value_at = value_at
        self.deadline = slice(value_at - 9, value_at - 1)
        self.mark = slice(value_at - 1, value_at - 1 + len(_usual_mark(states.SUCCESS)))
        #: When the task ended: local time, to the microsecond; and the offset of that from UTC.
        self.time = slice(self.mark.stop, self.mark.stop + 26)
        self.zone = slice(self.time.stop, self.time.stop + 6)
        #: Returns mark, time and zone at once. Raises `struct.error` if the data is too short.
        self.unpack = Struct(f"{self.mark.start}x{self.mark.stop - self.mark.start}s26s6s").unpack_from

    def is_expired(self, data: bytes) -> bool:
        """Return whether the deadline in the data of an entry has passed."""
        deadline: float = _DEADLINE.unpack_from(data, self.deadline.start)[0]
        return 0 < deadline <= self.now


class Unusual(NamedTuple):
    """A record that was parsed by itself."""

    id: bytes
    head: TaskHead
    ended: datetime | None


class Visitor(Protocol):
    """What `pass_over` shows the records to."""

    def visit(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take the usual entries into account; return the unusual ones."""

    def meet(self, record: Unusual) -> None:
        """Take an unusual record into account."""


def pass_over(store: Store, prefix: bytes, layout: Layout, visitor: Visitor) -> int:
    """Show all task records, whose keys begin with ``prefix``, to a visitor; return how many are damaged."""
    damaged = 0
    for unusual in skim(store, prefix, visitor.visit):
        for place, data in unusual:
            key = place[layout.key_at :]
            try:
                head = _head(store, key, data, layout)
                if head is not None:
                    visitor.meet(Unusual(key[len(prefix) :], head, utc(head.date_done)))
            except UNREADABLE:
                damaged += 1
    return damaged


def skim(store: Store, prefix: bytes, visit: Callable[[Iterator[Entry]], Seen]) -> Iterator[Seen]:
    """Yield what ``visit`` returns for each slice of entries; of a store that is not `Skimmable`, they are scanned."""
    if isinstance(store, Skimmable):
        yield from store.skim(prefix, visit)
        return
    pairs = ((key, _NEVER + value) for key, value in store.scan(prefix, head=HEAD_BYTES))
    while batch := list(islice(pairs, _BATCH)):
        yield visit(iter(batch))


def _head(store: Store, key: bytes, data: bytes, layout: Layout) -> TaskHead | None:
    """Return the head of an unusual record; None if it has expired, or was deleted meanwhile."""
    if data[layout.value_at - 1 : layout.value_at] == b"\0":
        head = TaskHead.read(data[layout.value_at : layout.value_at + HEAD_BYTES])
        if head is not None:
            return None if layout.is_expired(data) else head
    return head_of(store, key)


def head_of(store: Store, key: bytes) -> TaskHead | None:
    """Return the head of a record, of which no more is read than that takes; None if there is no record.

    Raises `DecodeError`, `NewerFormat` or `RecordDamaged`.
    """
    for found, beginning in store.range(key, key, 1, head=HEAD_BYTES):
        if found == key and (head := TaskHead.read(beginning)) is not None:
            return head
    value = store.get(key)
    return None if value is None else TaskHead._make(TaskRecord.unpack(value)[1 : 1 + len(TaskHead._fields)])


def row_of(task_id: str, head: TaskHead, runtime: float | None = None) -> TaskRow:
    """Return what a list shows of a task. Raises ValueError for a date that is none."""
    state, date_done, name, worker, queue, retries, group_id, parent_id = head
    return TaskRow(task_id, state, utc(date_done), runtime, name, worker, queue, retries, group_id, parent_id)


def offset_of(zone: bytes) -> timedelta:
    """Return an offset from UTC such as +02:00. Raises ValueError if it is none."""
    offset = datetime.fromisoformat("2000-01-01T00:00:00" + zone.decode()).utcoffset()
    if offset is None:
        raise ValueError(f"{zone!r} is not an offset from UTC")
    return offset


def bytes_of_text(data: bytes, start: int) -> int:
    """Return how many bytes a packed text of up to 255 bytes has, or None in its place. Raises ValueError."""
    first = data[start]
    if first == 0xC0:
        return 1
    if 0xA0 <= first < 0xC0:
        return first - 0x9F
    if first == 0xD9:
        return data[start + 1] + 2
    raise ValueError("a longer text, or none")


def utc(date: str | None) -> datetime | None:
    """Return a stored date in UTC. One without a zone is in UTC: so Celery before 5.5 wrote them.

    Raises ValueError for a date that is none, or is out of range in UTC.
    """
    if date is None:
        return None
    moment = datetime.fromisoformat(date)
    try:
        return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError(str(error)) from error
