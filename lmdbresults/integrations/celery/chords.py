"""Chords of Celery over the store: a part is counted in the transaction that stores its result.

Celery's own way takes four commits a part, counts by adding one, and leaves a chord unfinished whose last worker dies
before it has sent the body. What is inherited here is how a body fails.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final

from celery import states
from celery.app.task import Context
from celery.canvas import maybe_signature
from celery.exceptions import ChordError, SoftTimeLimitExceeded
from celery.result import GroupResult
from celery.utils.functional import _regen
from celery.utils.log import get_logger
from celery.utils.time import get_exponential_backoff_interval
from kombu.serialization import dumps, loads, prepare_accept_content
from kombu.utils.encoding import ensure_bytes

from lmdbresults.backends.chords import CLAIMS_KEY, Chords
from lmdbresults.process.identity import lease
from lmdbresults.record import SUCCESS_PREFIX, Payload, TaskRecord, pack_payload, unpack_payload
from lmdbresults.store import LMDBStore, WriteTransaction
from lmdbresults.store.chords import Part, ResultRecord

__all__ = ["CeleryChords", "ChordsMixin"]

logger = get_logger(__name__)


class Ending:
    """The end of a task that is a part: its result is held back until the part is counted."""

    def __init__(self, task_id: Any) -> None:
        self.task_id = task_id
        #: Key, record, and seconds to live.
        self.held: tuple[bytes, bytes, float | None] | None = None

    def take(self) -> tuple[bytes, bytes, float | None] | None:
        held, self.held = self.held, None
        return held


#: That of the task that is being marked as done, failed or revoked here.
_ending: Final[ContextVar[Ending | None]] = ContextVar("ending", default=None)
_AT_ONCE: Final = nullcontext()


class ChordsMixin:
    """What a Celery backend does with chords. Mixed in before Celery's own class."""

    app: Any
    store: LMDBStore
    #: Set by the backend once its prefixes are known.
    chords: "CeleryChords"

    # -- the ends of tasks -----------------------------------------------------------------------------------------

    def mark_as_done(
        self, task_id: Any, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> Any:
        with self._one_commit(task_id, request):
            return super().mark_as_done(task_id, result, request, store_result, state)  # type: ignore[misc]

    def mark_as_failure(
        self,
        task_id: Any,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> Any:
        with self._one_commit(task_id, request):
            return super().mark_as_failure(  # type: ignore[misc]
                task_id, exc, traceback, request, store_result, call_errbacks, state
            )

    def mark_as_revoked(
        self,
        task_id: Any,
        reason: Any = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> Any:
        with self._one_commit(task_id, request):
            return super().mark_as_revoked(task_id, reason, request, store_result, state)  # type: ignore[misc]

    def _one_commit(self, task_id: Any, request: Any) -> AbstractContextManager[None]:
        """Hold the result back until `on_chord_part_return` stores it with the count, if the task is a part."""
        return self._held_back(task_id) if request and request.chord and request.group else _AT_ONCE

    @contextmanager
    def _held_back(self, task_id: Any) -> Iterator[None]:
        ending = Ending(task_id)
        token = _ending.set(ending)
        try:
            yield
        finally:
            _ending.reset(token)
            held = ending.take()
            if held is not None:  # the part was not returned: something has raised before
                _store(self.store, held)

    def _put_record(self, task_id: Any, key: bytes, record: bytes, ttl: float | None, state: str) -> None:
        """Store the record of a result, or hold it back."""
        ending = _ending.get()
        if ending is not None and ending.task_id == task_id and state in states.READY_STATES:
            ending.held = (key, record, ttl)
            return
        self.store.set(key, record, ttl, keep_prefix=SUCCESS_PREFIX, interim=state not in states.READY_STATES)
        self.chords.recover()

    # -- chords ----------------------------------------------------------------------------------------------------

    def _apply_chord_incr(self, header_result_args: tuple[Any, ...], body: Any, **kwargs: Any) -> None:
        """Begin a chord. Celery's class puts this in the place of ``apply_chord``."""
        self.ensure_chords_allowed()  # type: ignore[attr-defined]
        group_id, results = header_result_args[:2]
        size = header = None
        if not isinstance(results, _regen):  # a generator cannot be looked at before it is run
            size = sum(map(_count, results))  # until Celery says it, which may be after a part has returned
            if any(isinstance(part, GroupResult) for part in results):
                group = GroupResult(group_id, results, app=self.app)
                header = self.encode({"result": group.as_tuple()})  # type: ignore[attr-defined]
        key = self.get_key_for_chord(group_id)  # type: ignore[attr-defined]
        self.chords.open(key, size, self.chords.body_bytes(body), header)

    def set_chord_size(self, group_id: Any, chord_size: int) -> None:
        """Say how many parts a chord waits for. Celery does so before it sends the last of them.

        Celery 5.3 counts a chain that ends in a group as one; then what the header has shown is right.
        """
        self.chords.set_size(self.get_key_for_chord(group_id), chord_size, at_least=True)  # type: ignore[attr-defined]

    def add_to_chord(self, chord_id: Any, result: Any) -> None:
        """Have a chord that runs wait for one more part, the last of its header."""
        if not self.chords.add_more(self.get_key_for_chord(chord_id), result.id, _count(result)):  # type: ignore[attr-defined]
            logger.warning("The chord %s has ended, or does not exist: %s was not added.", chord_id, result.id)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a part, by its place in the header and its id; whoever completes the header sends the body."""
        if not request.group or not request.id:
            return
        ending = _ending.get()
        held = ending.take() if ending is not None and ending.task_id == request.id else None
        record = held[1] if held is not None else self._record(self.encode_result(result, state), state, None, request)  # type: ignore[attr-defined]
        part = Part(request.group_index, str(request.id), record, state in states.PROPAGATE_STATES)
        try:
            self.chords.part_returned(request, part, held)
        except SoftTimeLimitExceeded:  # the task is done, only not told yet: what counts by identity can be told again
            self.chords.part_returned(request, part, held)
        self.chords.recover()


class CeleryChords(Chords):
    """The chords of a Celery backend, which sends bodies and lets them fail."""

    interruptions = (SoftTimeLimitExceeded,)

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        super().__init__(self, backend.chord_keyprefix + CLAIMS_KEY.encode())

    def part_returned(self, request: Any, part: Part, held: tuple[bytes, bytes, float | None] | None) -> None:
        """Count a part, storing the result that was held back for it, and end the chord if it was the last one."""
        result = None if held is None else ResultRecord(*held, SUCCESS_PREFIX)
        key, size = self._backend.get_key_for_chord(request.group), request.chord.get("chord_size")
        body = maybe_signature(request.chord, app=self._backend.app)
        with lease():
            progress = self._retried(lambda: self.return_part(key, part, size, result))
            if progress is not None and progress.claim is not None:
                self.finish(progress.claim, body)
                return
        if progress is None:
            if self.has_run(body):
                logger.warning("A part of chord %s returned long after its end.", request.group)
            else:
                self.fail_body(body, f"GroupResult {request.group} no longer exists", None)
        elif not progress.counts:
            logger.warning(
                "Task %s returned a part of chord %s that does not count: it has come before, or the chord has ended.",
                part.id,
                request.group,
            )

    def _retried(self, step: Callable[[], Any]) -> Any:
        """Do as Celery does with ``result_backend_always_retry``, which knows of single results only."""
        backend, tries = self._backend, 0
        while True:
            try:
                return step()
            except Exception as error:
                if not (
                    backend.always_retry and backend.exception_safe_to_retry(error) and tries < backend.max_retries
                ):
                    raise
            tries += 1
            pause = get_exponential_backoff_interval(
                backend.base_sleep_between_retries_ms, tries, backend.max_sleep_between_retries_ms, True
            )
            time.sleep(pause / 1000)

    # -- what chords ask for ---------------------------------------------------------------------------------------

    @property
    def store(self) -> LMDBStore:
        """Where everything lies."""
        store: LMDBStore = self._backend.store
        return store

    def chord_ttl(self) -> float | None:
        """Return for how long a chord is kept after the last part."""
        return getattr(self._backend, "chord_expires", self._backend.expires) or None

    def body_bytes(self, body: Any) -> bytes | None:
        """Return a body as its message would carry it; None if it cannot, and then nobody can take it over."""
        try:
            content_type, encoding, data = dumps(dict(body), serializer=self._backend.app.conf.task_serializer)
        except Exception:
            logger.warning("The body %r cannot be kept: it is lost with a worker that dies at the end.", body)
            return None
        return pack_payload(Payload(content_type, encoding, None, ensure_bytes(data)))

    def read_body(self, data: bytes) -> Any:
        """Return the signature of a body."""
        kept, app = unpack_payload(data), self._backend.app
        accept = prepare_accept_content(app.conf.accept_content)  # as for the message that it would have come in
        body = loads(kept.body, kept.content_type, kept.content_encoding, accept=accept)
        return maybe_signature(body, app=app)

    def read_header(self, data: bytes) -> Any:
        """Return the tuple tree of a header."""
        return self._backend.decode(data)["result"]

    def read_part(self, value: bytes) -> dict[str, Any]:
        """Return the meta in a part."""
        meta: dict[str, Any] = self._backend.decode_result(value)
        return meta

    def has_failed(self, meta: Mapping[str, Any]) -> bool:
        """Return whether a part fails the body."""
        return meta["status"] in states.PROPAGATE_STATES

    def has_run(self, body: Any) -> bool:
        """Return whether the result of a body is there, or of any of its tasks if it is a chain, a group or a chord."""
        keys = [self._backend.get_key_for_task(task_id) for task_id in _ids(body)]
        found = (data for data in self._backend.mget(keys) if data is not None)
        return any(TaskRecord.unpack(data).state in states.READY_STATES for data in found)

    def send_body(self, body: Any, values: list[Any]) -> None:
        """Publish a body."""
        publish = getattr(self._backend.app.amqp, "_retry_publish", None)  # since Celery 5.6
        if publish is None:
            body.delay(values)
        else:
            publish(body.delay, values)

    def fail_body(self, body: Any, message: str, cause: BaseException | None) -> None:
        """Let a body fail."""
        logger.error("Chord body %r failed: %s", body.options.get("task_id"), message)
        try:
            raise ChordError(message) from cause
        except ChordError as error:  # Celery asks for the exception that is being handled
            self._backend.chord_error_from_stack(body, error)
            self._fail_outer(body.options, error)

    def _fail_outer(self, options: Mapping[str, Any], error: BaseException) -> None:
        """Return a body that has failed as the part of another chord that it may be: Celery lets that one wait."""
        names = {"id": "task_id", "group": "group_id", "group_index": "group_index", "chord": "chord"}
        request = Context({name: options.get(option) for name, option in names.items()})
        if request.chord and not options.get("chain"):  # whose last task would be the part, and is returned by Celery
            self._backend.on_chord_part_return(request, states.FAILURE, error)


def _store(store: WriteTransaction, held: tuple[bytes, bytes, float | None]) -> None:
    key, record, ttl = held
    store.set(key, record, ttl, keep_prefix=SUCCESS_PREFIX)


def _ids(signature: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the ids of a signature, which may be a plain dict, and of those in it."""
    task_id = signature["options"].get("task_id")
    if task_id:
        yield task_id
    arguments = signature.get("kwargs") or {}
    for inner in (*_listed(arguments.get("tasks")), *_listed(arguments.get("header")), arguments.get("body")):
        if isinstance(inner, Mapping) and "options" in inner:
            yield from _ids(inner)


def _listed(tasks: Any) -> list[Any] | tuple[Any, ...]:
    if isinstance(tasks, Mapping):  # a header may be a group
        return (tasks,)
    return tasks if isinstance(tasks, list | tuple) else ()


def _count(result: Any) -> int:
    """Return how many tasks there are in a result."""
    return sum(map(_count, result.results)) if isinstance(result, GroupResult) else 1
