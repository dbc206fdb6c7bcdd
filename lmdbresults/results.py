"""Handles of the results of one task and of many. They hold ids and a backend, never the results themselves."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from lmdbresults import states
from lmdbresults.errors import ConfigurationError, ResultTimeout
from lmdbresults.metas import Callback, id_text, settle
from lmdbresults.protocols import OnInterval, OnMessage, ResultBackend

__all__ = ["AsyncResult", "GroupResult", "ResultSet", "count_tasks", "result_from_tuple", "tasks_in"]


class AsyncResult:
    """The result of one task, which may not exist yet."""

    def __init__(
        self, id: str, backend: ResultBackend | None = None, parent: "AsyncResult | GroupResult | None" = None
    ):
        if not id:
            raise ValueError("A result needs the id of its task.")
        self.id = id_text(id)
        self._backend = backend
        self.parent = parent

    @property
    def backend(self) -> ResultBackend:
        """Where the result is stored. Raises `ConfigurationError` for a handle that was made without a backend."""
        if self._backend is None:
            raise ConfigurationError(f"The result {self.id} has no backend: make it with AsyncResult(id, backend).")
        return self._backend

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    # -- waiting ---------------------------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        on_interval: OnInterval | None = None,
        callback: Callback | None = None,
        on_message: OnMessage | None = None,
    ) -> Any:
        """Wait for the result and return it; raise what the task raised, unless ``propagate`` is false.

        ``callback(id, result)`` is called with what is returned, ``on_message(meta)`` with each state before that, and
        ``on_interval()`` every ``interval`` seconds at the latest. Raises `ResultTimeout` after ``timeout`` seconds.
        """
        return self.backend.wait_for_pending(
            self,
            timeout=timeout,
            interval=interval,
            on_interval=on_interval,
            propagate=propagate,
            callback=callback,
            on_message=on_message,
        )

    wait = get

    def __await__(self) -> Generator[Any, None, Any]:
        meta = yield from self.backend.wait_for_async(self.id).__await__()
        return settle(self.id, meta)

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> Any:
        """Return the result as it is now; raise a failure, unless ``propagate`` is false."""
        return settle(self.id, self._meta(), propagate, callback)

    # -- the meta --------------------------------------------------------------------------------------------------

    def _meta(self) -> dict[str, Any]:
        return self.backend.get_task_meta(self.id)

    @property
    def state(self) -> str:
        """The state of the task; PENDING also if the task is unknown."""
        return str(self._meta()["status"])

    @property
    def result(self) -> Any:
        """The result, or the exception, or what was stored with a state of your own."""
        return self._meta().get("result")

    @property
    def traceback(self) -> str | None:
        """The traceback of a task that failed."""
        return self._meta().get("traceback")

    status = state
    info = result

    def ready(self) -> bool:
        """Return whether the task has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Return whether the task has succeeded."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Return whether the task has failed by an exception."""
        return self.state == states.FAILURE

    @property
    def date_done(self) -> datetime | None:
        """When the task ended."""
        date = self._meta().get("date_done")
        return datetime.fromisoformat(date) if isinstance(date, str) else date

    @property
    def name(self) -> str | None:
        """The name of the task. This and the following are None unless ``result_extended`` is set."""
        return self._meta().get("name")

    @property
    def args(self) -> Sequence[Any] | None:
        """The positional arguments."""
        return self._meta().get("args")

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """The keyword arguments."""
        return self._meta().get("kwargs")

    @property
    def worker(self) -> str | None:
        """The worker that ran the task."""
        return self._meta().get("worker")

    @property
    def retries(self) -> int | None:
        """How often the task was retried."""
        return self._meta().get("retries")

    @property
    def queue(self) -> str | None:
        """The queue by which the task came."""
        return self._meta().get("queue")

    @property
    def children(self) -> "list[AsyncResult | GroupResult] | None":
        """The results of the tasks that this one has sent; None until it has ended."""
        trees = self._meta().get("children")
        return None if trees is None else [result_from_tuple(tree, self._backend) for tree in trees]

    def iterdeps(self, intermediate: bool = False) -> "Iterator[tuple[Any, AsyncResult | GroupResult]]":
        """Yield ``(parent, result)`` for this result, its children and theirs, breadth first.

        Raises `ResultTimeout` at the first that is not ready; with ``intermediate``, its children are left out instead.
        """
        pending: deque[tuple[Any, AsyncResult | GroupResult]] = deque([(None, self)])
        while pending:
            parent, result = pending.popleft()
            yield parent, result
            if result.ready():
                pending.extend((result, child) for child in result.children or ())
            elif not intermediate:
                raise ResultTimeout(f"{result.id} has not ended, so its children are not known yet.")

    def collect(self, intermediate: bool = False, **kwargs: Any) -> "Iterator[tuple[AsyncResult | GroupResult, Any]]":
        """Yield ``(result, value)`` for the results of `iterdeps`; keyword arguments go to `get`."""
        for _, result in self.iterdeps(intermediate):
            yield result, result.get(**kwargs)

    def forget(self) -> None:
        """Delete the result."""
        self.backend.forget(self.id)

    def as_tuple(self) -> tuple[Any, Any]:
        """Return ``((id, parent), None)``, from which `result_from_tuple` makes the handle again."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None


class ResultSet:
    """The results of several tasks, in order."""

    def __init__(self, results: "Iterable[AsyncResult | GroupResult]", backend: ResultBackend | None = None) -> None:
        self.results = list(results)
        self._backend = backend

    @property
    def backend(self) -> ResultBackend:
        """Where the results are stored."""
        if self._backend is not None:
            return self._backend
        if not self.results:
            raise ConfigurationError("An empty set of results has no backend: give it one.")
        return self.results[0].backend

    def __iter__(self) -> "Iterator[AsyncResult | GroupResult]":
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> "AsyncResult | GroupResult":
        return self.results[index]

    def __eq__(self, other: object) -> bool:
        return other.results == self.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by its results, which change

    def add(self, result: "AsyncResult | GroupResult") -> None:
        """Append a result that is not in the set yet."""
        if result not in self.results:
            self.results.append(result)

    def successful(self) -> bool:
        """Return whether all have succeeded."""
        return all(result.successful() for result in self.results)

    def failed(self) -> bool:
        """Return whether any has failed."""
        return any(result.failed() for result in self.results)

    def waiting(self) -> bool:
        """Return whether any has not ended."""
        return any(not result.ready() for result in self.results)

    def ready(self) -> bool:
        """Return whether all have ended."""
        return all(result.ready() for result in self.results)

    def completed_count(self) -> int:
        """Return how many tasks have succeeded, those in groups included."""
        return sum(
            result.completed_count() if isinstance(result, ResultSet) else int(result.successful())
            for result in self.results
        )

    def forget(self) -> None:
        """Delete all results."""
        for result in self.results:
            result.forget()

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        on_interval: OnInterval | None = None,
    ) -> list[Any]:
        """Wait for all and return the list of results, in order; raise the first failure in that order.

        ``callback(id, result)`` is called for each. Raises `ResultTimeout` after ``timeout`` seconds in all.
        """
        until = None if timeout is None else time.monotonic() + timeout
        values = []
        for result in self.results:
            values.append(result.get(_left(until), propagate, interval, on_interval=on_interval))
            if callback is not None:
                callback(str(result.id), values[-1])
        return values

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
    ) -> list[Any]:
        """Do as `join` does, but read many results at once. ``on_message(meta)`` is called for each."""
        until = None if timeout is None else time.monotonic() + timeout
        values: dict[str, Any] = {}
        for id_, meta in self.iter_native(timeout, interval, on_message, on_interval):
            values[id_] = settle(id_, meta, propagate, callback)
        return [
            each.join_native(_left(until), propagate, interval) if isinstance(each, ResultSet) else values[each.id]
            for each in self.results
        ]

    get = join

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``(id, meta)`` of the tasks as they end; groups inside are not entered."""
        return self.backend.iter_native(
            self, timeout=timeout, interval=interval, on_message=on_message, on_interval=on_interval
        )

    def iterate(self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5) -> Iterator[Any]:
        """Yield the results of the tasks in the order in which they end."""
        for id_, meta in self.iter_native(timeout, interval):
            yield settle(id_, meta, propagate)

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> None:
        """Raise the first failure among the results that are ready."""
        for result in self.results:
            result.maybe_throw(propagate=propagate, callback=callback)


class GroupResult(ResultSet):
    """The results of a group: a set with an id, by which it can be saved."""

    def __init__(
        self,
        id: str,
        results: "Iterable[AsyncResult | GroupResult]" = (),
        backend: ResultBackend | None = None,
        parent: "AsyncResult | GroupResult | None" = None,
    ) -> None:
        if not id:
            raise ValueError("A group needs an id.")
        super().__init__(results, backend)
        self.id = str(id)
        self.parent = parent

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(str(result.id) for result in self.results)}]>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return (self.id, self.results) == (other.id, other.results)
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    @property
    def children(self) -> "list[AsyncResult | GroupResult]":
        """The results of the group."""
        return self.results

    def save(self, backend: ResultBackend | None = None) -> "GroupResult":
        """Store the ids of the group, so that `restore` finds them in another process."""
        (backend or self.backend).save_group(self.id, self)
        return self

    def delete(self, backend: ResultBackend | None = None) -> None:
        """Delete what `save` stored. The results themselves stay."""
        (backend or self.backend).delete_group(self.id)

    @classmethod
    def restore(cls, id: str, backend: ResultBackend) -> "GroupResult | None":
        """Return a group that was saved, or None."""
        group: GroupResult | None = backend.restore_group(id)
        return group

    def as_tuple(self) -> tuple[Any, Any]:
        """Return ``((id, parent), [results])``."""
        parent = self.parent.as_tuple() if self.parent is not None else None
        return (self.id, parent), [result.as_tuple() for result in self.results]


def _left(until: float | None) -> float | None:
    return None if until is None else max(until - time.monotonic(), 0.0)


def result_from_tuple(tree: Any, backend: ResultBackend | None = None) -> AsyncResult | GroupResult:
    """Return the handle that ``as_tuple()`` took apart. Lists are taken for tuples: json makes lists of them."""
    if isinstance(tree, AsyncResult | GroupResult):
        return tree
    (id_, parent_tree), children = tree
    parent = result_from_tuple(parent_tree, backend) if parent_tree else None
    if children is None:
        return AsyncResult(id_, backend, parent)
    return GroupResult(id_, [result_from_tuple(child, backend) for child in children], backend, parent)


def tasks_in(result: AsyncResult | GroupResult) -> Iterator[AsyncResult]:
    """Yield the tasks of a result in order, those of groups inside as well."""
    if isinstance(result, GroupResult):
        for part in result.results:
            yield from tasks_in(part)
    else:
        yield result


def count_tasks(result: AsyncResult | GroupResult) -> int:
    """Return how many tasks there are in a result."""
    return sum(1 for _ in tasks_in(result))
