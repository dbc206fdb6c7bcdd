"""Chords of Celery over the store: a part is counted in the transaction that stores its result.

Celery's own way takes four commits a part, counts by adding one, and leaves a chord unfinished whose last worker dies
before it has sent the body. What is inherited here is how a body fails.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from celery import states
from celery.app.task import Context
from celery.canvas import maybe_signature
from celery.exceptions import ChordError, SoftTimeLimitExceeded
from celery.result import GroupResult
from celery.utils.functional import _regen, maybe_list
from celery.utils.log import get_logger
from celery.utils.time import get_exponential_backoff_interval
from kombu.serialization import dumps, loads, prepare_accept_content
from kombu.utils.encoding import ensure_bytes

from lmdbresults.backends.chords import CLAIMS_KEY, Chords
from lmdbresults.errors import described
from lmdbresults.integrations.celery.payloads import KombuCodec
from lmdbresults.record import Payload, TaskRecord, pack_payload, unpack_payload
from lmdbresults.store import LMDBStore
from lmdbresults.store.chords import ResultRecord

__all__ = ["ChordsMixin", "held_result", "make_chords"]

logger = get_logger(__name__)


class HeldResult:
    """The result of a task that is a part, held back until the part is counted."""

    def __init__(self, task_id: Any) -> None:
        self.task_id = task_id
        self.result: ResultRecord | None = None

    def take(self) -> ResultRecord | None:
        result, self.result = self.result, None
        return result


#: In the request and the meta of a failed body: which errbacks were called with the failure.
_CALLED: Final = "called_errbacks"
#: For the result of the task that is being marked as done, failed or revoked in this context.
held_result: Final[ContextVar[HeldResult | None]] = ContextVar("held_result", default=None)
_NOT_HELD: Final = nullcontext()


class ChordsMixin:
    """What a Celery backend does with chords. Mixed in before Celery's own class."""

    app: Any
    store: LMDBStore
    #: Set by the backend once its prefixes are known.
    chords: Chords
    codec: KombuCodec
    _record: Callable[..., bytes]
    encode_result: Callable[..., Any]

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
        return self._held_back(task_id) if request and request.chord and request.group else _NOT_HELD

    @contextmanager
    def _held_back(self, task_id: Any) -> Iterator[None]:
        held = HeldResult(task_id)
        token = held_result.set(held)
        try:
            yield
        finally:
            held_result.reset(token)
            result = held.take()
            if result is not None:  # the part was not returned: something has raised before
                self.store.set(result.key, result.value, result.ttl, keep_prefix=result.keep_prefix)

    # -- chords ----------------------------------------------------------------------------------------------------

    def _apply_chord_incr(self, header_result_args: tuple[Any, ...], body: Any, **kwargs: Any) -> None:
        """Start a chord. Celery's class uses this as ``apply_chord``."""
        self.ensure_chords_allowed()  # type: ignore[attr-defined]
        group_id, results = header_result_args[:2]
        size = header = None
        if not isinstance(results, _regen):  # a generator cannot be looked at before it is run
            size = sum(map(_count, results))  # until Celery says it, which may be after a part has returned
            if any(isinstance(part, GroupResult) for part in results):
                group = GroupResult(group_id, results, app=self.app)
                header = self.encode({"result": group.as_tuple()})  # type: ignore[attr-defined]
        self.chords.open(group_id, size, body_bytes(body, self.app), header)

    def set_chord_size(self, group_id: Any, chord_size: int) -> None:
        """Set how many parts a chord waits for. Celery does so before it sends the last of them.

        Celery 5.3 counts a chain that ends in a group as one; then what the header has shown is right.
        """
        self.chords.set_size(group_id, chord_size, at_least=True)

    def add_to_chord(self, chord_id: Any, result: Any) -> None:
        """Let a running chord wait for one more part, the last of its header."""
        if not self.chords.add_more(chord_id, result.id, _count(result)):
            logger.warning("Chord %s has ended or does not exist: %s was not added.", chord_id, result.id)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a part, by its place in the header and its id; the part that completes the header sends the body."""
        if not request.group or not request.id:
            return
        held = held_result.get()
        stored = held.take() if held is not None and held.task_id == request.id else None
        if stored is not None:
            record = stored.value
        else:
            record = self._record(self.encode_result(result, state), state, None, request)
        if getattr(request, _CALLED, None):
            record = _with_extra(record, self.codec, **{_CALLED: getattr(request, _CALLED)})
        body = maybe_signature(request.chord, app=self.app)
        try:
            self.chords.part_returned(request, state, record, body, stored)
        except SoftTimeLimitExceeded:  # the task has ended, and only its end was interrupted: a part counts only once
            self.chords.part_returned(request, state, record, body, stored)
        self.chords.recover()


def make_chords(backend: Any) -> Chords:
    """Return the chords of a Celery backend."""
    return Chords(
        backend,
        CeleryBodies(backend),
        backend.chord_keyprefix + CLAIMS_KEY.encode(),
        interruptions=(SoftTimeLimitExceeded,),
        retried=partial(_retried, backend),
    )


def _retried(backend: Any, operation: Callable[[], Any]) -> Any:
    """Call an operation as ``result_backend_always_retry`` says, which Celery does for single results only."""
    tries = 0
    while True:
        try:
            return operation()
        except Exception as error:
            if not (backend.always_retry and backend.exception_safe_to_retry(error) and tries < backend.max_retries):
                raise
        tries += 1
        pause = get_exponential_backoff_interval(
            backend.base_sleep_between_retries_ms, tries, backend.max_sleep_between_retries_ms, True
        )
        time.sleep(pause / 1000)


def body_bytes(body: Any, app: Any) -> bytes | None:
    """Return a body as its message would carry it; None if that fails: then no other process can send it."""
    try:
        content_type, encoding, data = dumps(dict(body), serializer=app.conf.task_serializer)
    except Exception:
        logger.warning("The body %r cannot be stored: it is lost if the worker dies that is to send it.", body)
        return None
    return pack_payload(Payload(content_type, encoding, None, ensure_bytes(data)))


class CeleryBodies:
    """The bodies of the chords of one backend. See `lmdbresults.backends.chords.ChordBodies`."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def read(self, data: bytes) -> Any:
        """Return the signature that `body_bytes` has encoded."""
        kept, app = unpack_payload(data), self._backend.app
        accept = prepare_accept_content(app.conf.accept_content)  # as for the message that it would have come in
        body = loads(kept.body, kept.content_type, kept.content_encoding, accept=accept)
        return maybe_signature(body, app=app)

    def has_run(self, body: Any) -> bool:
        """Return whether a body has a result, or any of its tasks if it is a chain, a group or a chord."""
        keys = [self._backend.get_key_for_task(task_id) for task_id in _ids(body)]
        found = (data for data in self._backend.mget(keys) if data is not None)
        return any(TaskRecord.unpack(data).state in states.READY_STATES for data in found)

    def send(self, body: Any, values: list[Any]) -> None:
        """Publish a body."""
        publish = getattr(self._backend.app.amqp, "_retry_publish", None)  # since Celery 5.6
        if publish is None:
            body.delay(values)
        else:
            publish(body.delay, values)

    def fail(self, body: Any, message: str, cause: BaseException | None, part: Mapping[str, Any] | None = None) -> None:
        """Store a `ChordError` as the result of a body, and call its errbacks.

        Celery links an errback of a chord also to the body of a chord in its header. If ``part`` is such a body, which
        has failed in the same way, its errbacks have been called.
        """
        logger.error("Chord body %r failed: %s", body.options.get("task_id"), message)
        called = list((part or {}).get(_CALLED, ()))
        errbacks = maybe_list(body.options.get("link_error")) or []
        if called:
            body = body.clone()
            body.options["link_error"] = [errback for errback in errbacks if _digest(errback) not in called]
        try:
            raise ChordError(message) from cause
        except ChordError as error:  # Celery asks for the exception that is being handled
            self._backend.chord_error_from_stack(body, error)
            self._fail_outer(body.options, error, [*called, *map(_digest, errbacks)])

    def _fail_outer(self, options: Mapping[str, Any], error: BaseException, called: list[str]) -> None:
        """Return a failed body as the part of another chord that it may be: with Celery, that chord would hang."""
        names = {"id": "task_id", "group": "group_id", "group_index": "group_index", "chord": "chord"}
        request = Context({name: options.get(option) for name, option in names.items()}, **{_CALLED: called})
        if request.chord and not options.get("chain"):  # whose last task would be the part, and is returned by Celery
            self._backend.on_chord_part_return(request, states.FAILURE, error)


def _digest(errback: Mapping[str, Any]) -> str:
    """Return what tells an errback from others, also once both were serialized."""
    called = (errback["task"], list(errback["args"] or ()), errback["kwargs"] or {}, bool(errback["immutable"]))
    return hashlib.sha1(described(called).encode(), usedforsecurity=False).hexdigest()


def _with_extra(record: bytes, codec: KombuCodec, **more: Any) -> bytes:
    """Return a task record with more in the meta."""
    fields = TaskRecord.unpack(record)
    payload = fields.payload
    extra = {} if payload.extra is None else codec.value(payload._replace(body=payload.extra))
    payload = payload._replace(extra=codec.payload(None, {**extra, **more}).extra)
    return fields._replace(payload=payload).pack()


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
