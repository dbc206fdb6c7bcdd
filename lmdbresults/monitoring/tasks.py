"""One task, with all that is known of it."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from math import isinf
from typing import Any

from lmdbresults.errors import DecodeError
from lmdbresults.monitoring.heads import row_of
from lmdbresults.monitoring.values import Payload, Task
from lmdbresults.record import RUNTIME, TaskHead, TaskRecord, runtime_in
from lmdbresults.serialization import MAX_DECODED_BYTES, loads
from lmdbresults.store.base import ReadTransaction

__all__ = ["exception_in", "ids_in", "payload_of", "read_record", "read_task"]


def read_record(txn: ReadTransaction, key: bytes) -> TaskRecord | None:
    """Return the record of a task, or None. Raises `DecodeError`, `NewerFormat` or `RecordDamaged`."""
    value = txn.get(key)
    return None if value is None else TaskRecord.unpack(value)


def read_task(txn: ReadTransaction, task_id: str, key: bytes) -> Task | None:
    """Return a task, or None if nothing is stored of it. Raises like `read_record`."""
    record = read_record(txn, key)
    if record is None:
        return None
    payload = record.payload
    return Task(
        row=row_of(task_id, TaskHead._make(record[1 : 1 + len(TaskHead._fields)]), runtime_in(payload.extra or b"")),
        expires=expiry(txn, key),
        traceback=record.traceback,
        exception=exception_in(record.traceback),
        children=[child for tree in record.children or () for child in _own_ids(tree)],
        content_type=payload.content_type,
        compression=payload.compression,
        size=len(payload.body),
        has_arguments=payload.extra is not None,
    )


def payload_of(record: TaskRecord, accept: Iterable[str], max_bytes: int | None = None) -> Payload:
    """Return the decoded values of a task. Raises `ContentDisallowed`, or `DecodeError`: also if one is too large."""
    payload = record.payload
    limit = MAX_DECODED_BYTES if max_bytes is None else max_bytes
    if max_bytes is not None and max(len(payload.body), len(payload.extra or b"")) > limit:
        raise DecodeError(f"The result or the arguments have more than {limit} bytes.")
    result = loads(payload, accept, limit)
    arguments: Any = {} if payload.extra is None else loads(payload._replace(body=payload.extra), accept, limit)
    if isinstance(arguments, dict):
        arguments.pop(RUNTIME, None)
    return Payload(result, arguments)


def expiry(txn: ReadTransaction, key: bytes) -> datetime | None:
    """Return when a record expires; None: never, or there is none."""
    ttl = txn.ttl(key)
    if ttl is None or isinf(ttl):
        return None
    return datetime.fromtimestamp(txn.now(), timezone.utc) + timedelta(seconds=ttl)


def exception_in(traceback: str | None) -> str | None:
    """Return the class of an exception, as the last line of a traceback that is not indented names it."""
    for line in reversed((traceback or "").splitlines()):
        name = line.partition(":")[0].strip()
        if name and not line[:1].isspace() and all(part.isidentifier() for part in name.split(".")):
            return name
    return None


def ids_in(tree: Any) -> Iterator[str]:
    """Yield the ids of the tasks in the tuple tree of a result, those of groups inside as well."""
    (id_, _), children = tree
    if children is None:
        yield str(id_)
    for child in children or ():
        yield from ids_in(child)


def _own_ids(tree: Any) -> Iterator[str]:
    """Yield the id of a result; nothing if it is not one."""
    try:
        yield str(tree[0][0])
    except (TypeError, IndexError, KeyError):
        return
