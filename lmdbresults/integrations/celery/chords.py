"""Chords of Celery over the store: a part is counted in the transaction that stores its result.

Celery's own way takes four commits a part, counts by adding one, and leaves a chord unfinished whose last worker dies
before it has sent the body. What is inherited here is how a body fails.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
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
from lmdbresults.integrations.celery.effects import Effects, ReturnedPart, noting
from lmdbresults.integrations.celery.payloads import KombuCodec
from lmdbresults.record import Payload, TaskRecord, pack_payload, unpack_payload
from lmdbresults.store import Store

__all__ = ["ChordsMixin", "make_chords"]

logger = get_logger(__name__)


#: In the request and the meta of a failed body: which errbacks were called with the failure.
_CALLED: Final = "called_errbacks"


class ChordsMixin:
    """What a Celery backend does with chords. Mixed in before Celery's own class."""

    app: Any
    store: Store
    new_effects: Callable[..., Effects]
    #: Set by the backend once its prefixes are known.
    chords: Chords
    codec: KombuCodec
    _record: Callable[..., bytes]
    encode_result: Callable[..., Any]

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
        effects = noting(self)
        record = None if effects is None else effects.record_of(request.id)
        if record is None:
            record = self._record(self.encode_result(result, state), state, None, request)
        if getattr(request, _CALLED, None):
            record = _with_extra(record, self.codec, **{_CALLED: getattr(request, _CALLED)})
        part = ReturnedPart(request, state, record, maybe_signature(request.chord, app=self.app))
        if effects is None:
            effects = self.new_effects()
            effects.parts.append(part)
            effects.commit()
        else:
            effects.parts.append(part)


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
        except Exception as error:  # the backend says which are worth another try
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
    except Exception:  # serializers raise many kinds; the chord itself goes on
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

    def send(self, body: Any, values: list[Any]) -> Effects | None:
        """Publish a body, or return effects that publish it, if the queues are in the file of the results."""
        publish = getattr(self._backend.app.amqp, "_retry_publish", None)  # since Celery 5.7
        with self._noted() as effects:
            if publish is None:
                body.delay(values)
            else:
                publish(body.delay, values)
        return effects.deferred()

    @contextmanager
    def _noted(self, *, holds_results: bool = True) -> Iterator[Effects]:
        """Note what the block does. What runs eagerly is done there and then, with effects of its own.

        The failure of a body is stored at once: Celery revokes the tasks of a group afterwards, and a worker that
        learns of it before the failure is stored would store that they were revoked.
        """
        effects: Effects = self._backend.new_effects(holds_results=holds_results)
        with nullcontext() if self._backend.app.conf.task_always_eager else effects:
            yield effects

    def fail(
        self, body: Any, message: str, cause: BaseException | None, part: Mapping[str, Any] | None = None
    ) -> Effects | None:
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
            with self._noted(holds_results=False) as effects:
                self._backend.chord_error_from_stack(body, error)
                self._fail_outer(body.options, error, [*called, *map(_digest, errbacks)])
        return effects.deferred()

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
