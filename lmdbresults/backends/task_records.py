"""Task records in a store: their keys, how they are stored, and metas made of them. The Celery plugin has them, too."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lmdbresults import states
from lmdbresults.metas import id_text
from lmdbresults.protocols import Meta
from lmdbresults.record import SUCCESS_PREFIX, read_meta
from lmdbresults.store.base import ReadTransaction, WriteTransaction
from lmdbresults.store.chords import ResultRecord

__all__ = ["TaskRecords"]


class TaskRecords:
    """The task records of one backend.

    ``prefix`` comes before the id in a key, and ``unusual_key`` makes the key of an id that is not a nonempty str, or
    of every id if there is no prefix.
    ``value`` decodes a payload, ``exception`` a stored exception.
    """

    def __init__(
        self,
        prefix: bytes | None,
        unusual_key: Callable[[Any], bytes],
        value: Callable[[Sequence[Any]], Any],
        exception: Callable[[Any], Any],
    ) -> None:
        self._prefix = prefix or b""
        if prefix is None:
            self.key = unusual_key  # type: ignore[method-assign, assignment]
        self._unusual_key = unusual_key
        self._value = value
        self._exception = exception

    def key(self, task_id: Any) -> bytes:
        """Return the key of a record."""
        if type(task_id) is str and task_id:  # nearly always
            return self._prefix + task_id.encode()
        return self._unusual_key(task_id)

    def keys(self, task_ids: Iterable[Any]) -> dict[bytes, str]:
        """Return ids as text by the keys of their records."""
        keys: dict[bytes, str] = {}
        prefix = self._prefix
        for id_ in task_ids:
            if type(id_) is str and id_ and prefix:  # as in `key`
                keys[prefix + id_.encode()] = id_
            else:
                keys[self.key(id_)] = id_text(id_)
        return keys

    def put(self, store: WriteTransaction, task_id: Any, state: str, record: bytes, ttl: float | None) -> None:
        """Store a record for ``ttl`` seconds. A SUCCESS is never overwritten, so a late duplicate changes nothing."""
        store.set(self.key(task_id), record, ttl, keep_prefix=SUCCESS_PREFIX, interim=state not in states.READY_STATES)

    def put_in_full_store(
        self, txn: WriteTransaction, task_id: Any, state: str, record: bytes, ttl: float | None
    ) -> None:
        """Do `put` from the reserve. The transaction must delete as much as it stores."""
        key = self.key(task_id)
        if not (txn.get(key) or b"").startswith(SUCCESS_PREFIX):
            txn.move(key, key, record)
            txn.expire(key, ttl)
            txn.notify(key)

    def to_store(self, task_id: Any, record: bytes, ttl: float | None) -> ResultRecord:
        """Return what `put` would store, for the transaction that counts a part of a chord."""
        return ResultRecord(self.key(task_id), record, ttl, SUCCESS_PREFIX)

    def get_meta(self, store: ReadTransaction, task_id: Any) -> Meta:
        """Return the meta of a task. A task without a record is PENDING."""
        if type(task_id) is str and task_id:  # as in `key`
            key, text = self._prefix + task_id.encode(), task_id
        else:
            key, text = self._unusual_key(task_id), id_text(task_id)
        meta = read_meta(store.get(key), self._value, self._exception, text)
        return {"status": states.PENDING, "result": None} if meta is None else meta

    def read(self, task_id: str, data: bytes, wanted: frozenset[str] | None) -> Meta | None:
        """Return the meta in the bytes of a record, or None if the task is in no wanted state (None: any is wanted)."""
        return read_meta(data, self._value, self._exception, task_id, wanted)

    def decode(self, data: bytes) -> Meta:
        """Return the meta in the bytes of a record, without the id."""
        return read_meta(data, self._value, self._exception)  # type: ignore[return-value]  # any state is wanted

    def metas(
        self, values: Iterable[tuple[Any, bytes | None]], ready_states: frozenset[str] | None = states.READY_STATES
    ) -> Iterator[tuple[Any, Meta]]:
        """Yield id and meta of the records in ``ready_states`` (None: in any). The others are not decoded."""
        for task_id, data in values:
            if data is not None and (meta := self.read(id_text(task_id), data, ready_states)):
                yield task_id, meta
