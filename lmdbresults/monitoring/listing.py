"""Tasks by filters, newest first: a pass that keeps the newest ones.

The store has no order by time, and needs none: keeping one would cost each writer pages, and this takes half a
microsecond a record.
"""

import base64
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Final, NamedTuple

import msgpack

from lmdbresults.errors import ConfigurationError
from lmdbresults.monitoring.heads import (
    HEAD_BYTES,
    UNREADABLE,
    Entry,
    Layout,
    Unusual,
    head_of,
    offset_of,
    pass_over,
    row_of,
    utc,
)
from lmdbresults.monitoring.values import Filters, Listing, TaskRow
from lmdbresults.record import TaskHead, TaskRecord, runtime_in
from lmdbresults.store.base import Store

__all__ = ["each_match", "list_tasks", "matches"]

#: A task that has not ended has no time. As a time, this comes after all others.
_NOT_ENDED: Final = b"~"
#: As an upper bound: after everything.
_LAST: Final = (b"~~", b"")
#: Bytes of a name in which a text is found.
_NAME_BYTES: Final = 128


class _Position(NamedTuple):
    """Where a task stands in the list: a time in UTC, to the microsecond, or `_NOT_ENDED`; and its id."""

    time: bytes
    id: bytes


def list_tasks(store: Store, prefix: bytes, filters: Filters, limit: int, after: str | None) -> Listing:
    """Return up to ``limit`` tasks that match, newest first, of those behind ``after``."""
    newest = _Newest(Layout(store), prefix, filters, limit, _decoded(after))
    damaged = pass_over(store, prefix, newest.layout, newest)
    found = newest.best()
    rows, unreadable = _read(store, prefix, found[:limit])
    return Listing(rows, _encoded(found[limit - 1]) if len(found) > limit else None, damaged + unreadable)


def each_match(store: Store, prefix: bytes, filters: Filters) -> Iterator[TaskRow]:
    """Yield every task that matches, in no order; a record that cannot be read is left out."""
    for key, beginning in store.scan(prefix, head=HEAD_BYTES):
        try:
            id_, head = key[len(prefix) :].decode(), TaskHead.read(beginning) or head_of(store, key)
            if head is not None and matches(filters, id_, head, utc(head.date_done)):
                yield row_of(id_, head)
        except UNREADABLE:
            continue


def _read(store: Store, prefix: bytes, found: list[_Position]) -> tuple[list[TaskRow], int]:
    """Return the rows, of records that are verified now, and how many of them are damaged."""
    rows, damaged = [], 0
    for _, id_ in found:
        try:
            value = store.get(prefix + id_)
            if value is not None:  # it was not deleted meanwhile
                rows.append(_row(id_, value))
        except UNREADABLE:
            damaged += 1
    return rows, damaged


def _row(id_: bytes, value: bytes) -> TaskRow:
    head = TaskHead.read(value)
    head = head or TaskHead._make(TaskRecord.unpack(value)[1 : 1 + len(TaskHead._fields)])
    return row_of(id_.decode(), head, runtime_in(value))


def matches(filters: Filters, id_: str, head: TaskHead, ended: datetime | None) -> bool:
    """Return whether a task matches."""
    return (
        (not filters.states or head.state in filters.states)
        and filters.name in (None, head.name)
        and filters.worker in (None, head.worker)
        and filters.queue in (None, head.queue)
        and filters.group in (None, head.group_id)
        and (filters.since is None or ended is None or ended >= filters.since)
        and (filters.until is None or (ended is not None and ended < filters.until))
        and (filters.text is None or _holds(filters.text.casefold(), id_, head.name or ""))
    )


def _holds(text: str, *places: str) -> bool:
    return any(text in place.casefold() for place in places)


class _Bounds(dict[bytes, tuple[bytes, bytes]]):
    """By the offset of a zone: the local times, as text, from which and up to which tasks are wanted."""

    def __init__(self, low: bytes, high: bytes) -> None:
        self._low, self._high = low, high

    def __missing__(self, zone: bytes) -> tuple[bytes, bytes]:
        offset = offset_of(zone)
        self[zone] = bounds = _local(self._low, offset), _local(self._high, offset)
        return bounds


def _local(time: bytes, offset: timedelta) -> bytes:
    if not time[:1].isdigit():  # before, or after, everything
        return time
    try:
        return (datetime.fromisoformat(time.decode()) + offset).isoformat(timespec="microseconds").encode()
    except OverflowError:  # at the first or last day that a datetime can have
        return time


class _Newest:
    """Keeps the newest tasks that match. See `heads.Visitor`."""

    def __init__(self, layout: Layout, prefix: bytes, filters: Filters, limit: int, after: _Position | None) -> None:
        self.layout = layout
        self._id_at = layout.key_at + len(prefix)
        self._filters = filters
        self._wanted = limit + 1  # the one more says that there is another page
        #: Positions from here on are left out: they belong to earlier pages.
        self._before = after or _Position(*_LAST)
        self._low = b"" if filters.since is None else _time(filters.since)
        self._high = min(_time(filters.until), self._before.time) if filters.until else self._before.time
        self._bounds = _Bounds(self._low, self._high)
        self._marks = {mark: not filters.states or state in filters.states for mark, state in layout.states.items()}
        self._is_candidate = _candidates(filters, layout, bytes(layout.key_at) + prefix)
        self._kept: list[_Position] = []
        self._most = 4 * self._wanted + 1000

    def visit(self, entries: Iterable[Entry]) -> list[Entry]:
        """Keep what is newer than the oldest task that is kept."""
        unpack, marks, bounds, is_candidate = self.layout.unpack, self._marks, self._bounds, self._is_candidate
        unusual: list[Entry] = []
        for entry in entries:
            try:
                mark, time, zone = unpack(entry[1])
                low, high = bounds[zone]
            except (StructError, ValueError):
                unusual.append(entry)
                continue
            is_wanted = marks.get(mark)
            if is_wanted is None:
                unusual.append(entry)
            elif is_wanted and low <= time <= high and (is_candidate is None or is_candidate(entry)):
                try:
                    self._consider(entry)
                except (ValueError, OverflowError):  # a damaged date
                    unusual.append(entry)
                bounds = self._bounds
        return unusual

    def _consider(self, entry: Entry) -> None:
        place, data = entry
        if self.layout.is_expired(data):
            return
        id_, date = place[self._id_at :], data[self.layout.time.start : self.layout.zone.stop]
        if self._is_candidate is not None:
            head = TaskHead.read(data[self.layout.value_at :])
            if head is None or not matches(self._filters, id_.decode(), head, utc(head.date_done)):
                return
        if date.endswith(b"+00:00"):
            self._keep(_Position(date[:-6], id_))
        else:
            self._keep(_Position(_time(datetime.fromisoformat(date.decode())), id_))

    def meet(self, record: Unusual) -> None:
        """Keep an unusual record if it is new enough."""
        if matches(self._filters, record.id.decode(), record.head, record.ended):
            time = _NOT_ENDED if record.ended is None else _time(record.ended)
            if self._low <= time:
                self._keep(_Position(time, record.id))

    def _keep(self, position: _Position) -> None:
        if position < self._before:
            self._kept.append(position)
            if len(self._kept) >= self._most:
                self._kept = self.best()
                self._low = self._kept[-1].time
                self._bounds = _Bounds(self._low, self._high)

    def best(self) -> list[_Position]:
        """Return the newest positions, the newest first, and one more than a page has, if there are so many."""
        return sorted(self._kept, reverse=True)[: self._wanted]


def _candidates(filters: Filters, layout: Layout, prefix: bytes) -> Callable[[Entry], bool] | None:
    """Return what excludes most entries that do not match, by their bytes; None if there is nothing to look for."""
    exact = [text for text in (filters.group, filters.worker, filters.name, filters.queue) if text is not None]
    start = layout.zone.stop
    if exact:
        needle = msgpack.packb(exact[0])  # the rarest first
        return lambda entry: entry[1].find(needle, start) >= 0
    if filters.text is None:
        return None
    if not filters.text.isascii():  # whose other case has other bytes
        return lambda entry: True
    text = filters.text.lower().encode()
    names = slice(start, start + _NAME_BYTES)
    if text in prefix.lower():
        return lambda entry: text in entry[0][len(prefix) :].lower() or text in entry[1][names].lower()
    return lambda entry: text in (entry[0] + entry[1][names]).lower()


# -- positions as text -------------------------------------------------------------------------------------------------


def _time(moment: datetime) -> bytes:
    return moment.astimezone(timezone.utc).isoformat(timespec="microseconds")[:26].encode()


def _encoded(position: _Position) -> str:
    return base64.urlsafe_b64encode(position.time + b" " + position.id).decode().rstrip("=")


def _decoded(after: str | None) -> _Position | None:
    if after is None:
        return None
    try:
        time, _, id_ = base64.b64decode(after + "=" * (-len(after) % 4), b"-_", validate=True).partition(b" ")
        if time != _NOT_ENDED:
            datetime.fromisoformat(time.decode())
    except ValueError:
        raise ConfigurationError(f"{after!r} does not lead to a page: use what the page before has as next.") from None
    return _Position(time, id_)
