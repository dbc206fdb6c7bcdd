"""A backend over get and set: keys, records, groups, and chords that count in the store."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from lmdbresults import states
from lmdbresults.app import Signature
from lmdbresults.backends import unlock
from lmdbresults.backends.base import BaseBackend
from lmdbresults.backends.encoding import Meta
from lmdbresults.backends.waiting import OnInterval, looks
from lmdbresults.errors import ChordError
from lmdbresults.record import TaskRecord
from lmdbresults.results import AsyncResult, GroupResult, ResultSet, result_from_tuple

__all__ = ["KeyValueStoreBackend", "count_tasks"]

logger = logging.getLogger(__name__)


def _to_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


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
            setattr(self, name, self.key_t(self.global_keyprefix) + self.key_t(getattr(self, name)))
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
        name = self.key_t(key)
        for prefix in (self.key_t(self.task_keyprefix), self.key_t(self.group_keyprefix)):
            if name.startswith(prefix):
                return name[len(prefix) :].decode()
        return name.decode()

    # -- results -----------------------------------------------------------------------------------------------------

    def _store_result(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> None:
        if self._get_task_meta_for(task_id)["status"] != states.SUCCESS:
            self.set(self.get_key_for_task(task_id), self._record(result, state, traceback, request))

    def _record(self, result: Any, state: str, traceback: str | None, request: Any) -> bytes:
        return TaskRecord.from_meta(self._meta(result, state, traceback, request), self._payload).pack()

    def decode_result(self, payload: bytes) -> Meta:
        """Return the meta in a stored record, its exception brought back to life."""
        return self.meta_from_decoded(TaskRecord.unpack(payload).to_meta(self._decoded))

    def _get_task_meta_for(self, task_id: str) -> Meta:
        data = self.get(self.get_key_for_task(task_id))
        if data is None:
            return {"status": states.PENDING, "result": None}
        return {**self.decode_result(data), "task_id": str(task_id)}

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

        Ends after ``max_iterations`` looks, if given. Raises `ResultTimeout` after ``timeout`` seconds.
        """
        pending = dict.fromkeys(map(str, task_ids))
        for task_id in [task_id for task_id in pending if self.is_cached(task_id)]:
            del pending[task_id]
            yield task_id, self.get_task_meta(task_id)
        for look in looks(timeout, interval, on_interval, f"{len(pending)} tasks") if pending else ():
            found = self._look_for(list(pending), READY_STATES)
            for task_id, meta in found.items():
                del pending[task_id]
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta
            if not pending or look + 1 == max_iterations:
                return

    def _look_for(self, task_ids: list[str], ready_states: frozenset[str]) -> dict[str, Meta]:
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
        READY_STATES: frozenset[str] = states.READY_STATES,  # noqa: N803
    ) -> dict[str, Meta]:
        """Return the metas that are ready by id, from what `mget` returned."""
        if isinstance(values, Mapping):
            pairs: Iterable[tuple[str, bytes | None]] = ((self._strip_prefix(key), values[key]) for key in values)
        else:
            pairs = zip(keys, values, strict=True)
        return {id_: {**meta, "task_id": id_} for id_, meta in self._filter_ready(pairs, READY_STATES)}

    def _filter_ready(
        self,
        values: Iterable[tuple[str, bytes | None]],
        READY_STATES: frozenset[str] = states.READY_STATES,  # noqa: N803
    ) -> Iterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of the records that are ready. The others are not decoded."""
        for id_, data in values:
            if data is not None and TaskRecord.unpack(data).state in READY_STATES:
                yield id_, self.decode_result(data)

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

        The body of an empty header is dispatched at once.
        """
        self.ensure_chords_allowed()
        group_id, results = header_result_args[:2]
        header = GroupResult(group_id, results, self)
        if not header.results:
            self._dispatch_body(self.app.signature(body), [])
        elif self.implements_incr:
            self._open_chord(header)
        else:
            self.fallback_chord_unlock(header, body, **kwargs)

    def _open_chord(self, header: GroupResult) -> None:
        for part in ("", ".size", ".ended"):  # a header that is applied again is a new chord
            self.delete(self.get_key_for_chord(header.id, part))
        self.save_group(header.id, header)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Say how many parts a chord waits for, if not as many as there are tasks in its header."""
        self.set(self.get_key_for_chord(group_id, ".size"), b"%d" % chord_size)

    def on_chord_part_return(self, request: Any, state: str, result: Any) -> None:
        """Count a part, by its place in the header and its id; the one that completes the header ends the chord."""
        if not self.implements_incr or not request.group:
            return
        count = self._count_part(request.group, f".part.{request.group_index}.{request.id}")
        if count is None:
            return
        body = self.app.signature(request.chord)
        try:
            header = self.restore_group(request.group, cache=False)
        except Exception as error:  # whatever is wrong with what was saved, the body must not wait for ever
            self._fail_body(_unknown(request.group), body, ChordError(f"Cannot restore group: {error!r}"), error)
            return
        if header is None:
            self._fail_body(_unknown(request.group), body, ChordError(f"GroupResult {request.group} no longer exists"))
            return
        size = self._chord_size(request, header)
        if count == size:
            self.finish_chord(header, body)
        elif count > size:
            logger.warning("Chord %s has %d parts instead of %d.", request.group, count, size)

    def _count_part(self, group_id: str, part: str) -> int | None:
        """Return how many parts there are with this one; None for a duplicate, or if the chord has ended."""
        if self.get(self.get_key_for_chord(group_id, ".ended")) is not None:
            return None
        if self.incr(self.get_key_for_chord(group_id, part)) > 1:
            return None
        return self.incr(self.get_key_for_chord(group_id))

    def _chord_size(self, request: Any, header: GroupResult) -> int:
        stored = self.get(self.get_key_for_chord(request.group, ".size"))
        if stored is not None:
            return int(stored)
        return int(request.chord.get("chord_size") or count_tasks(header))

    def finish_chord(self, header: GroupResult, body: Any) -> None:
        """Join the header and dispatch the body with the list of results, or let it fail."""
        signature = self.app.signature(body)
        try:
            values = header.join(timeout=self.app.conf.result_chord_join_timeout, propagate=True)
        except Exception as error:  # a part failed, with whatever it raised, or its result is gone
            self._fail_body(header, signature, ChordError(_culprit(header, error)), error)
        else:
            self._end_chord(header)
            self._dispatch_body(signature, values)

    def _dispatch_body(self, body: Signature, values: list[Any]) -> None:
        try:
            self.app.dispatch(body, (values,))
        except Exception as error:  # of a queue that nobody here knows
            logger.exception("The body %r of a chord could not be dispatched.", body.task)
            failure = ChordError(f"Callback error: {error!r}")
            failure.__cause__ = error
            self.chord_error_from_stack(body, failure)

    def _fail_body(
        self, header: GroupResult, body: Signature, failure: ChordError, cause: BaseException | None = None
    ) -> None:
        failure.__cause__ = cause
        logger.error("Chord %s failed: %s", header.id, failure)
        self._end_chord(header)
        self.chord_error_from_stack(body, failure)

    def _end_chord(self, header: GroupResult) -> None:
        """Delete what the chord has left, and remember for a while that it has ended."""
        ended = self.get_key_for_chord(header.id, ".ended")
        self.set(ended, b"1")
        self.expire(ended, self._ended_ttl())
        for index, result in enumerate(header.results):
            self.delete(self.get_key_for_chord(header.id, f".part.{index}.{result.id}"))
        for part in ("", ".size"):
            self.delete(self.get_key_for_chord(header.id, part))
        self.delete_group(header.id)

    def _ended_ttl(self) -> float:
        return max(self._ENDED_TTL, 2 * float(self.app.conf.result_chord_join_timeout))


def _unknown(group_id: str) -> GroupResult:
    return GroupResult(group_id, ())


def count_tasks(result: AsyncResult | ResultSet) -> int:
    """Return how many parts a header has: a group inside counts as many as it has tasks."""
    return sum(map(count_tasks, result.results)) if isinstance(result, ResultSet) else 1


def _culprit(header: GroupResult, error: BaseException) -> str:
    """Say which part of a header is to blame for an error."""
    for result in header.results:
        if result.failed() and isinstance(result, AsyncResult):
            return f"Dependency {result.id} raised {result.result!r}"
    return f"Join error: {error!r}"
