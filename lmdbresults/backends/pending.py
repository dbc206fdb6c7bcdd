"""Tasks that are waited for, and what their records say: what threads and coroutines have in common."""

import math
import time
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from lmdbresults import states
from lmdbresults.backends.cache import ResultCache
from lmdbresults.backends.task_records import TaskRecords
from lmdbresults.errors import DecodeError, NewerFormat
from lmdbresults.metas import id_text
from lmdbresults.protocols import Meta, OnMessage
from lmdbresults.record import TaskRecord
from lmdbresults.store.following import Source, Values

__all__ = ["Pending", "WaitingBackend", "known_meta", "timed_out", "until"]


class WaitingBackend(Protocol):
    """What waiting needs of a backend."""

    TimeoutError: ClassVar[type[BaseException]]
    records: TaskRecords
    _cache: ResultCache

    @property
    def _source(self) -> Source:
        """Where the records are: another object after the backend was closed and opened again."""

    def get_key_for_task(self, task_id: Any) -> bytes:
        """Return the key of a task's record."""

    def get_task_meta(self, task_id: Any, cache: bool = True) -> Meta:
        """Return the meta of a task, which may be in the cache."""


class Pending:
    """The tasks of one wait that have not ended."""

    def __init__(
        self,
        backend: WaitingBackend,
        task_ids: Iterable[Any],
        ready_states: frozenset[str] = states.READY_STATES,
        on_message: OnMessage | None = None,
    ) -> None:
        self._backend = backend
        self._ready_states = ready_states
        self._on_message = on_message
        #: Their ids by key.
        self.ids = {backend.get_key_for_task(id_): id_text(id_) for id_ in task_ids}
        #: What was passed to ``on_message`` last, by key.
        self._said: dict[bytes, str] = {}

    def take_first(self, *, tell_cached: bool = False) -> list[tuple[str, Meta]]:
        """Return ``(id, meta)`` of tasks that have ended, those in the cache first. They are no longer pending.

        ``tell_cached`` has ``on_message`` called for those in the cache as well.
        """
        ended = []
        cache = self._backend._cache
        for key, task_id in list(self.ids.items()) if cache else ():
            meta = cache.get(task_id)
            if meta is not None and meta.get("status") in self._ready_states:
                if tell_cached and self._on_message is not None:
                    self._on_message(meta)
                ended.append((self.ids.pop(key), meta))
        if self.ids:
            keys = list(self.ids)
            ended += self.take(dict(zip(keys, self._backend._source.mget(keys), strict=True))).values()
        return ended

    def take(self, records: Values) -> dict[bytes, tuple[str, Meta]]:
        """Return ``(id, meta)`` by key of tasks that have ended, by their records. They are no longer pending."""
        ended = {}
        backend, ids, ready_states, on_message = self._backend, self.ids, self._ready_states, self._on_message
        wanted = ready_states if on_message is None else None
        for key, data in records.items():
            if data is None or key not in ids:
                continue
            meta = known_meta(backend, ids[key], data, wanted)
            if meta is None:
                continue
            if on_message is not None and self._said.get(key) != (said := repr(meta)):
                self._said[key] = said
                on_message(meta)
            if meta["status"] in ready_states:
                ended[key] = ids.pop(key), meta
        return ended


def known_meta(backend: WaitingBackend, task_id: str, data: bytes, wanted: frozenset[str] | None) -> Meta | None:
    """Return the meta in a record if the task is in a wanted state (None: in any). A success goes into the cache."""
    try:
        record = TaskRecord.unpack(data)
    except (DecodeError, NewerFormat):
        # A message may carry anything: only what the store holds counts.
        [stored] = backend._source.mget([backend.get_key_for_task(task_id)])
        if stored is None:
            return None
        record = TaskRecord.unpack(stored)
    if wanted is not None and record.state not in wanted:
        return None
    meta = backend.records.meta(task_id, record)
    if record.state == states.SUCCESS:
        backend._cache[task_id] = meta
    return meta


def until(timeout: float | None) -> float:
    """Return when a wait that begins now ends, by the monotonic clock."""
    return math.inf if timeout is None else time.monotonic() + timeout


def timed_out(backend: WaitingBackend, what: str, timeout: float | None) -> BaseException:
    """Return the error of a wait that has ended without a result."""
    return backend.TimeoutError(f"Timed out after {timeout} s waiting for {what}; it may still end later.")
