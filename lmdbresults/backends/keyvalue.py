"""A backend over get and set: keys, records, groups, and chords that count in the store."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from lmdbresults import states
from lmdbresults.app import Request, Signature
from lmdbresults.backends import chord_unlock as unlock
from lmdbresults.backends.base import BaseBackend
from lmdbresults.backends.encoding import Meta
from lmdbresults.backends.parts import chord_size, count_tasks, part_key, tasks_in
from lmdbresults.backends.waiting import OnInterval
from lmdbresults.errors import ChordError
from lmdbresults.record import RECORD_VERSION, SUCCESS_PREFIX, TaskRecord, pack_fields
from lmdbresults.results import AsyncResult, GroupResult, result_from_tuple

__all__ = ["KeyValueStoreBackend"]

logger = logging.getLogger(__name__)

#: Name, worker, queue and retries of a record that is not extended.
_NO_CALL: Final = (None, None, None, None)


def _to_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _separated(prefix: str) -> str:
    """Return a prefix for all keys with a separator at its end, as `Options.global_keyprefix` has it."""
    return prefix if not prefix or prefix[-1] in ":_-." else prefix + "_"


class KeyValueStoreBackend(BaseBackend):
    """Everything by six operations: a subclass defines `get`, `mget`, `set`, `delete`, `incr` and `expire`.

    One that cannot count says so by ``implements_incr = False``; its chords are then ended by a task that looks.
    """

    key_t = staticmethod(_to_bytes)
    task_keyprefix: str | bytes = "celery-task-meta-"
    group_keyprefix: str | bytes = "celery-taskset-meta-"
    chord_keyprefix: str | bytes = "chord-unlock-"
    global_keyprefix = ""
    implements_incr = False

    #: Seconds for which a chord that has ended is remembered at least, so that a late duplicate of a part does nothing.
    _ENDED_TTL = 300.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
            setattr(self, name, self.key_t(_separated(self.global_keyprefix)) + self.key_t(getattr(self, name)))
        unlock.register(self)

    # -- what a store defines ----------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Return a value, or None."""
        raise self._missing("get")

    def mget(self, keys: Sequence[bytes]) -> Sequence[bytes | None] | Mapping[bytes, bytes | None]:
        """Return many values: in the order of their keys, or by them."""
        raise self._missing("mget")

    def set(self, key: bytes, value: bytes) -> None:
        """Store a value for as long as results are kept."""
        raise self._missing("set")

    def delete(self, key: bytes) -> None:
        """Delete a value, if there is one."""
        raise self._missing("delete")

    def incr(self, key: bytes) -> int:
        """Add one to a counter, which begins at 0, and return it."""
        raise self._missing("incr")

    def expire(self, key: bytes, value: float | None) -> None:
        """Have a value expire in so many seconds; 0 and None: never."""
        raise self._missing("expire")

    # -- keys --------------------------------------------------------------------------------------------------------

    def get_key_for_task(self, task_id: str | bytes | UUID, key: str = "") -> bytes:
        """Return the key of a task's record. Raises ValueError for an empty id."""
        if type(task_id) is str and task_id and not key and self.key_t is _to_bytes:  # nearly always
            return self.task_keyprefix + task_id.encode()  # type: ignore[operator,return-value]
        return self._key(self.task_keyprefix, task_id, key, "task_id")

    def get_key_for_group(self, group_id: str | bytes | UUID, key: str = "") -> bytes:
        """Return the key of a group that was saved. Raises ValueError for an empty id."""
        return self._key(self.group_keyprefix, group_id, key, "group_id")

    def get_key_for_chord(self, group_id: str | bytes | UUID, key: str = "") -> bytes:
        """Return the key of a chord's counter. Raises ValueError for an empty id."""
        return self._key(self.chord_keyprefix, group_id, key, "group_id")

    def _key(self, prefix: str | bytes, id_: str | bytes | UUID, key: str, name: str) -> bytes:
        if not id_:
            raise ValueError(f"{name} must not be empty; it is {id_!r}.")
        return self.key_t(prefix) + self.key_t(str(id_) if isinstance(id_, UUID) else id_) + self.key_t(key)

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
        date_done = self.app.now().isoformat() if state in self.READY_STATES else None
        group_id = parent_id = arguments = None
        call = _NO_CALL
        if request is not None:
            group_id, parent_id = request.group, request.parent_id
            if self.app.conf.result_extended:
                queue = (request.delivery_info or {}).get("routing_key")
                call = (request.task, request.hostname, queue, request.retries)
                arguments = {"args": request.args, "kwargs": request.kwargs}
        lineage = (group_id, parent_id, self.current_task_children(request))
        payload = self._payload(result, arguments)
        return pack_fields((RECORD_VERSION, state, date_done, *call, *lineage, traceback, payload))

    def decode_result(self, payload: bytes) -> Meta:
        """Return the meta in a stored record, its exception brought back to life."""
        return self.meta_from_decoded(TaskRecord.unpack(payload).to_meta(self._decoded))

    def _get_task_meta_for(self, task_id: str) -> Meta:
        data = self.get(self.get_key_for_task(task_id))
        if data is None:
            return {"status": states.PENDING, "result": None}
        return self._meta_of(task_id, TaskRecord.unpack(data))

    def _meta_of(self, task_id: str, record: TaskRecord) -> Meta:
        meta = record.to_meta(self._decoded)
        if record.state in self.EXCEPTION_STATES:
            meta = self.meta_from_decoded(meta)
        meta["task_id"] = str(task_id)  # the record does not repeat what is in its key
        return meta

    def _forget(self, task_id: str) -> None:
        self.delete(self.get_key_for_task(task_id))

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: OnInterval | None = None,
        max_iterations: int | None = None,
        READY_STATES: frozenset[str] = states.READY_STATES,  # noqa: N803 - Celery's name
    ) -> Iterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of tasks as they become ready, each once, those in the cache first.

        ``on_message(meta)`` is called for each of them, and for states on the way, such as one's own of progress; the
        last one counts if several come at once. Ends after ``max_iterations`` looks, if given. Raises `ResultTimeout`
        after ``timeout`` seconds.
        """
        pending = dict.fromkeys(map(str, task_ids), "")
        for task_id in self._cache.among(pending):
            cached = self._cache.get(task_id)
            if cached is not None and cached.get("status") in READY_STATES:
                del pending[task_id]
                yield task_id, cached
        if not pending:
            return
        every_change = on_message is not None or not states.READY_STATES >= READY_STATES
        what = f"{len(pending)} tasks"
        looks = self._looks(
            pending, timeout, interval, on_interval, what, every_change=every_change, ready_states=READY_STATES
        )
        for look, changed in enumerate(looks, start=1):
            wanted = list(pending) if changed is None else [id_ for id_ in changed if id_ in pending]
            for task_id, meta in self._look_for(wanted, READY_STATES if on_message is None else None).items():
                if on_message is not None and pending[task_id] != (said := repr(meta)):
                    pending[task_id] = said
                    on_message(meta)
                if meta["status"] in READY_STATES:
                    del pending[task_id]
                    yield task_id, meta
            if not pending or look == max_iterations:
                return

    def _look_for(self, task_ids: list[str], ready_states: frozenset[str] | None) -> dict[str, Meta]:
        found = self._mget_to_results(
            self.mget([self.get_key_for_task(id_) for id_ in task_ids]), task_ids, ready_states
        )
        for task_id, meta in found.items():
            if meta["status"] == states.SUCCESS:
                self._cache[task_id] = meta
        return found

    def _mget_to_results(
        self,
        values: Sequence[bytes | None] | Mapping[bytes, bytes | None],
        keys: Sequence[str],
        READY_STATES: frozenset[str] | None = states.READY_STATES,  # noqa: N803
    ) -> dict[str, Meta]:
        """Return the metas that are ready by id, from what `mget` returned. None: those in any state."""
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
        for id_, data in values:
            if data is None:
                continue
            record = TaskRecord.unpack(data)
            if READY_STATES is None or record.state in READY_STATES:
                yield id_, self._meta_of(id_, record)

    # -- groups ------------------------------------------------------------------------------------------------------

    def _save_group(self, group_id: str, result: GroupResult) -> None:
        self.set(self.get_key_for_group(group_id), self._encoded_group(result))

    def _encoded_group(self, group: GroupResult) -> bytes:
        return self.encode({"result": group.as_tuple()})

    def _restore_group(self, group_id: str) -> Meta | None:
        meta = self.decode(self.get(self.get_key_for_group(group_id)))
        return None if meta is None else {**meta, "result": self.group_from_tuple(meta["result"])}

    def _delete_group(self, group_id: str) -> None:
        self.delete(self.get_key_for_group(group_id))

    def group_from_tuple(self, tree: Any) -> GroupResult:
        """Return the group that was taken apart by `GroupResult.as_tuple`."""
        group = result_from_tuple(tree, self)
        assert isinstance(group, GroupResult), "saved groups are groups"
        return group

    # -- chords ------------------------------------------------------------------------------------------------------

    def apply_chord(self, header_result_args: tuple[Any, ...], body: Any, **kwargs: Any) -> None:
        """Begin a chord, before its header is dispatched. ``header_result_args`` are those of `GroupResult`.

        A group inside the header counts as many parts as it has tasks; all of them return under the id of the header.
        The body of an empty header is dispatched at once.
        """
        self.ensure_chords_allowed()
        group_id, results = header_result_args[:2]
        header = GroupResult(group_id, results, self)
        if not count_tasks(header):  # nobody will return a part of a header that is empty, or of empty groups
            self._dispatch_body(self.app.signature(body), self._join(header, 0.0))
            return
        self._open_chord(header, body)
        if not self.implements_incr:
            self.fallback_chord_unlock(header, body, **kwargs)

    def _open_chord(self, header: GroupResult, body: Any) -> None:
        self._delete_count(header)  # a header that is applied again is a new chord
        self.delete(self.get_key_for_chord(header.id, ".ended"))
        self.set_chord_size(header.id, count_tasks(header))
        self.save_group(header.id, header)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Say how many parts a chord waits for, if not as many as there are tasks in its header.

        The next part that returns is the first to be measured by it.
        """
        self.set(self.get_key_for_chord(group_id, ".size"), b"%d" % chord_size)

    def on_chord_part_return(self, request: Any, state: str, result: Any) -> None:
        """Count a part, by its place in the header and its id; the one that completes the header ends the chord."""
        if not self.implements_incr or not request.group:
            return
        missing = self._count_part(request)
        if missing == 0:
            self._complete_chord(request.group, self.app.signature(request.chord))
        elif missing is None or missing < 0:
            logger.warning(
                "Task %s returned a part of chord %s that does not count: it has come before, or the chord has ended.",
                request.id,
                request.group,
            )

    def _count_part(self, request: Any) -> int | None:
        """Return how many parts are missing after this one; None if it does not count, 0 if the chord is unknown."""
        if self.chord_has_ended(request.group):
            return None
        if self.incr(self.get_key_for_chord(request.group, part_key(request.group_index, request.id))) > 1:
            return None
        count = self.incr(self.get_key_for_chord(request.group))
        size = chord_size(self.get(self.get_key_for_chord(request.group, ".size")), request)
        return 0 if size is None else size - count

    def chord_has_ended(self, group_id: str) -> bool:
        """Return whether a chord has ended not long ago."""
        return self.get(self.get_key_for_chord(group_id, ".ended")) is not None

    def _complete_chord(self, group_id: str, body: Signature) -> None:
        header, failure = None, ChordError(f"GroupResult {group_id} no longer exists")
        try:
            header = self.restore_group(group_id, cache=False)
        except Exception as error:  # whatever is wrong with what was saved, the body must not wait for ever
            failure = _chord_error(f"Cannot restore group {group_id}: {error!r}", error)
        if header is not None:
            self.finish_chord(header, body)
            return
        self._end_chord(GroupResult(group_id, ()))
        if body.id is None or self.get_state(body.id) not in self.READY_STATES:
            self._fail_body(body, failure)
        else:  # a duplicate of a part, so late that nobody remembers the chord
            logger.warning("A part of chord %s returned long after its end.", group_id)

    def finish_chord(self, header: GroupResult, body: Any) -> None:
        """Join the header and dispatch the body with the list of results, or let it fail."""
        values, failure = self._joined(header)
        self._end_chord(header)
        signature = self.app.signature(body)
        if failure is None:
            self._dispatch_body(signature, values)
        else:
            self._fail_body(signature, failure)

    def _joined(self, header: GroupResult) -> tuple[list[Any], ChordError | None]:
        """Return the values of a header, or what the body is to fail with."""
        try:
            return self._join(header, time.monotonic() + self.app.conf.result_chord_join_timeout), None
        except ChordError as error:
            return [], error
        except Exception as error:  # a result is gone, or cannot be read
            return [], _chord_error(f"Join error: {error!r}", error)

    def _join(self, result: AsyncResult | GroupResult, until: float) -> Any:
        """Return the value of a part, or the list of those of a group. Raises `ChordError` if one has failed.

        What a part has raised is not raised here: it may be a SystemExit, which would end the worker.
        """
        if isinstance(result, GroupResult):
            return [self._join(part, until) for part in result.results]
        meta = self.wait_for(result.id, timeout=max(until - time.monotonic(), 0.0))
        if meta["status"] in states.PROPAGATE_STATES:
            raise ChordError(f"Dependency {result.id} raised {meta['result']!r}") from meta["result"]
        return meta["result"]

    def _dispatch_body(self, body: Signature, values: list[Any]) -> None:
        try:
            self.app.dispatch(body, (values,))
        except Exception as error:  # of a queue that nobody here knows
            self._fail_body(body, _chord_error(f"Callback error: {error!r}", error))

    def _fail_body(self, body: Signature, failure: ChordError) -> None:
        """Store the failure of a body and call its errbacks. Its part returns, if it is in a chord in its turn."""
        logger.error("The body %s[%s] of a chord failed: %s", body.task, body.id, failure)
        self.chord_error_from_stack(body, failure)
        self._return_part(Request.of(body), states.FAILURE, failure)

    def _end_chord(self, header: GroupResult) -> None:
        """Delete what the chord has left, and remember for a while that it has ended."""
        ended = self.get_key_for_chord(header.id, ".ended")
        self.set(ended, b"1")
        if self.implements_incr:  # a store that cannot count need not know how to expire either
            self.expire(ended, self._ended_ttl())
        self._delete_count(header)
        self.delete_group(header.id)

    def _delete_count(self, header: GroupResult) -> None:
        parts = (part_key(index, task.id) for index, task in enumerate(tasks_in(header)))
        for name in ("", ".size", *parts):
            self.delete(self.get_key_for_chord(header.id, name))

    def _ended_ttl(self) -> float:
        return max(self._ENDED_TTL, 2 * float(self.app.conf.result_chord_join_timeout))


def _chord_error(message: str, cause: Exception) -> ChordError:
    error = ChordError(message)
    error.__cause__ = cause
    return error
