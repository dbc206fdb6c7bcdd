"""A backend over get and set: keys, records, groups."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from lmdbresults import states
from lmdbresults.app import current_request
from lmdbresults.backends.base import BaseBackend
from lmdbresults.backends.chord_bodies import Bodies
from lmdbresults.backends.counted_chords import CountedChords
from lmdbresults.backends.task_records import TaskRecords
from lmdbresults.backends.waiting import Polled, Waiting
from lmdbresults.metas import id_text
from lmdbresults.protocols import Meta, OnInterval, OnMessage
from lmdbresults.record import RECORD_VERSION, RUNTIME, SUCCESS_PREFIX, pack_fields
from lmdbresults.results import GroupResult, count_tasks, result_from_tuple
from lmdbresults.store.following import Source

__all__ = ["KeyValueStoreBackend"]

#: Name, worker, queue and retries of a record that is not extended.
_NO_CALL: Final = (None, None, None, None)


def _to_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _separated(prefix: str) -> str:
    """Return a prefix for all keys with a separator at its end, as `Options.global_keyprefix` has it."""
    return prefix if not prefix or prefix[-1] in ":_-." else prefix + "_"


class KeyValueStoreBackend(BaseBackend):
    """Everything by six operations: a subclass defines `get`, `mget`, `set`, `delete`, `incr` and `expire`.

    A store that cannot count has ``implements_incr = False``; its chords are then ended by a task that looks.
    """

    key_t = staticmethod(_to_bytes)
    task_keyprefix: str | bytes = "celery-task-meta-"
    group_keyprefix: str | bytes = "celery-taskset-meta-"
    chord_keyprefix: str | bytes = "chord-unlock-"
    global_keyprefix = ""
    implements_incr = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
            setattr(self, name, self.key_t(_separated(self.global_keyprefix)) + self.key_t(getattr(self, name)))
        is_usual = self.key_t is _to_bytes and type(self).get_key_for_task is KeyValueStoreBackend.get_key_for_task
        prefix = _to_bytes(self.task_keyprefix) if is_usual else None
        self.records = TaskRecords(prefix, self.get_key_for_task, self.codec.value, self.exception_to_python)
        self._polled = Polled(self.mget)
        self.waiting = Waiting(self, lambda: None)
        self.chord_bodies = Bodies(self)
        self.counted_chords = CountedChords(self, self.chord_bodies)

    # -- what a store defines ----------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Return a value, or None."""
        raise self._missing("get")

    def mget(self, keys: Sequence[bytes]) -> Sequence[bytes | None] | Mapping[bytes, bytes | None]:
        """Return many values: in the order of their keys, or as a mapping."""
        raise self._missing("mget")

    def set(self, key: bytes, value: bytes) -> None:
        """Store a value for as long as results are kept."""
        raise self._missing("set")

    def delete(self, key: bytes) -> None:
        """Delete a value, if there is one."""
        raise self._missing("delete")

    def incr(self, key: bytes) -> int:
        """Add one to a counter, which starts at 0, and return it."""
        raise self._missing("incr")

    def expire(self, key: bytes, value: float | None) -> None:
        """Let a value expire in so many seconds; 0 and None: never."""
        raise self._missing("expire")

    # -- waiting -----------------------------------------------------------------------------------------------------

    @property
    def _source(self) -> Source:
        """Where waiting looks at records. No message arrives from here, so it looks again and again."""
        return self._polled

    # -- keys --------------------------------------------------------------------------------------------------------

    def get_key_for_task(self, task_id: str | bytes | UUID, key: str = "") -> bytes:
        """Return the key of a task's record. Raises ValueError for an empty id."""
        return self._key(self.task_keyprefix, task_id, key, "task_id")

    def get_key_for_group(self, group_id: str | bytes | UUID, key: str = "") -> bytes:
        """Return the key of a group that was saved. Raises ValueError for an empty id."""
        return self._key(self.group_keyprefix, group_id, key, "group_id")

    def get_key_for_chord(self, group_id: str | bytes | UUID, key: str = "") -> bytes:
        """Return the key of a chord. Raises ValueError for an empty id."""
        return self._key(self.chord_keyprefix, group_id, key, "group_id")

    def _key(self, prefix: str | bytes, id_: str | bytes | UUID, key: str, name: str) -> bytes:
        if id_ in (None, "", b""):
            raise ValueError(f"{name} must not be empty, got {id_!r}.")
        return self.key_t(prefix) + self.key_t(id_ if isinstance(id_, str | bytes) else str(id_)) + self.key_t(key)

    def _strip_prefix(self, key: str | bytes) -> str:
        name = _to_bytes(key)
        for prefix in (_to_bytes(self.task_keyprefix), _to_bytes(self.group_keyprefix)):
            if name.startswith(prefix):
                return name[len(prefix) :].decode()
        return name.decode()

    # -- results -----------------------------------------------------------------------------------------------------

    def _store_result(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> None:
        key = self.get_key_for_task(task_id)
        present = self.get(key)
        if present is None or not present.startswith(SUCCESS_PREFIX):
            self.set(key, self._record(result, state, traceback, request))

    def _record(self, result: Any, state: str, traceback: str | None, request: Any) -> bytes:
        """Return the record of a result that `encode_result` has prepared."""
        app = self.app
        date_done = app.now().isoformat() if state in self.READY_STATES else None
        group_id = parent_id = arguments = None
        call = _NO_CALL
        if request is not None:
            group_id, parent_id = request.group, request.parent_id
            if app.conf.result_extended:
                queue = (request.delivery_info or {}).get("routing_key")
                call = (request.task, request.hostname, queue, request.retries)
                arguments = {"args": request.args, "kwargs": request.kwargs}
                if request.started is not None and date_done is not None:
                    arguments[RUNTIME] = round(time.monotonic() - request.started, 6)
        is_in_task = request is not None or current_request() is not None
        lineage = (group_id, parent_id, self.current_task_children(request) if is_in_task else None)
        payload = self.codec.payload(result, arguments)
        return pack_fields((RECORD_VERSION, state, date_done, *call, *lineage, traceback, payload))

    def decode_result(self, payload: bytes) -> Meta:
        """Return the meta in a stored record, its exception as an instance."""
        return self.records.decode(payload)

    def _get_task_meta_for(self, task_id: str) -> Meta:
        data = self.get(self.get_key_for_task(task_id))
        meta = None if data is None else self.records.read(id_text(task_id), data, None)
        return {"status": states.PENDING, "result": None} if meta is None else meta

    def _forget(self, task_id: str) -> None:
        self.delete(self.get_key_for_task(task_id))

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
        max_iterations: int | None = None,
        READY_STATES: frozenset[str] = states.READY_STATES,  # noqa: N803 - Celery's name
    ) -> Iterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of tasks as they become ready; see `Waiting.get_many`."""
        return self.waiting.get_many(
            task_ids, timeout, interval, on_message, on_interval, max_iterations, frozenset(READY_STATES)
        )

    def _mget_to_results(
        self,
        values: Sequence[bytes | None] | Mapping[bytes, bytes | None],
        keys: Sequence[str],
        READY_STATES: frozenset[str] | None = states.READY_STATES,  # noqa: N803 - Celery's name
    ) -> dict[str, Meta]:
        """Return the metas of ready tasks by id, from what `mget` returned. ``READY_STATES`` of None: in any state."""
        if isinstance(values, Mapping):
            pairs: Iterable[tuple[str, bytes | None]] = ((self._strip_prefix(key), values[key]) for key in values)
        else:
            pairs = zip(keys, values, strict=True)
        return dict(self._filter_ready(pairs, READY_STATES))

    def _filter_ready(
        self,
        values: Iterable[tuple[str, bytes | None]],
        READY_STATES: frozenset[str] | None = states.READY_STATES,  # noqa: N803
    ) -> Iterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of the records that are ready; None: in any state. The others are not decoded."""
        return self.records.metas(values, READY_STATES)

    # -- groups ------------------------------------------------------------------------------------------------------

    def _save_group(self, group_id: str, result: GroupResult) -> None:
        self.set(self.get_key_for_group(group_id), self.encode({"result": result.as_tuple()}))

    def _restore_group(self, group_id: str) -> Meta | None:
        meta = self.decode(self.get(self.get_key_for_group(group_id)))
        return None if meta is None else {**meta, "result": self.group_from_tuple(meta["result"])}

    def _delete_group(self, group_id: str) -> None:
        self.delete(self.get_key_for_group(group_id))

    def group_from_tuple(self, tree: Any) -> GroupResult:
        """Return the group that `GroupResult.as_tuple` took apart."""
        group = result_from_tuple(tree, self)
        assert isinstance(group, GroupResult), "saved groups are groups"
        return group

    # -- chords ------------------------------------------------------------------------------------------------------

    def apply_chord(self, header_result_args: tuple[Any, ...], body: Any, **kwargs: Any) -> None:
        """Start a chord, before its header is dispatched. ``header_result_args`` are those of `GroupResult`.

        A group inside the header counts as many parts as it has tasks; all of them return under the id of the header.
        The body of an empty header is dispatched at once.
        """
        self.ensure_chords_allowed()
        group_id, results = header_result_args[:2]
        header = GroupResult(group_id, results, self)
        if count_tasks(header):
            self._open_chord(header, body, **kwargs)
        else:  # no part will return
            self.counted_chords.finish_empty(header, body)

    def _open_chord(self, header: GroupResult, body: Any, **kwargs: Any) -> None:
        self.counted_chords.open(header)
        if not self.implements_incr:
            self.fallback_chord_unlock(header, body, **kwargs)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Set how many parts a chord waits for, if not as many as there are tasks in its header."""
        self.counted_chords.set_size(group_id, chord_size)

    def on_chord_part_return(self, request: Any, state: str, result: Any) -> None:
        """Count a part, by its place in the header and its id; the part that completes the header ends the chord."""
        if self.implements_incr and request.group:
            self.counted_chords.part_returned(request)
