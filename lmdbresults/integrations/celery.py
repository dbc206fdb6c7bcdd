"""The Celery result backend: Celery's own key-value backend, over an `LMDBStore`.

``result_backend = "lmdb:///var/lib/app/results.lmdb"`` is all it takes; Celery finds the class by its entry point. It
replaces what has to be faster or safer, and inherits the rest, so that what Celery adds later works too.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from celery import states
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import ImproperlyConfigured
from celery.result import GroupResult
from kombu.compression import compress, decompress
from kombu.serialization import dumps, loads
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from lmdbresults.errors import ConfigurationError, StoreFull, TooManyReaders
from lmdbresults.record import SUCCESS_PREFIX, Payload, TaskRecord, pack_payload, unpack_payload
from lmdbresults.store import LMDBStore, open_store

__all__ = ["LMDBBackend"]


class LMDBBackend(KeyValueStoreBackend):
    """Task results in one LMDB file that every process on the machine opens.

    ``url`` is ``lmdb:///absolute/path`` or ``lmdb://relative/path``, with options such as ``?durability=none``; see
    `lmdbresults.options.Options`. Raises ``ImproperlyConfigured`` for a bad URL, an `OpenError` if the file cannot be
    opened: when the backend is made, not when the first result is lost.
    """

    implements_incr = True
    supports_autoexpire = True
    supports_failure_expires = True
    supports_result_compression = True
    #: Celery's native join waits for the parts of a nested group without a timeout: a worker that finishes a chord
    #: could hang for ever. The plain join does not.
    supports_native_join = False

    def __init__(self, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(url=url, **kwargs)
        self.thread_safe = True  # one backend for the application, not one a thread (or greenlet)
        self._failure_expires = self._prepared("result_failure_expires")
        for name, expires in (("result_expires", self.expires), ("result_failure_expires", self._failure_expires)):
            if expires is not None and expires < 0:
                raise ImproperlyConfigured(f"{name} is {expires}: give seconds, or None or 0 for results that stay.")
        self.store = self._open(url)

    def _open(self, url: str | None) -> LMDBStore:
        if not url:
            raise ImproperlyConfigured('The LMDB result backend needs a file: result_backend = "lmdb:///path/to/file".')
        try:
            return open_store(url)
        except ConfigurationError as error:
            raise ImproperlyConfigured(str(error)) from error

    def _prepared(self, setting: str) -> float | None:
        value = self.app.conf.get(setting)
        seconds: float | None = self.expires if value is None else self.prepare_expires(value)
        return seconds

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "url": self.url, "expires": self.expires})

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL as it was given; it never holds a password."""
        url: str = self.url
        return url

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Return whether waiting may help: for room, or for a slot in the table of readers."""
        return isinstance(exc, StoreFull | TooManyReaders)

    # -- the store, by the names that Celery's base class uses -------------------------------------------------

    @property
    def client(self) -> LMDBStore:
        """The open store. Celery 5.3 deletes a chord's counter by this name."""
        return self.store

    def get(self, key: bytes) -> bytes | None:
        return self.store.get(key)

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return self.store.mget(keys)

    def set(self, key: bytes, value: bytes | str) -> None:
        self.store.set(key, ensure_bytes(value), self.expires)

    def _set_with_state(self, key: bytes, value: bytes | str, state: str) -> None:
        self.store.set(key, ensure_bytes(value), self._expires_in(state))

    def delete(self, key: bytes) -> None:
        self.store.delete(key)

    def incr(self, key: bytes) -> int:
        # The deadline comes with the count: a worker killed before Celery's expire() leaves no counter behind.
        return self.store.incr(key, ttl=getattr(self, "chord_expires", self.expires))

    def expire(self, key: bytes, value: float | None) -> None:
        self.store.expire(key, value)

    def cleanup(self) -> None:
        """Remove what has expired. Writing does so along the way; this is for a file that nobody writes to."""
        self.store.sweep()

    def _expires_in(self, state: str) -> float | None:
        return self._failure_expires if state == states.FAILURE else self.expires

    # -- results -------------------------------------------------------------------------------------------------

    def _store_result(
        self, task_id: Any, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store a result unless there is a SUCCESS already, which a late duplicate must not overwrite."""
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        self.store.set(
            self.get_key_for_task(task_id),
            TaskRecord.from_meta(meta, self._payload).pack(),
            self._expires_in(state),
            unless_prefix=SUCCESS_PREFIX,
        )
        return result

    def _get_task_meta_for(self, task_id: Any) -> dict[str, Any]:
        data = self.store.get(self.get_key_for_task(task_id))
        if data is None:
            return {"status": states.PENDING, "result": None}
        return {**self.decode_result(data), "task_id": bytes_to_str(task_id)}

    def _mget_to_results(
        self,
        values: Iterable[bytes | None],
        keys: Iterable[Any],
        READY_STATES: Any = states.READY_STATES,  # noqa: N803
    ) -> dict[str, dict[str, Any]]:
        found = {}
        for task_id, data in zip(keys, values, strict=True):
            if data is not None and TaskRecord.unpack(data).state in READY_STATES:
                name = bytes_to_str(task_id)
                found[name] = {**self.decode_result(data), "task_id": name}
        return found

    def decode_result(self, payload: bytes) -> dict[str, Any]:
        """Return the meta in a stored record, its exception brought back to life."""
        meta: dict[str, Any] = self.meta_from_decoded(TaskRecord.unpack(payload).to_meta(self._decoded))
        return meta

    # -- payloads: they say themselves how they are encoded, so a reader need not be configured like the worker -----

    def encode(self, data: Any) -> bytes:
        return pack_payload(self._payload(data))

    def decode(self, payload: bytes | None) -> Any:
        if payload is None:
            return None
        unpacked = unpack_payload(payload)
        return self._decoded(unpacked, unpacked.body)

    def _payload(self, data: Any, extra: Mapping[str, Any] | None = None) -> Payload:
        compression = None
        body = self._encoded(data)
        extra_body = None if extra is None else self._encoded(extra)
        method = getattr(self, "compression", None)  # since Celery 5.7
        if method:
            body, compression = compress(body, method)
            extra_body = extra_body and compress(extra_body, method)[0]
        return Payload(self.content_type, self.content_encoding, compression, body, extra_body)

    def _encoded(self, data: Any) -> bytes:
        body: bytes = ensure_bytes(dumps(data, serializer=self.serializer)[2])
        return body

    def _decoded(self, payload: Payload, body: bytes) -> Any:
        if payload.compression:
            body = decompress(body, payload.compression)
        return loads(body, payload.content_type, payload.content_encoding, accept=self.accept)

    # -- chords ----------------------------------------------------------------------------------------------------

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a part of a chord; the last one joins the header and sends the body.

        Celery counts a group inside the header as one part. It has as many as it has tasks.
        """
        if request.group and request.chord.get("chord_size") is None:
            header = self.restore_group(request.group)
            if header is not None:
                request.chord["chord_size"] = _count_tasks(header)
        super().on_chord_part_return(request, state, result, **kwargs)


def _count_tasks(result: Any) -> int:
    if isinstance(result, GroupResult):
        return sum(_count_tasks(part) for part in result.results)
    return 1
