"""`Monitor`: everything that can be seen in a store."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Any, Final

from lmdbresults.monitoring import chords, groups, queues
from lmdbresults.monitoring.canvas import Canvas
from lmdbresults.monitoring.changes import Changes
from lmdbresults.monitoring.files import read_file
from lmdbresults.monitoring.heads import UNREADABLE, row_of, utc
from lmdbresults.monitoring.listing import each_match, list_tasks, matches
from lmdbresults.monitoring.overview import task_figures
from lmdbresults.monitoring.tasks import payload_of, read_record, read_task
from lmdbresults.monitoring.values import (
    Chord,
    FileFigures,
    Filters,
    Group,
    Listing,
    Node,
    Overview,
    Payload,
    Queue,
    QueuedMessage,
    Task,
    TaskRow,
)
from lmdbresults.record import TaskHead, TaskRecord, runtime_in
from lmdbresults.serialization import DEFAULT_ACCEPT
from lmdbresults.store.base import Store, WriteTransaction

__all__ = ["Monitor"]

_ALL: Final = Filters()
#: The most chords in flight that are counted, and the most tasks of a group.
_MOST_CHORDS, _MOST_MEMBERS = 1000, 10_000
#: Results deleted in one transaction.
_BATCH: Final = 200


class Monitor:
    """Shows what a store holds of tasks, groups, chords and queues. Threads may share it.

    The prefixes are those of the keys of a backend. Nothing but `forget` writes. Results are decoded by `payload` only.
    """

    def __init__(
        self,
        store: Store,
        *,
        task_prefix: bytes = b"celery-task-meta-",
        group_prefix: bytes = b"celery-taskset-meta-",
        chord_prefix: bytes = b"chord-unlock-",
    ) -> None:
        self.store = store
        self._tasks, self._groups, self._chords = task_prefix, group_prefix, chord_prefix

    def task_key(self, task_id: str) -> bytes:
        """Return the key of a task's record."""
        return self._tasks + task_id.encode()

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def tasks(self, filters: Filters = _ALL, *, limit: int = 100, after: str | None = None) -> Listing:
        """Return up to ``limit`` tasks that match: first those that have not ended, then the others, newest first.

        ``after`` is the ``next`` of the page before. Takes half a microsecond for each task in the store, whatever the
        filters, and holds no snapshot for longer than some milliseconds. Raises `ConfigurationError` for another
        ``after``.
        """
        return list_tasks(self.store, self._tasks, filters, limit, after)

    def task(self, task_id: str) -> Task | None:
        """Return a task, or None if nothing is stored of it. Raises `DecodeError`, `NewerFormat`, `RecordDamaged`."""
        key = self.task_key(task_id)
        return self.store.view(lambda txn: read_task(txn, task_id, key))

    def payload(self, task_id: str, accept: Iterable[str] = DEFAULT_ACCEPT, max_bytes: int | None = None) -> Payload:
        """Return the decoded values of a task.

        ``accept`` names serializers. Pickle runs code: name it only if you trust every writer to the file. Raises
        KeyError if nothing is stored of the task, `ContentDisallowed`, `DecodeError` if the result or the arguments
        have more than ``max_bytes``, decompressed, or what `task` raises.
        """
        record = self.record(task_id)
        if record is None:
            raise KeyError(task_id)
        return payload_of(record, accept, max_bytes)

    def matching(self, filters: Filters = _ALL) -> Iterator[TaskRow]:
        """Yield every task that matches, in no order. Raises `RecordDamaged` at the end if there are damaged ones."""
        return each_match(self.store, self._tasks, filters)

    def record(self, task_id: str) -> TaskRecord | None:
        """Return the whole record of a task, or None. Raises like `task`."""
        return read_record(self.store, self.task_key(task_id))

    def forget(self, task_ids: Iterable[str], filters: Filters = _ALL) -> int:
        """Delete results, unless they have ceased to match; return how many were deleted."""
        return sum(self._forget(batch, filters) for batch in _batches(task_ids, _BATCH))

    def _forget(self, task_ids: Sequence[str], filters: Filters) -> int:
        def delete(txn: WriteTransaction) -> int:
            return sum(is_match(txn, id_) and txn.delete(self.task_key(id_)) for id_ in task_ids)

        def is_match(txn: WriteTransaction, id_: str) -> bool:
            if filters == _ALL:
                return True
            try:
                record = read_record(txn, self.task_key(id_))
            except UNREADABLE:
                return False
            if record is None:
                return False
            head = TaskHead._make(record[1 : 1 + len(TaskHead._fields)])
            return matches(filters, id_, head, utc(head.date_done))

        return self.store.update(delete)

    # -- groups and chords ---------------------------------------------------------------------------------------------

    def canvas(self, id_: str, *, limit: int = 500) -> Node | None:
        """Return the tree of a task or group, from its oldest ancestor down; None if nothing is stored of it."""
        return Canvas(_Source(self), id_, limit).tree()

    def groups(self, *, limit: int = 100) -> list[Group]:
        """Return up to ``limit`` groups, the one that a task ended in last first. Takes longer than `tasks`."""
        return groups.read_groups(self.store, (self._tasks, self._groups, self._chords), limit)

    def group(self, group_id: str) -> Group | None:
        """Return a group; None if nothing is stored of it, or of a task in it."""
        rows = self.members(group_id, _MOST_MEMBERS)
        is_saved = self.store.get(self._groups + group_id.encode()) is not None
        chord = self.chord(group_id)
        if not rows and not is_saved and chord is None:
            return None
        return groups.group_of(group_id, rows, groups.saved_tree(self.store, self._groups, group_id), is_saved, chord)

    def members(self, group_id: str, limit: int) -> list[TaskRow]:
        """Return up to ``limit`` tasks of a group."""
        return self.tasks(Filters(group=group_id), limit=limit).rows

    def chords(self, *, limit: int = 100) -> list[Chord]:
        """Return up to ``limit`` chords whose body has not been sent."""
        return chords.read_chords(self.store, self._chords, limit)

    def chord(self, group_id: str) -> Chord | None:
        """Return the chord whose header is a group, also one that has ended; None if there is none."""
        return chords.read_chord(self.store, self._chords, group_id)

    # -- queues --------------------------------------------------------------------------------------------------------

    def queues(self) -> list[Queue]:
        """Return all queues of the broker, by their names. Raises `Unsupported` if the store has none."""
        return queues.read_queues(self.store)

    def messages(self, queue: str, limit: int = 100) -> list[QueuedMessage] | None:
        """Return up to ``limit`` messages: unacknowledged ones, then in the order of their delivery.

        None: there is no such queue.
        """
        return queues.read_messages(self.store, queue, limit)

    def message(self, task_id: str) -> tuple[str, QueuedMessage] | None:
        """Return the queue and the message of a task that has not run yet.

        None: it is in no queue of the store, or behind the first thousand messages that wait.
        """
        return queues.find_message(self.store, task_id)

    # -- everything ----------------------------------------------------------------------------------------------------

    def overview(self) -> Overview:
        """Return figures about everything. Takes a microsecond or two for each task in the store: keep it."""
        found = task_figures(self.store, self._tasks)
        return Overview(
            at=datetime.fromtimestamp(self.store.now(), timezone.utc),
            total=found.states.total(),
            states=dict(found.states),
            hour=found.hour,
            day=found.day,
            names=found.names,
            failures=found.failures,
            slowest=self._rows(found.slowest),
            workers=found.workers,
            queues=self.queues() if hasattr(self.store, "queues") else [],
            chords=len(self.chords(limit=_MOST_CHORDS)),
            file=self.file(),
        )

    def _rows(self, task_ids: Iterable[str]) -> list[TaskRow]:
        tasks = [self._task_or_none(task_id) for task_id in task_ids]
        return [task.row for task in tasks if task is not None]

    def _task_or_none(self, task_id: str) -> Task | None:
        try:
            return self.task(task_id)
        except UNREADABLE:
            return None

    def file(self) -> FileFigures | None:
        """Return figures about the data file; None if the store is not a file."""
        return read_file(self.store)

    def moment(self) -> int | None:
        """Return a number that differs after every change; None: the store has no such number."""
        return self.store.moment()

    def changes(self) -> Changes:
        """Return a context manager that waits for changes. See `Changes`."""
        return Changes(self.store)


class _Source:
    """What a canvas is read from. See `lmdbresults.monitoring.canvas.Source`."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.chord = monitor.chord
        self.members = monitor.members

    def row(self, task_id: str) -> tuple[TaskRow | None, Iterable[Any]]:
        record = read_record(self._monitor.store, self._monitor.task_key(task_id))
        if record is None:
            return None, ()
        head = TaskHead._make(record[1 : 1 + len(TaskHead._fields)])
        return row_of(task_id, head, runtime_in(record.payload.extra or b"")), record.children or ()

    def group_tree(self, group_id: str) -> Any:
        return groups.saved_tree(self._monitor.store, self._monitor._groups, group_id)


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
