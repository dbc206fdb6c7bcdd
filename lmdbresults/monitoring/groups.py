"""Groups: those that were saved, the headers of chords, and what tasks say of their group."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from lmdbresults.errors import ResultError
from lmdbresults.monitoring.chords import read_chord
from lmdbresults.monitoring.heads import UNREADABLE, Entry, Layout, Unusual, bytes_of_text, pass_over, utc
from lmdbresults.monitoring.tasks import ids_in
from lmdbresults.monitoring.values import Chord, Group, TaskRow
from lmdbresults.record import TaskHead, unpack_payload
from lmdbresults.serialization import DEFAULT_ACCEPT, loads
from lmdbresults.store.base import Store

__all__ = ["group_of", "read_groups", "saved_tree"]

#: Groups that are kept in memory at most while all tasks are read; the newest ones.
_MOST_GROUPS: Final = 20_000


def saved_tree(store: Store, prefix: bytes, id_: str) -> Any:
    """Return the tuple tree of a group that was saved; None if it was not, or its serializer is not accepted."""
    with suppress(ResultError, ValueError, KeyError, TypeError):
        data = store.get(prefix + id_.encode())
        return None if data is None else loads(unpack_payload(data), DEFAULT_ACCEPT)["result"]
    return None


def _saved_ids(store: Store, prefix: bytes) -> Iterator[str]:
    """Yield the ids of the groups that were saved."""
    for key, _ in store.scan(prefix, head=0):
        yield key[len(prefix) :].decode(errors="surrogateescape")


class _Members:
    """Counts the tasks of groups. See `heads.Visitor`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fields_at = layout.zone.stop
        #: By the id of a group: its tasks by state, and when the last of them ended.
        self.groups: dict[str, tuple[Counter[str], str]] = {}

    def visit(self, entries: Iterable[Entry]) -> list[Entry]:
        """Count the usual entries."""
        layout, unusual = self._layout, []
        mark, fields_at, value_at = layout.mark, self._fields_at, layout.value_at
        for entry in entries:
            data = entry[1]
            if data[mark] not in layout.states:
                unusual.append(entry)
            elif _has_group(data, fields_at) and not layout.is_expired(data):
                head = TaskHead.read(data[value_at:])
                if head is None:
                    unusual.append(entry)
                elif head.group_id is not None:
                    self._count(head, head.date_done or "")
        return unusual

    def meet(self, record: Unusual) -> None:
        """Count an unusual record."""
        if record.head.group_id is not None:
            self._count(record.head, record.head.date_done or "")

    def _count(self, head: TaskHead, date: str) -> None:
        states, last = self.groups.get(str(head.group_id), (Counter[str](), ""))
        states[head.state] += 1
        self.groups[str(head.group_id)] = states, max(last, date)
        if len(self.groups) > 2 * _MOST_GROUPS:
            newest = sorted(self.groups.items(), key=lambda item: item[1][1], reverse=True)
            self.groups = dict(newest[:_MOST_GROUPS])


#: Name, worker, queue, retries and group of a task that has none of them.
_NO_FIELDS: Final = b"\xc0" * 5


def _has_group(data: bytes, at: int) -> bool:
    """Return whether a task belongs to a group, by the fields that begin at ``at``; True if they are unusual."""
    if data[at : at + 5] == _NO_FIELDS:
        return False
    try:
        for _ in range(3):
            at += bytes_of_text(data, at)
        return not (data[at] < 0x80 and data[at + 1] == 0xC0)  # a small number of retries, and no group
    except (IndexError, ValueError):
        return True


def read_groups(store: Store, prefixes: tuple[bytes, bytes, bytes], limit: int) -> list[Group]:
    """Return up to ``limit`` groups, the newest first. ``prefixes``: of tasks, of saved groups, of chords."""
    tasks, groups, chords = prefixes
    layout = Layout(store)
    visitor = _Members(layout)
    pass_over(store, tasks, layout, visitor)
    members = visitor.groups
    saved = set(_saved_ids(store, groups))
    for id_ in saved:
        members.setdefault(id_, (Counter[str](), ""))
    newest = sorted(members.items(), key=lambda item: item[1][1], reverse=True)[:limit]
    return [_group(store, groups, chords, id_, states, last, id_ in saved) for id_, (states, last) in newest]


def _group(
    store: Store, groups: bytes, chords: bytes, id_: str, states: Counter[str], last: str, is_saved: bool
) -> Group:
    chord = read_chord(store, chords, id_)
    tree = saved_tree(store, groups, id_) if is_saved else None
    return Group(id_, _size(chord, tree), dict(states), _moment(last), is_saved, chord)


def group_of(id_: str, rows: list[TaskRow], tree: Any, is_saved: bool, chord: Chord | None) -> Group:
    """Return a group, of its tasks."""
    last = max((row.ended for row in rows if row.ended is not None), default=None)
    return Group(id_, _size(chord, tree), dict(Counter(row.state for row in rows)), last, is_saved, chord)


def _size(chord: Chord | None, tree: Any) -> int | None:
    return _size_of(tree) if chord is None or chord.size is None else chord.size


def _size_of(tree: Any) -> int | None:
    """Return how many tasks the tuple tree of a group has; None if it is not one."""
    try:
        return None if tree is None else sum(1 for _ in ids_in(tree))
    except (TypeError, ValueError):
        return None


def _moment(date: str) -> datetime | None:
    try:
        return utc(date or None)
    except UNREADABLE:
        return None
