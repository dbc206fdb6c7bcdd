"""What every result backend does, wherever it stores.

The names and their meaning are those of Celery's base module. Encoding, the ends of tasks and waiting have files of
their own; a backend over get and set is in keyvalue.py.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Final, NoReturn, cast

from lmdbresults import serialization, states
from lmdbresults.app import App, current_request
from lmdbresults.backends import chord_unlock as unlock
from lmdbresults.backends.asynchronous import AsyncWaiting
from lmdbresults.backends.cache import ResultCache
from lmdbresults.backends.encoding import Encoding, Meta
from lmdbresults.backends.event_loop import Desks
from lmdbresults.backends.marking import Endings
from lmdbresults.backends.waiting import Waiting
from lmdbresults.errors import ResultTimeout
from lmdbresults.options import require_expiry
from lmdbresults.results import GroupResult

__all__ = ["Backend", "BaseBackend", "DisabledBackend"]


#: What stands between the user and the host of a URL.
_PASSWORD: Final = re.compile(r"(?<=://)([^:@/?#]*:)[^/?#]*(?=@)")


class Backend(Encoding, Endings):
    """Settings and results. Where they go is left to `_store_result` and its like, which a subclass defines."""

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    TimeoutError: ClassVar[type[BaseException]] = ResultTimeout

    subpolling_interval: float | None = None
    supports_native_join = False
    supports_autoexpire = False
    persistent = True
    retry_policy: ClassVar[Mapping[str, float]] = {
        "max_retries": 20,
        "interval_start": 0,
        "interval_step": 1,
        "interval_max": 1,
    }

    def __init__(
        self,
        app: Any = None,
        serializer: str | None = None,
        max_cached_results: int | None = None,
        accept: Iterable[str] | None = None,
        expires: float | timedelta | None = None,
        expires_type: Callable[[float], Any] | None = None,
        url: str | None = None,
    ) -> None:
        self.app = App() if app is None else app
        if getattr(self.app, "backend", self) is None:
            self.app.backend = self
        conf = self.app.conf
        self.serializer: str = serializer or conf.result_serializer
        self.compression: str | None = getattr(conf, "result_compression", None)
        serialization.dumps(None, self.serializer, self.compression)  # an unknown name is refused here, not later
        self.accept = serialization.accepted_types(
            _first(accept, getattr(conf, "result_accept_content", None), conf.accept_content)
        )
        self._cache = ResultCache(_first(max_cached_results, conf.result_cache_max))
        self.expires = self.prepare_expires(expires, expires_type)
        self.persistent = self.prepare_persistent()
        self.url = url
        self._desks = Desks()

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_again, (type(self), self.app, self._settings())

    def _settings(self) -> dict[str, Any]:
        """Return the arguments, but for the app, that make such a backend in another process."""
        return {
            "serializer": self.serializer,
            "max_cached_results": self._cache.limit,
            "accept": tuple(self.accept),
            "expires": self.expires or 0,
            "url": self.url,
        }

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL, its password hidden unless asked for."""
        url = self.url or ""
        return url if include_password else _PASSWORD.sub(r"\1**", url)

    # -- settings ---------------------------------------------------------------------------------------------------

    def prepare_expires(
        self,
        value: float | timedelta | None,
        type: Callable[[float], Any] | None = None,  # noqa: A002 - as in Celery
    ) -> Any:
        """Return seconds, converted by ``type``: of the setting for None, of a timedelta. 0 and None are never.

        Raises `ConfigurationError` for a time that is negative or no number.
        """
        expires = self.app.conf.result_expires if value is None else value
        if isinstance(expires, timedelta):
            expires = expires.total_seconds()
        require_expiry("result_expires" if value is None else "expires", expires)
        return type(expires) if type is not None and expires is not None else expires

    def prepare_persistent(self, enabled: bool | None = None) -> bool:
        """Return the argument, else the setting, else what this kind of backend does."""
        return bool(_first(enabled, self.app.conf.result_persistent, self.persistent))

    # -- results ----------------------------------------------------------------------------------------------------

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None
    ) -> Any:
        """Store a result and return it as it was encoded. A SUCCESS that is there already is left as it is."""
        encoded = self.encode_result(result, state)
        self._store_result(task_id, encoded, state, traceback, request)
        return encoded

    def store_many(self, results: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Store several results, each given as the arguments of `store_result`; return what that returns for each."""
        return [self.store_result(*arguments) for arguments in results]

    def get_task_meta(self, task_id: str, cache: bool = True) -> Meta:
        """Return all that is known of a task; of one that is unknown, that it is PENDING."""
        found: Meta | None = self._cache.get(task_id) if cache else None
        if found is not None:
            return found
        meta = self._get_task_meta_for(task_id)
        status = meta["status"]
        if status == states.PENDING:
            self._ensure_not_eager()
        elif cache and status == states.SUCCESS:
            self._cache[task_id] = meta
        return meta

    def get_state(self, task_id: str) -> str:
        """Return the state of a task."""
        return str(self.get_task_meta(task_id)["status"])

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        """Return the result of a task, or its exception."""
        return self.get_task_meta(task_id).get("result")

    def get_traceback(self, task_id: str) -> str | None:
        """Return where a task failed."""
        return self.get_task_meta(task_id).get("traceback")

    def get_children(self, task_id: str) -> Any:
        """Return the tuples of the results of the tasks that a task has sent."""
        return self.get_task_meta(task_id).get("children")

    def reload_task_result(self, task_id: str) -> None:
        """Read a result past the cache, and into it once it is SUCCESS: any other state may still change."""
        self._cache.discard(task_id)
        self.get_task_meta(task_id)

    def is_cached(self, task_id: str) -> bool:
        """Return whether a result is in the cache."""
        return task_id in self._cache

    def forget(self, task_id: str) -> None:
        """Drop a result from the cache and from the store."""
        self._cache.discard(task_id)
        self._forget(task_id)

    def save_group(self, group_id: str, result: GroupResult) -> GroupResult:
        """Store the ids of a group."""
        self._cache.discard(group_id)
        self._save_group(group_id, result)
        return result

    def get_group_meta(self, group_id: str, cache: bool = True) -> Meta | None:
        """Return ``{"result": GroupResult}`` for a group that was saved, or None."""
        found: Meta | None = self._cache.get(group_id) if cache else None
        if found is not None:
            return found
        self._ensure_not_eager()
        meta = self._restore_group(group_id)
        if cache and meta is not None:
            self._cache[group_id] = meta
        return meta

    def restore_group(self, group_id: str, cache: bool = True) -> GroupResult | None:
        """Return a group that was saved, or None."""
        meta = self.get_group_meta(group_id, cache=cache)
        return meta["result"] if meta else None

    def reload_group_result(self, group_id: str) -> None:
        """Read a group past the cache, and into it."""
        self._cache.discard(group_id)
        self.get_group_meta(group_id)

    def delete_group(self, group_id: str) -> None:
        """Drop a group from the cache and from the store."""
        self._cache.discard(group_id)
        self._delete_group(group_id)

    def current_task_children(self, request: Any = None) -> list[Any] | None:
        """Return the tuples of the results that the running task has made; None if no task runs."""
        request = request or current_request()
        return None if request is None else [result.as_tuple() for result in request.children or ()]

    def _ensure_not_eager(self) -> None:
        conf = self.app.conf
        if getattr(conf, "task_always_eager", False) and not getattr(conf, "task_store_eager_result", False):
            warnings.warn(
                "Tasks run eagerly, and their results are not stored: there is nothing to read. "
                "Set task_store_eager_result to store them.",
                RuntimeWarning,
                stacklevel=3,
            )

    # -- what a subclass defines -------------------------------------------------------------------------------------

    def _store_result(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> None:
        raise self._missing("_store_result")

    def _get_task_meta_for(self, task_id: str) -> Meta:
        raise self._missing("_get_task_meta_for")

    def _forget(self, task_id: str) -> None:
        raise self._missing("_forget")

    def get_many(self, task_ids: Iterable[str], *args: Any, **kwargs: Any) -> Iterator[tuple[str, Meta]]:
        raise self._missing("get_many")

    def _save_group(self, group_id: str, result: GroupResult) -> None:
        raise self._missing("_save_group")

    def _restore_group(self, group_id: str) -> Meta | None:
        raise self._missing("_restore_group")

    def _delete_group(self, group_id: str) -> None:
        raise self._missing("_delete_group")

    def _missing(self, operation: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} does not implement {operation}().")

    # -- hooks -------------------------------------------------------------------------------------------------------

    def cleanup(self) -> None:
        """Remove what has expired, where the store does not do so by itself."""

    def process_cleanup(self) -> None:
        """Close what a worker process holds; the next use opens it again."""

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """Return what a message that sends a task has to carry: nothing."""
        return {}

    def ensure_chords_allowed(self) -> None:
        """Raise if this backend cannot do chords."""

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Let a chord that is running wait for one more part."""
        raise self._missing("add_to_chord")

    def on_chord_part_return(self, request: Any, state: str, result: Any) -> None:
        """Take the part of a chord that a task is; the last one dispatches the body."""

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Say how many parts a chord waits for."""

    def apply_chord(self, header_result_args: tuple[Any, ...], body: Any, **kwargs: Any) -> None:
        """Begin a chord, before its header is dispatched. ``header_result_args`` are those of `GroupResult`."""
        self.ensure_chords_allowed()
        group_id, results = header_result_args[:2]
        self.fallback_chord_unlock(GroupResult(group_id, results, cast(BaseBackend, self)), body, **kwargs)

    def fallback_chord_unlock(self, header_result: GroupResult, body: Any, countdown: float = 1, **kwargs: Any) -> None:
        """Dispatch a task that looks at the header every ``countdown`` seconds, until it is ready, and runs the body.

        For a store that cannot count. The task is `lmdbresults.backends.chord_unlock.NAME`; every app that makes a
        backend has it.
        """
        self.app.dispatch(unlock.signature(self.app, header_result, body, countdown))


class BaseBackend(Backend, Waiting, AsyncWaiting):
    """A backend whose waiters look again and again."""


class DisabledBackend(BaseBackend):
    """The backend of those who want no results: storing does nothing, asking raises."""

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


def _make_again(kind: type[Backend], app: Any, settings: Mapping[str, Any]) -> Backend:
    return kind(app=app, **settings)


def _first(*choices: Any) -> Any:
    """Return the first that is not None, or None."""
    return next((choice for choice in choices if choice is not None), None)
