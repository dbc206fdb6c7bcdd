"""Tasks that are waited for, and what their records say: what threads and coroutines have in common."""

import math
import time
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from lmdbresults import states
from lmdbresults.backends.cache import ResultCache
from lmdbresults.backends.task_records import TaskRecords
from lmdbresults.errors import DecodeError, NewerFormat
from lmdbresults.protocols import Meta, OnMessage
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
        self.ids = backend.records.keys(task_ids)
        #: What was passed to ``on_message`` last, by key.
        self._said: dict[bytes, str] = {}

    def take_first(self, *, report_cached: bool = False) -> list[tuple[str, Meta]]:
        """Return ``(id, meta)`` of tasks that have ended, those in the cache first. They are no longer pending.

        ``report_cached`` has ``on_message`` called for those in the cache as well.
        """
        ended = []
        cache = self._backend._cache
        for key, task_id in list(self.ids.items()) if cache else ():
            meta = cache.get(task_id)
            if meta is not None and meta.get("status") in self._ready_states:
                if report_cached and self._on_message is not None:
                    self._on_message(meta)
                ended.append((self.ids.pop(key), meta))
        if self.ids:
            keys = list(self.ids)
            ended += self.take(dict(zip(keys, self._backend._source.mget(keys), strict=True))).values()
        return ended

    def take(self, records: Values) -> dict[bytes, tuple[str, Meta]]:
        """Return ``(id, meta)`` by key of tasks that have ended, by their records. They are no longer pending."""
        ended = {}
        backend, ids, ready_states = self._backend, self.ids, self._ready_states
        read, cache = backend.records.read, backend._cache
        wanted = ready_states if self._on_message is None else None
        for key, data in records.items():
            task_id = ids.get(key)
            if data is None or task_id is None:
                continue
            try:
                meta = read(task_id, data, wanted)
            except (DecodeError, NewerFormat):
                meta = known_meta(backend, task_id, data, wanted)
            if meta is None:
                continue
            state = meta["status"]
            if state == states.SUCCESS:
                cache[task_id] = meta
            if wanted is None:
                self._tell(key, meta)
            if wanted is not None or state in ready_states:
                del ids[key]
                ended[key] = task_id, meta
        return ended

    def named(self) -> str:
        """Return the tasks that have not ended as the message of an error names them."""
        return f"task {next(iter(self.ids.values()))}" if len(self.ids) == 1 else f"{len(self.ids)} tasks"

    def _tell(self, key: bytes, meta: Meta) -> None:
        """Call ``on_message``, unless the last call for the key was with the same meta."""
        said = repr(meta)
        if self._on_message is not None and self._said.get(key) != said:
            self._said[key] = said
            self._on_message(meta)


def known_meta(backend: WaitingBackend, task_id: str, data: bytes, wanted: frozenset[str] | None) -> Meta | None:
    """Return the meta in a record if the task is in a wanted state (None: in any). A success goes into the cache."""
    records = backend.records
    try:
        meta = records.read(task_id, data, wanted)
    except (DecodeError, NewerFormat):  # a message may carry anything: only what the store holds counts
        [stored] = backend._source.mget([records.key(task_id)])
        meta = None if stored is None else records.read(task_id, stored, wanted)
    if meta is not None and meta["status"] == states.SUCCESS:
        backend._cache[task_id] = meta
    return meta


def until(timeout: float | None) -> float:
    """Return when a wait that begins now ends, by the monotonic clock."""
    return math.inf if timeout is None else time.monotonic() + timeout


def timed_out(backend: WaitingBackend, what: str, timeout: float | None) -> BaseException:
    """Return the error of a wait that has ended without a result."""
    return backend.TimeoutError(f"Timed out after {timeout} s waiting for {what}; it may still end later.")
