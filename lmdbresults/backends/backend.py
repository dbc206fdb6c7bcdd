"""The part of a backend that stores and reads results. The names are those of Celery's base module."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Final

from lmdbresults import states
from lmdbresults.app import App, current_request
from lmdbresults.backends.cache import ResultCache
from lmdbresults.backends.encoding import STORED_OTHERWISE, Codec
from lmdbresults.errors import ResultTimeout
from lmdbresults.options import require_expiry
from lmdbresults.protocols import Meta
from lmdbresults.results import GroupResult
from lmdbresults.serialization import MAX_DECODED_BYTES

__all__ = ["Backend"]

#: The user and the password in a URL.
_PASSWORD: Final = re.compile(r"(?<=://)([^:@/?#]*:)[^/?#]*(?=@)")


class Backend:
    """Settings, results and groups. Where they are stored is up to a subclass: see `_store_result` and the like."""

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES
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
        max_decoded_bytes: int | None = None,
    ) -> None:
        self.app = App() if app is None else app
        if getattr(self.app, "backend", self) is None:
            self.app.backend = self
        conf = self.app.conf
        accept = _first(accept, getattr(conf, "result_accept_content", None), conf.accept_content)
        self.codec = Codec(
            serializer or conf.result_serializer,
            accept,
            getattr(conf, "result_compression", None),
            _first(max_decoded_bytes, getattr(conf, "max_decoded_bytes", None), MAX_DECODED_BYTES),
        )
        self._cache = ResultCache(_first(max_cached_results, conf.result_cache_max))
        self.expires = self.prepare_expires(expires, expires_type)
        self.persistent = self.prepare_persistent()
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.app, self._settings())

    def _settings(self) -> dict[str, Any]:
        """Return the arguments, besides the app, that make such a backend in another process."""
        return {
            "serializer": self.serializer,
            "max_cached_results": self._cache.limit,
            "accept": tuple(self.accept),
            "expires": self.expires or 0,
            "url": self.url,
            "max_decoded_bytes": self.codec.max_bytes,
        }

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL, its password hidden unless asked for."""
        url = self.url or ""
        return url if include_password else _PASSWORD.sub(r"\1**", url)

    # -- settings ----------------------------------------------------------------------------------------------------

    def prepare_expires(
        self,
        value: float | timedelta | None,
        type: Callable[[float], Any] | None = None,  # noqa: A002 - as in Celery
    ) -> Any:
        """Return seconds, converted by ``type``. None is the setting; 0 means that results never expire.

        Raises `ConfigurationError` for a time that is negative or not a number.
        """
        expires = self.app.conf.result_expires if value is None else value
        if isinstance(expires, timedelta):
            expires = expires.total_seconds()
        require_expiry("result_expires" if value is None else "expires", expires)
        return type(expires) if type is not None and expires is not None else expires

    def prepare_persistent(self, enabled: bool | None = None) -> bool:
        """Return the argument, else the setting, else what this kind of backend does."""
        return bool(_first(enabled, self.app.conf.result_persistent, self.persistent))

    # -- encoding ----------------------------------------------------------------------------------------------------

    @property
    def serializer(self) -> str:
        """The name of the serializer."""
        return self.codec.serializer

    @property
    def accept(self) -> frozenset[str]:
        """The content types that are decoded."""
        return self.codec.accept

    def encode_result(self, result: Any, state: str) -> Any:
        """Return the result of a state in the form in which it is stored."""
        return self.codec.encode_result(result, state)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """Return an exception in the form in which it is stored: itself for pickle, else a mapping of its parts."""
        return self.codec.prepare_exception(exc, serializer)

    def prepare_value(self, result: Any) -> Any:
        """Return a result in the form in which it is stored: a result handle as a tuple, unless it is pickled."""
        return self.codec.prepare_value(result)

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """Return the exception that `prepare_exception` took apart. Raises `SecurityError` for any other class."""
        return self.codec.exception_to_python(exc)

    def meta_from_decoded(self, meta: Meta) -> Meta:
        """Turn the exception in a meta into an instance; return the meta."""
        return self.codec.meta_from_decoded(meta)

    def encode(self, data: Any) -> bytes:
        """Return data as bytes that name their content type. Raises `EncodeError`."""
        return self.codec.encode(data)

    def decode(self, payload: bytes | None) -> Any:
        """Return what `encode` encoded, here or elsewhere. Raises `ContentDisallowed` or `DecodeError`."""
        return self.codec.decode(payload)

    # -- results -----------------------------------------------------------------------------------------------------

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None
    ) -> Any:
        """Store a result and return it in the form in which it is stored. A SUCCESS is never overwritten."""
        if isinstance(result, STORED_OTHERWISE):
            result = self.encode_result(result, state)
        self._store_result(task_id, result, state, traceback, request)
        return result

    def store_many(self, results: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Store several results, each given as the arguments of `store_result`; return what that returns for each."""
        return [self.store_result(*arguments) for arguments in results]

    def get_task_meta(self, task_id: str, cache: bool = True) -> Meta:
        """Return all that is known of a task. A task that is unknown is PENDING."""
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
        """Return the traceback of a task that failed."""
        return self.get_task_meta(task_id).get("traceback")

    def get_children(self, task_id: str) -> Any:
        """Return the results of the tasks that a task has sent, as tuples."""
        return self.get_task_meta(task_id).get("children")

    def reload_task_result(self, task_id: str) -> None:
        """Read a result past the cache, and into it if it is SUCCESS: any other state may still change."""
        self._cache.discard(task_id)
        self.get_task_meta(task_id)

    def is_cached(self, task_id: str) -> bool:
        """Return whether a result is in the cache."""
        return task_id in self._cache

    def forget(self, task_id: str) -> None:
        """Drop a result from the cache and from the store."""
        self._cache.discard(task_id)
        self._forget(task_id)

    def current_task_children(self, request: Any = None) -> list[Any] | None:
        """Return the results that the running task has made, as tuples; None if no task runs."""
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

    # -- groups ------------------------------------------------------------------------------------------------------

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

    # -- where a subclass stores -------------------------------------------------------------------------------------

    def _store_result(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> None:
        raise self._missing("_store_result")

    def _get_task_meta_for(self, task_id: str) -> Meta:
        raise self._missing("_get_task_meta_for")

    def _forget(self, task_id: str) -> None:
        raise self._missing("_forget")

    def _save_group(self, group_id: str, result: GroupResult) -> None:
        raise self._missing("_save_group")

    def _restore_group(self, group_id: str) -> Meta | None:
        raise self._missing("_restore_group")

    def _delete_group(self, group_id: str) -> None:
        raise self._missing("_delete_group")

    def _missing(self, operation: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} does not implement {operation}().")


def _restored(kind: type[Backend], app: Any, settings: Mapping[str, Any]) -> Backend:
    return kind(app=app, **settings)


def _first(*choices: Any) -> Any:
    """Return the first that is not None, or None."""
    return next((choice for choice in choices if choice is not None), None)
