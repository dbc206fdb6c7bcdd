"""Lists of results by what is readable without their payloads, so that nothing is decoded, least of all unpickled."""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Final, NamedTuple, Protocol

from lmdbresults.record import TaskHead, TaskRecord
from lmdbresults.store.transactions import ReadTransaction

__all__ = ["ListedResult", "iter_results"]

#: Bytes read of each record. The head of nearly every record ends before.
_HEAD_BYTES: Final = 512


class ListedResult(NamedTuple):
    """What a list says of a task. `get_task_meta` has the rest."""

    id: str
    state: str
    date_done: datetime | None
    """When the task ended, with a time zone; None if it has not."""
    name: str | None
    """The name of the task. This and the next three are None unless ``result_extended`` is on."""
    worker: str | None
    queue: str | None
    retries: int | None
    group_id: str | None
    parent_id: str | None


class ListingBackend(Protocol):
    """The part of a backend that `iter_results` uses."""

    task_keyprefix: str | bytes

    @property
    def store(self) -> ReadTransaction: ...


def iter_results(
    backend: ListingBackend,
    *,
    state: str | Iterable[str] | None = None,
    name: str | None = None,
    since: datetime | timedelta | float | None = None,
) -> Iterator[ListedResult]:
    """Yield what is known of each stored task without decoding its result, in no promised order. A method of backends.

    ``state`` is one state or several, ``name`` that of the task (stored with ``result_extended``). ``since``: only
    tasks that ended at that time or later; a timedelta is counted back from now, a number is a timestamp. Results
    stored meanwhile may be left out. Damaged records raise `RecordDamaged` at the end.
    """
    states = None if state is None else {state} if isinstance(state, str) else frozenset(state)
    prefix = backend.task_keyprefix if isinstance(backend.task_keyprefix, bytes) else backend.task_keyprefix.encode()
    return _listed(backend.store, prefix, states, name, None if since is None else _moment(since))


def _listed(
    store: ReadTransaction, prefix: bytes, states: Collection[str] | None, name: str | None, begin: datetime | None
) -> Iterator[ListedResult]:
    for key, data in store.scan(prefix, head=_HEAD_BYTES):
        head = TaskHead.read(data) or _whole(store.get(key))
        if head is None or (states is not None and head.state not in states) or name not in (None, head.name):
            continue
        date = _date(head.date_done)
        if begin is None or (date is not None and date >= begin):
            yield ListedResult(key[len(prefix) :].decode(), head.state, date, *head[2:])


def _whole(data: bytes | None) -> TaskHead | None:
    """Return the head of a record that was read whole; None if it was deleted meanwhile."""
    return None if data is None else TaskHead._make(TaskRecord.unpack(data)[1 : 1 + len(TaskHead._fields)])


def _date(text: str | None) -> datetime | None:
    try:
        return None if text is None else _aware(datetime.fromisoformat(text))
    except ValueError:  # of another program
        return None


def _moment(since: datetime | timedelta | float) -> datetime:
    if isinstance(since, datetime):
        return _aware(since)
    if isinstance(since, timedelta):
        return datetime.now(timezone.utc) - since
    return datetime.fromtimestamp(since, timezone.utc)


def _aware(date: datetime) -> datetime:
    """Return a date with a time zone. A date without one is in UTC: so Celery before 5.5 wrote them."""
    return date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)
