"""The small App that plain workers use: settings, a registry of tasks, signatures, dispatch.

It is not a task queue. A signature is a mapping that any queue can carry, and ``dispatch`` is the method to override to
use one. Without that, `dispatch` runs the task here and now.
"""

import functools
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta, timezone
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, overload

from lmdbresults.errors import ConfigurationError, NotRegistered, SerializationError, UnknownOption
from lmdbresults.protocols import ResultBackend
from lmdbresults.results import AsyncResult, GroupResult
from lmdbresults.serialization import MAX_DECODED_BYTES

__all__ = ["App", "Request", "Settings", "Signature", "Task", "current_request"]

Params = ParamSpec("Params")
Returned = TypeVar("Returned")
#: The tasks of a chord that come before its body, in groups or not.
Header: TypeAlias = "Iterable[Signature | Header]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a backend asks its app, by the names that Celery gave it."""

    result_serializer: str = "json"
    """json, msgpack, yaml or pickle."""
    result_compression: str | None = None
    """A compression for payloads, such as zlib; None for none."""
    accept_content: tuple[str, ...] = ("json", "msgpack")
    """Serializers, or content types, that are read."""
    result_accept_content: tuple[str, ...] | None = None
    """The same, for results only."""
    result_expires: float | timedelta | None = timedelta(days=1)
    """How long a result is kept: seconds, a timedelta, or None (or 0) for ever."""
    result_cache_max: int = -1
    """Results kept in memory once they are SUCCESS; -1: none, 0: any number."""
    result_persistent: bool | None = None
    """Whether results outlive the backend; None: as the class of the backend says."""
    result_extended: bool = False
    """Whether name, arguments, worker, queue and retries are stored with a result."""
    result_chord_join_timeout: float = 3.0
    """Seconds that the end of a chord waits for the results of its header."""
    task_always_eager: bool = False
    """Declares that tasks run where they are called and store nothing, so that reading a result warns."""
    task_store_eager_result: bool = False
    """Declares that they store their results."""
    max_decoded_bytes: int = MAX_DECODED_BYTES
    """Bytes that a compressed result may have once it is decompressed; reading a larger one raises `DecodeError`."""


class Signature(dict[str, Any]):
    """A task, its arguments and its options: a mapping of plain values, to be sent anywhere.

    The receiver makes a signature of the plain mapping again by ``app.signature(mapping)``.
    """

    def __init__(self, app: "App", mapping: Mapping[str, Any]) -> None:
        options = dict(mapping.get("options") or {})
        if "link_error" in options:
            options["link_error"] = _listed(options["link_error"])
        super().__init__(
            task=str(mapping["task"]),
            args=tuple(mapping.get("args") or ()),
            kwargs=dict(mapping.get("kwargs") or {}),
            options=options,
            immutable=bool(mapping.get("immutable", False)),
        )
        self.app = app

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)

    @property
    def task(self) -> str:
        """The name of the task."""
        return str(self["task"])

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return tuple(self["args"])

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments."""
        return self["kwargs"]  # type: ignore[no-any-return]

    @property
    def options(self) -> dict[str, Any]:
        """What the task does not get: its id, its group, its chord, its errbacks."""
        return self["options"]  # type: ignore[no-any-return]

    @property
    def id(self) -> str | None:
        """The id of the task, once the signature is frozen."""
        return self.options.get("task_id")

    def set(self, **options: Any) -> "Signature":
        """Set options; return the signature itself."""
        self.options.update(options)
        return self

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> "Signature":
        """Return a copy with ``args`` in front of its own (unless it is immutable), more keywords and options."""
        copied = Signature(self.app, self)
        if not self["immutable"]:
            copied["args"] = (*args, *self.args)
            copied["kwargs"].update(kwargs or {})
        return copied.set(**options)

    def link_error(self, errback: Mapping[str, Any]) -> Mapping[str, Any]:
        """Let ``errback`` be called if the task fails; return it."""
        self.options["link_error"] = [*_listed(self.options.get("link_error")), errback]
        return errback

    def freeze(self, task_id: str | None = None, **options: Any) -> AsyncResult:
        """Give the task its id, and options such as ``group_id`` and ``chord``; return the handle of its result."""
        self.set(task_id=task_id or self.id or str(uuid.uuid4()), **options)
        return AsyncResult(str(self.id), self.app.backend)


@dataclass(slots=True)
class Request:
    """A task while it runs. A backend uses these names and no others."""

    id: str
    task: str = ""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    group_index: int | None = None
    chord: Mapping[str, Any] | None = None
    """The body of the chord whose header the task belongs to."""
    errbacks: Sequence[Mapping[str, Any]] = ()
    parent_id: str | None = None
    root_id: str | None = None
    retries: int = 0
    hostname: str | None = None
    delivery_info: Mapping[str, Any] = field(default_factory=dict)
    ignore_result: bool = False
    started: float | None = None
    """When it started, by the monotonic clock; None: not known."""
    children: list[AsyncResult] = field(default_factory=list)
    """The results of the tasks that this one has sent."""

    @classmethod
    def of(cls, signature: Signature, args: Iterable[Any] = (), defaults: Mapping[str, Any] | None = None) -> "Request":
        """Return the request of a signature that a worker has received.

        ``defaults`` are the options of the task; those of the signature override them.
        """
        options = {**(defaults or {}), **signature.options}
        known = {f.name: options[f.name] for f in fields(cls) if f.name in options}
        return cls(
            **{
                **known,
                "id": signature.id or str(uuid.uuid4()),
                "task": signature.task,
                "args": signature.clone(args).args,
                "kwargs": signature.kwargs,
                "group": options.get("group_id"),
                "errbacks": _listed(options.get("link_error")),
            }
        )


_running: ContextVar[Request | None] = ContextVar("running", default=None)


#: Returns the request of the task that runs here, or None.
current_request: Callable[[], Request | None] = _running.get


class Task(Generic[Params, Returned]):
    """A function with a name. Calling it calls the function, `delay` sends it to a worker."""

    def __init__(self, app: Any, name: str, run: Callable[Params, Returned], options: Mapping[str, Any]) -> None:
        self.app = app
        self.name = name
        self.run = run
        #: Options of all its signatures, such as ``ignore_result``, unless a signature overrides them.
        self.options = options
        #: Where its results are stored; None: in the backend of the app.
        self.backend: ResultBackend | None = None
        functools.update_wrapper(self, run, updated=())

    def __call__(self, *args: Params.args, **kwargs: Params.kwargs) -> Returned:
        return self.run(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature of the task with these arguments."""
        signature: Signature = self.app.signature(self.name, args, kwargs)
        return signature

    def delay(self, *args: Params.args, **kwargs: Params.kwargs) -> AsyncResult:
        """Send the task with these arguments; return the handle of its result."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult:
        """Send the task with options such as ``task_id`` and ``link_error``; return the handle of its result."""
        result: AsyncResult = self.app.send(self.app.signature(self.name, args, kwargs, **options))
        return result


class App:
    """Settings, tasks and the way by which tasks get to a worker.

    ``App(result_expires=60)`` takes the settings by name, or as a mapping, or as `Settings`. Raises `UnknownOption`.
    An app pickles without its tasks and its backend: another process registers and opens its own.
    """

    def __init__(self, conf: Mapping[str, Any] | Settings | None = None, **settings: Any) -> None:
        self.conf = _settings(conf or {}, settings)
        self.tasks: dict[str, Task[..., Any]] = {}
        #: Set by the first backend that is made for this app.
        self.backend: ResultBackend | None = None
        self._waiting = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("tasks", "backend", "_waiting")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state, tasks={}, backend=None, _waiting=threading.local())

    def now(self) -> datetime:
        """Return the present time, in UTC."""
        return datetime.now(timezone.utc)

    @overload
    def task(
        self, run: Callable[Params, Returned], *, name: str | None = None, **options: Any
    ) -> Task[Params, Returned]: ...

    @overload
    def task(
        self, run: None = None, *, name: str | None = None, **options: Any
    ) -> Callable[[Callable[Params, Returned]], Task[Params, Returned]]: ...

    def task(self, run: Callable[..., Any] | None = None, *, name: str | None = None, **options: Any) -> Any:
        """Register a function as a task: ``@app.task``, or ``@app.task(name="...")``. The name defaults to its own."""
        if run is None:
            return lambda function: self.task(function, name=name, **options)
        task = Task(self, name or run.__name__, run, options)
        self.tasks[task.name] = task
        return task

    def signature(
        self,
        task: str | Task[..., Any] | Mapping[str, Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Signature:
        """Return a new signature: of a task or its name with arguments, or of the mapping that another one was."""
        if isinstance(task, Mapping):
            return Signature(self, task).clone(args, kwargs, **options)
        name = task.name if isinstance(task, Task) else task
        return Signature(self, {"task": name, "args": args, "kwargs": kwargs, "options": options})

    def send(self, signature: Signature, args: Iterable[Any] = ()) -> AsyncResult:
        """Dispatch a task as a child of the one that runs here, if any; return the handle of its result.

        The signature is not changed: each time it is sent, the copy gets a new id, unless it was frozen with one.
        """
        parent = current_request()
        signature = signature.clone()
        result = signature.freeze()
        if parent is not None:
            signature.set(parent_id=parent.id, root_id=parent.root_id or parent.id)
            parent.children.append(result)
        self.dispatch(signature, tuple(args))
        return result

    def dispatch(self, signature: Signature, args: Sequence[Any] = ()) -> None:
        """Get a task to a worker, ``args`` before its own. Override this to use a queue; here the task runs at once.

        A task that a running task dispatches starts when that one has ended.
        """
        with self._in_turn() as waiting:
            waiting.append((signature, args))

    def run(self, signature: Mapping[str, Any], args: Iterable[Any] = ()) -> None:
        """Run a task here and store its result: what a worker does with each signature that it receives.

        Whatever the task raises is its failure, SystemExit included. A KeyboardInterrupt is raised again afterwards.
        """
        received = self.signature(signature)
        task = self.tasks.get(received.task)
        request = Request.of(received, args, task.options if task else None)
        backend = (task.backend if task else None) or self.require_backend()
        request.started = time.monotonic()
        token = _running.set(request)
        try:
            if task is None:
                raise NotRegistered(f"No task {request.task!r} is registered here; there are: {', '.join(self.tasks)}.")
            result = task.run(*request.args, **request.kwargs)
        except BaseException as error:
            backend.mark_as_failure(request.id, error, traceback.format_exc(), request)
            if isinstance(error, KeyboardInterrupt):
                raise
        else:
            self._done(backend, request, result)
        finally:
            _running.reset(token)

    def _done(self, backend: ResultBackend, request: Request, result: Any) -> None:
        try:
            backend.mark_as_done(request.id, result, request)
        except SerializationError as error:  # the result could not be read, and a failure can
            backend.mark_as_failure(request.id, error, traceback.format_exc(), request)

    def chord(self, header: "Header", body: Signature) -> AsyncResult:
        """Dispatch the header as a group; its last part dispatches the body with the list of results.

        A list inside the header is a group, for which the body gets a list. Returns the handle of the body's result.
        What is dispatched are copies, so that a signature may occur several times.
        """
        backend, group_id, parent = self.require_backend(), str(uuid.uuid4()), current_request()
        lineage = {} if parent is None else {"parent_id": parent.id, "root_id": parent.root_id or parent.id}
        body = body.clone().set(**lineage)
        result = body.freeze()
        tasks: list[Signature] = []

        def freeze(part: "Signature | Header") -> AsyncResult | GroupResult:
            if not isinstance(part, Signature):
                return GroupResult(str(uuid.uuid4()), [freeze(each) for each in part], backend)
            tasks.append(part.clone().set(**lineage))
            return tasks[-1].freeze(group_id=group_id, group_index=len(tasks) - 1, chord=dict(body))

        handles = [freeze(part) for part in header]
        if parent is not None:
            parent.children.append(result)
        with self._in_turn():
            backend.apply_chord((group_id, handles), body)
            for task in tasks:
                self.dispatch(task)
        return result

    def require_backend(self) -> ResultBackend:
        """Return the backend. Raises `ConfigurationError` if none was opened for this app."""
        if self.backend is None:
            raise ConfigurationError("The app has no backend: open one with open_backend(path, app=app).")
        return self.backend

    @contextmanager
    def _in_turn(self) -> Iterator[deque[tuple[Signature, Sequence[Any]]]]:
        """Collect tasks. The outermost block of a thread runs them, in their order, when it ends."""
        outer: deque[tuple[Signature, Sequence[Any]]] | None = getattr(self._waiting, "tasks", None)
        if outer is not None:
            yield outer
            return
        waiting = self._waiting.tasks = deque()
        try:
            yield waiting
            while waiting:
                self.run(*waiting.popleft())
        finally:
            del self._waiting.tasks


def _listed(errbacks: Any) -> list[Mapping[str, Any]]:
    """Return errbacks as a list of their own; one may be given by itself."""
    return [errbacks] if isinstance(errbacks, Mapping) else list(errbacks or ())


def _settings(given: Mapping[str, Any] | Settings, more: Mapping[str, Any]) -> Settings:
    known = {f.name for f in fields(Settings)}
    by_name = {name: getattr(given, name) for name in known} if isinstance(given, Settings) else given
    unknown = sorted({*by_name, *more} - known)
    if unknown:
        raise UnknownOption(f"Unknown setting {', '.join(unknown)}; there are: {', '.join(sorted(known))}.")
    return Settings(**{**by_name, **more})
