"""What every backend does besides storing results: marking the ends of tasks, chords, waiting."""

import sys
import traceback as traceback_module
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NoReturn, TypeVar

from lmdbresults import states
from lmdbresults.app import Request
from lmdbresults.backends.backend import Backend
from lmdbresults.backends.counted_chords import unlock_signature
from lmdbresults.backends.errbacks import Errbacks
from lmdbresults.backends.waiting import Waiting
from lmdbresults.backends.watch import Watch
from lmdbresults.errors import ChordError, TaskRevokedError
from lmdbresults.metas import settle
from lmdbresults.protocols import Meta, OnInterval, OnMessage
from lmdbresults.results import AsyncResult, GroupResult, ResultSet

__all__ = ["BaseBackend", "DisabledBackend"]


class BaseBackend(Backend):
    """A backend that workers and callers use: it marks the ends of tasks, runs chords, and waits for results."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.errbacks = Errbacks(self.app)

    # -- the ends of tasks -------------------------------------------------------------------------------------------

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """Store STARTED, with ``meta`` as the result."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> None:
        """Store a result and return the task's part to its chord.

        The result is not stored if ``store_result`` is false or the request ignores it.
        """
        stores = store_result and not getattr(request, "ignore_result", False)
        self._end_task(task_id, result, state, None, request, stores)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Store a failure, return the task's part to its chord, and call the errbacks of the request."""
        self._end_task(task_id, exc, state, traceback, request, store_result)
        if call_errbacks and request is not None and request.errbacks:
            self.errbacks.call(request, exc, traceback)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Store a `TaskRevokedError` and return the task's part to its chord."""
        self._end_task(task_id, TaskRevokedError(reason), state, None, request, store_result)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """Store the exception because of which the task is tried again."""
        return self.store_result(task_id, exc, state, traceback=traceback, request=request) if store_result else None

    def fail_from_current_stack(self, task_id: str, exc: BaseException | None = None) -> str:
        """Mark a task as failed, by the exception in flight unless one is given; return the traceback as text."""
        error = sys.exc_info()[1] if exc is None else exc
        if error is None:
            raise RuntimeError("fail_from_current_stack() needs an exception: give it one, or call it in an except.")
        text = "".join(traceback_module.format_exception(error))  # text, so that no frame is kept alive
        self.mark_as_failure(task_id, error, text)
        return text

    def chord_error_from_stack(self, callback: Mapping[str, Any], exc: BaseException | None = None) -> None:
        """Call the errbacks of the body of a chord, and mark it as failed on the backend of its task.

        An errback that raises becomes the failure, so that it is not lost.
        """
        request = Request.of(self.app.signature(callback))
        failure = sys.exc_info()[1] if exc is None else exc
        if failure is None:
            failure = ChordError("The chord failed.")
        raised = self.errbacks.call(request, failure, None)
        backend = getattr(self.app.tasks.get(request.task), "backend", None) or self
        backend.fail_from_current_stack(request.id, raised[0] if raised else failure)

    def _end_task(
        self, task_id: str, result: Any, state: str, traceback: str | None, request: Any, store_result: bool
    ) -> None:
        """Store the result of a task if ``store_result``, and return the part of a chord that the task may be."""
        if store_result:
            self.store_result(task_id, result, state, traceback=traceback, request=request)
        if request is not None and request.chord:
            self.on_chord_part_return(request, state, result)

    # -- chords ------------------------------------------------------------------------------------------------------

    def ensure_chords_allowed(self) -> None:
        """Raise if this backend cannot run chords."""

    def apply_chord(self, header_result_args: tuple[Any, ...], body: Any, **kwargs: Any) -> None:
        """Start a chord, before its header is dispatched. ``header_result_args`` are those of `GroupResult`."""
        self.ensure_chords_allowed()
        group_id, results = header_result_args[:2]
        self.fallback_chord_unlock(GroupResult(group_id, results, self), body, **kwargs)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Set how many parts a chord waits for."""

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Let a running chord wait for one more part."""
        raise self._missing("add_to_chord")

    def on_chord_part_return(self, request: Any, state: str, result: Any) -> None:
        """Count the part of a chord that a task is; the last part dispatches the body."""

    def fallback_chord_unlock(self, header_result: GroupResult, body: Any, countdown: float = 1, **kwargs: Any) -> None:
        """Dispatch a task that looks at the header every ``countdown`` seconds, until it is ready, and runs the body.

        For a store that cannot count. The app of a key-value backend has the task, `counted_chords.UNLOCK`.
        """
        self.app.dispatch(unlock_signature(self.app, header_result, body, countdown))

    # -- waiting, as far as `waiting` is defined ---------------------------------------------------------------------

    @cached_property
    def waiting(self) -> Waiting:
        """Where threads and coroutines wait for results."""
        raise self._missing("waiting")

    @property
    def is_async(self) -> bool:
        """False: nothing must be registered before a result is waited for."""
        return False

    def wait_for(
        self, task_id: str, timeout: float | None = None, interval: float = 0.5, on_interval: OnInterval | None = None
    ) -> Meta:
        """Return the meta of a task once it has ended; see `Waiting.wait_for`."""
        return self.waiting.wait_for(task_id, timeout, interval, on_interval)

    def get_many(self, task_ids: Iterable[str], *args: Any, **kwargs: Any) -> Iterator[tuple[str, Meta]]:
        raise self._missing("get_many")

    def wait_for_pending(
        self,
        result: AsyncResult,
        timeout: float | None = None,
        interval: float = 0.5,
        on_interval: OnInterval | None = None,
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
        on_message: OnMessage | None = None,
    ) -> Any:
        """Wait for a result and return it, or raise it if it is a failure that is to ``propagate``.

        ``on_message(meta)`` is called for the last state, and for those on the way, as by `get_many`.
        """
        if on_message is None:
            meta = self.wait_for(result.id, timeout=timeout, interval=interval, on_interval=on_interval)
        else:
            [(_, meta)] = self.get_many(
                [result.id], timeout=timeout, interval=interval, on_message=on_message, on_interval=on_interval
            )
        return settle(result.id, meta, propagate, callback)

    def iter_native(
        self,
        result: ResultSet,
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
    ) -> Iterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of the tasks of a set as they end. Groups inside are not entered."""
        ids = [part.id for part in result.results if isinstance(part, AsyncResult)]
        return self.get_many(ids, timeout=timeout, interval=interval, on_message=on_message, on_interval=on_interval)

    async def wait_for_async(self, task_id: str, timeout: float | None = None) -> Meta:
        """Return the meta of a task once it has ended; see `AsyncWaiting.wait_for`."""
        return await self.waiting.in_loop.wait_for(task_id, timeout)

    def as_completed(self, task_ids: Iterable[str], timeout: float | None = None) -> AsyncIterator[tuple[str, Meta]]:
        """Yield ``(id, meta)`` of tasks as they end; see `AsyncWaiting.as_completed`."""
        return self.waiting.in_loop.as_completed(task_ids, timeout)

    def watch(self, task_id: str, timeout: float | None = None) -> Watch:
        """Return an iterator that yields the meta of a task whenever it has changed; see `Watch`."""
        return self.waiting.watch(task_id, timeout)

    def add_pending_result(self, result: AsyncResult, weak: bool = False) -> AsyncResult:
        """Return the result. Nothing needs to be registered before it is waited for."""
        return result

    def remove_pending_result(self, result: AsyncResult) -> AsyncResult:
        """Return the result, see `add_pending_result`."""
        return result

    # -- hooks -------------------------------------------------------------------------------------------------------

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """Return what the message of a task must carry: nothing."""
        return {}

    def cleanup(self) -> None:
        """Delete expired results, if the store does not do so itself."""

    def process_cleanup(self) -> None:
        """Release what a worker process holds, such as the open file; the next use opens it again."""

    def close(self) -> None:
        """Do as `process_cleanup`. A ``with`` block closes the backend at its end."""
        self.process_cleanup()

    def __enter__(self: "Self") -> "Self":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


Self = TypeVar("Self", bound=BaseBackend)


class DisabledBackend(BaseBackend):
    """The backend without results: storing does nothing, reading raises NotImplementedError."""

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None
    ) -> None:
        """Do nothing."""

    def as_uri(self, include_password: bool = False) -> str:
        """Return ``disabled://``."""
        return "disabled://"

    def _is_disabled(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            "Results are turned off. Open a backend with a file to have them: open_backend('lmdb:///path/to/file')."
        )

    get_state = get_status = get_result = get_traceback = get_children = _is_disabled
    get_task_meta = get_group_meta = restore_group = reload_task_result = reload_group_result = _is_disabled
    save_group = delete_group = forget = wait_for = wait_for_pending = iter_native = get_many = _is_disabled
    wait_for_async = as_completed = watch = _is_disabled
    ensure_chords_allowed = apply_chord = add_to_chord = set_chord_size = fallback_chord_unlock = _is_disabled
