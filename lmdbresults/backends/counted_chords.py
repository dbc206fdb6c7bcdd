"""Chords over get and set: parts are counted by `incr`; where there is none, a task looks whether they are ready.

For key-value stores without transactions. A `StoreBackend` has chords.py.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from lmdbresults import states
from lmdbresults.app import Task
from lmdbresults.backends.chord_bodies import Bodies, BodyBackend
from lmdbresults.errors import ChordError, described
from lmdbresults.protocols import Meta
from lmdbresults.results import AsyncResult, GroupResult, count_tasks, tasks_in

__all__ = ["UNLOCK", "CountedChords", "unlock_signature"]

logger = logging.getLogger(__name__)

#: The task that looks whether a header is ready.
UNLOCK: Final = "lmdbresults.chord_unlock"
#: Seconds for which an ended chord is remembered at least, so that a late duplicate of a part does nothing.
_ENDED_TTL: Final = 300.0


class CountingBackend(BodyBackend, Protocol):
    """The part of a key-value backend that its chords use."""

    implements_incr: bool
    expires: Any

    def get_key_for_chord(self, group_id: str, key: str = "") -> bytes: ...

    def get(self, key: bytes) -> bytes | None: ...

    def set(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...

    def incr(self, key: bytes) -> int: ...

    def expire(self, key: bytes, value: float | None) -> None: ...

    def save_group(self, group_id: str, result: GroupResult) -> GroupResult: ...

    def restore_group(self, group_id: str, cache: bool = True) -> GroupResult | None: ...

    def delete_group(self, group_id: str) -> None: ...

    def group_from_tuple(self, tree: Any) -> GroupResult: ...

    def wait_for(self, task_id: str, timeout: float | None = None) -> Meta: ...


class CountedChords:
    """The chords of one key-value backend. Its app gets the task `UNLOCK`, unless it has it."""

    def __init__(
        self, backend: CountingBackend, bodies: Bodies, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._backend = backend
        self._bodies = bodies
        self._sleep = sleep
        app = backend.app
        if UNLOCK not in app.tasks:
            app.tasks[UNLOCK] = Task(app, UNLOCK, self._unlock, {})

    # -- the parts ---------------------------------------------------------------------------------------------------

    def open(self, header: GroupResult) -> None:
        """Start a chord. A header that is applied again is a new chord."""
        self._delete_counts(header)
        self._backend.delete(self._key(header.id, ".ended"))
        self.set_size(header.id, count_tasks(header))
        self._backend.save_group(header.id, header)

    def set_size(self, group_id: str, size: int) -> None:
        """Set how many parts a chord waits for. The next part that returns is the first to be measured by it."""
        self._backend.set(self._key(group_id, ".size"), b"%d" % size)

    def part_returned(self, request: Any) -> None:
        """Count a part, by its place in the header and its id; the part that completes the header ends the chord."""
        missing = self._count_part(request)
        if missing == 0:
            self._complete(request.group, request.chord)
        elif missing is None or missing < 0:
            logger.warning(
                "Task %s returned a part of chord %s that does not count: it is a duplicate, or the chord has ended.",
                request.id,
                request.group,
            )

    def _count_part(self, request: Any) -> int | None:
        """Return how many parts are missing after this one; None if it does not count, 0 if the chord is unknown."""
        if self.has_ended(request.group):
            return None
        if self._backend.incr(self._key(request.group, _part(request.group_index, request.id))) > 1:
            return None
        count = self._backend.incr(self._key(request.group))
        stored = self._backend.get(self._key(request.group, ".size"))
        size = request.chord.get("chord_size") if stored is None else stored
        return 0 if size is None else int(size) - count

    def has_ended(self, group_id: str) -> bool:
        """Return whether a chord has ended not long ago."""
        return self._backend.get(self._key(group_id, ".ended")) is not None

    # -- a store that cannot count -----------------------------------------------------------------------------------

    def _unlock(self, header: Any, body: Any, countdown: float, until: float | None = None) -> None:
        """End a chord whose header is ready; else look again. Give up at ``until``, or when a result would expire."""
        backend, group = self._backend, self._backend.group_from_tuple(header)
        if self.has_ended(group.id):
            return  # this look was delivered twice
        now = backend.app.now().timestamp()
        if until is None and backend.expires:
            until = now + backend.expires
        if (until is not None and now >= until) or _is_ready(group):
            self.finish(group, body)
        else:
            self._sleep(countdown)
            backend.app.dispatch(unlock_signature(backend.app, group, body, countdown, until))

    # -- the end -----------------------------------------------------------------------------------------------------

    def _complete(self, group_id: str, body: Any) -> None:
        header = None
        failure: tuple[str, BaseException | None] = (f"GroupResult {group_id} no longer exists", None)
        try:
            header = self._backend.restore_group(group_id, cache=False)
        except Exception as error:  # a header that cannot be read must not keep the body waiting for ever
            failure = (f"Cannot restore group {group_id}: {described(error)}", error)
        if header is not None:
            self.finish(header, body)
            return
        self._end(GroupResult(group_id, ()))
        signature = self._bodies.signature(body)
        if self._bodies.has_run(signature):  # a duplicate of a part, so late that the chord is forgotten
            logger.warning("A part of chord %s returned long after its end.", group_id)
        else:
            self._bodies.fail(signature, *failure)

    def finish(self, header: GroupResult, body: Any) -> None:
        """Join the header and dispatch the body with the list of results, or let it fail."""
        values, failure = self._joined(header)
        self._end(header)
        self._dispatch(body, values, failure)

    def finish_empty(self, header: GroupResult, body: Any) -> None:
        """Dispatch the body of a header that has no tasks."""
        self._dispatch(body, *self._joined(header))

    def _dispatch(self, body: Any, values: list[Any], failure: tuple[str, BaseException | None] | None) -> None:
        signature = self._bodies.signature(body)
        if failure is None:
            try:
                self._bodies.send(signature, values)
            except Exception as error:  # the errors of queues are not known here
                failure = (f"Callback error: {described(error)}", error)
        if failure is not None:
            self._bodies.fail(signature, *failure)

    def _joined(self, header: GroupResult) -> tuple[list[Any], tuple[str, BaseException | None] | None]:
        """Return the values of a header, or the message and the cause of its failure."""
        try:
            return self._join(header, time.monotonic() + self._backend.app.conf.result_chord_join_timeout), None
        except ChordError as error:
            return [], (str(error), error.__cause__)
        except Exception as error:  # a result is gone, or cannot be read
            return [], (f"Join error: {described(error)}", error)

    def _join(self, result: AsyncResult | GroupResult, until: float) -> Any:
        """Return the value of a part, or the list of those of a group. Raises `ChordError` if one has failed.

        The exception of a part is not raised here: it may be a SystemExit, which would end the worker.
        """
        if isinstance(result, GroupResult):
            return [self._join(part, until) for part in result.results]
        meta = self._backend.wait_for(result.id, timeout=max(until - time.monotonic(), 0.0))
        if meta["status"] in states.PROPAGATE_STATES:
            raise ChordError(f"Dependency {result.id} raised {described(meta['result'])}") from meta["result"]
        return meta["result"]

    def _end(self, header: GroupResult) -> None:
        """Delete the records of a chord, and remember for a while that it has ended."""
        ended = self._key(header.id, ".ended")
        self._backend.set(ended, b"1")
        if self._backend.implements_incr:  # a store that cannot count need not know how to expire either
            self._backend.expire(ended, max(_ENDED_TTL, 2 * float(self._backend.app.conf.result_chord_join_timeout)))
        self._delete_counts(header)
        self._backend.delete_group(header.id)

    def _delete_counts(self, header: GroupResult) -> None:
        parts = (_part(index, task.id) for index, task in enumerate(tasks_in(header)))
        for name in ("", ".size", *parts):
            self._backend.delete(self._key(header.id, name))

    def _key(self, group_id: str, name: str = "") -> bytes:
        return self._backend.get_key_for_chord(group_id, name)


def _part(index: int | None, task_id: object) -> str:
    """Return the suffix of the key by which a part is counted once: one task may stand at several places."""
    return f".part.{index}.{task_id}"


def _is_ready(group: GroupResult) -> bool:
    try:
        return group.ready()
    except Exception:  # a result that cannot be read never becomes ready: `finish` reports it
        return True


def unlock_signature(app: Any, header: GroupResult, body: Any, countdown: float, until: float | None = None) -> Any:
    """Return the signature of the task `UNLOCK` for one chord."""
    unlock = app.signature(UNLOCK, (header.as_tuple(), dict(body), countdown, until))
    unlock.set(ignore_result=True)
    return unlock
