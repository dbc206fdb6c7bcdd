"""The Celery result backend: Celery's own key-value backend, over an `LMDBStore`.

``result_backend = "lmdb:///var/lib/app/results.lmdb"`` is all it takes; Celery finds the class by its entry point. It
replaces what has to be faster or safer, and inherits the rest, so that what Celery adds later works too.
"""

import os
from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo
from typing import Any, Final

from celery import VERSION, states
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import ImproperlyConfigured
from celery.utils.serialization import get_pickled_exception
from kombu.compression import compress, decompress
from kombu.serialization import dumps, loads, registry
from kombu.utils import json as kombu_json
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from lmdbresults.errors import ConfigurationError, StoreFull, TooManyReaders
from lmdbresults.integrations.celery.chords import CeleryChords, ChordsMixin
from lmdbresults.integrations.celery.consumer import ResultConsumer, WaitingMixin
from lmdbresults.options import require_expiry
from lmdbresults.record import (
    RECORD_VERSION,
    Payload,
    TaskRecord,
    new_payload,
    pack_fields,
    pack_payload,
    unpack_payload,
)
from lmdbresults.serialization import json_decoder, json_encoder
from lmdbresults.store import LMDBStore, open_store

__all__ = ["LMDBBackend"]


_JSON: Final = "application/json"
#: kombu makes a new encoder, and a new decoder, for every value. These are the same ones, made once.
_encode_json = json_encoder(kombu_json.JSONEncoder().default)
_decode_json = json_decoder(kombu_json.object_hook)
#: What Celery's meta holds, when a result belongs to no group and ``result_extended`` is off.
_PLAIN_META: Final = {"status", "result", "traceback", "children", "date_done"}


class LMDBBackend(ChordsMixin, WaitingMixin, KeyValueStoreBackend):
    """Task results in one LMDB file that every process on the machine opens.

    ``url`` is ``lmdb:///absolute/path`` or ``lmdb://relative/path``, with options such as ``?durability=none``; see
    `lmdbresults.options.Options`. Raises ``ImproperlyConfigured`` for a bad URL, an `OpenError` if the file cannot be
    opened: when the backend is made, not when the first result is lost.
    """

    implements_incr = True
    supports_autoexpire = True
    supports_failure_expires = True
    supports_result_compression = True
    #: Groups are joined by `iter_native`.
    supports_native_join = True

    def __init__(self, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(url=url, **kwargs)
        self.thread_safe = True  # one backend for the application, not one a thread (or greenlet)
        self._failure_expires = self._prepared("result_failure_expires")
        _require_expiry("result_expires", self.expires)
        _require_expiry("result_failure_expires", self._failure_expires)
        #: Whether nobody has put another JSON in the place of kombu's.
        self._reads_kombu_json = registry._decoders.get(_JSON) is kombu_json.loads
        self._meta_clock = self._find_meta_clock()
        self.store = self._open(url)
        self.result_consumer = ResultConsumer(self, self.app)
        self.chords = CeleryChords(self)

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

    def close(self) -> None:
        """Close the store, and end all waiting before. Celery never does."""
        self.result_consumer.stop()
        self.store.close()

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Return whether waiting may help: for room, or for a slot in the table of readers."""
        return isinstance(exc, StoreFull | TooManyReaders)

    # -- the store, by the names that Celery's base class uses -------------------------------------------------

    @property
    def client(self) -> LMDBStore:
        """The open store. Celery 5.3 deletes a chord's counter by this name."""
        return self.store

    def get_key_for_task(self, task_id: Any, key: str = "") -> bytes:
        if type(task_id) is str and task_id and not key:  # nearly always; Celery's way handles everything else
            return self.task_keyprefix + task_id.encode()  # type: ignore[no-any-return]
        return super().get_key_for_task(task_id, key)  # type: ignore[no-any-return]

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
        self.chords.recover(now=True)

    def flush(self) -> None:
        """Return once everything that was stored so far survives a loss of power."""
        self.store.flush()

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a copy of the store to a file, while others go on; see `lmdbresults.store.base.Store.backup`."""
        self.store.backup(path, overwrite=overwrite)

    def _expires_in(self, state: str) -> float | None:
        return self._failure_expires if state == states.FAILURE else self.expires

    # -- results -------------------------------------------------------------------------------------------------

    def store_result(
        self, task_id: Any, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        if self.always_retry:
            return super().store_result(task_id, result, state, traceback, request, **kwargs)
        encoded = self.encode_result(result, state)
        self._store_result(task_id, encoded, state, traceback, request, **kwargs)
        return encoded

    def _store_result(
        self, task_id: Any, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store a result unless there is a SUCCESS already, which a late duplicate must not overwrite."""
        record = self._record(result, state, traceback, request)
        self._put_record(task_id, self.get_key_for_task(task_id), record, self._expires_in(state), state)
        return result

    def _record(self, result: Any, state: str, traceback: str | None, request: Any) -> bytes:
        """Return the record of a result, whose fields are what Celery's meta holds.

        Celery looks up ``result_extended`` and converts the time between zones for every result, which together cost
        as much as storing it. So it makes the meta only where that is not known before.
        """
        if self._meta_clock is None:
            meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
            return TaskRecord.from_meta(meta, self._payload).pack()
        date_done = datetime.now(self._meta_clock).isoformat() if state in self.READY_STATES else None
        group_id = parent_id = None
        if request:
            group_id, parent_id = getattr(request, "group", None) or None, getattr(request, "parent_id", None) or None
        lineage = (group_id, parent_id, self.current_task_children(request))
        return pack_fields(
            (RECORD_VERSION, state, date_done, None, None, None, None, *lineage, traceback, self._payload(result))
        )

    def _find_meta_clock(self) -> tzinfo | None:
        """Return the time zone of ``date_done``, if the installed Celery puts into a meta what `_record` knows."""
        if self.app.conf.find_value_for_key("extended", "result"):
            return None
        meta = self._get_result_meta(None, states.SUCCESS, None, None)
        if meta.keys() != _PLAIN_META or VERSION < (5, 5):  # which wrote the date in UTC, with or without saying so
            return None
        zone: tzinfo = self.app.timezone
        return zone

    def get_task_meta(self, task_id: Any, cache: bool = True) -> dict[str, Any]:
        """Return the meta of a task.

        Celery first warns if tasks run eagerly without being stored; here it does so if nothing is found, as finding
        something shows that it was stored, and looking into the settings costs more than reading the result.
        """
        meta: dict[str, Any] | None = self._cache.get(task_id) if cache else None
        if meta is not None:
            return meta
        if self.always_retry:
            retried: dict[str, Any] = super().get_task_meta(task_id, cache)
            return retried
        meta = self._get_task_meta_for(task_id)
        if meta["status"] == states.PENDING:
            self._ensure_not_eager()
        elif cache and meta["status"] == states.SUCCESS:
            self._cache[task_id] = meta
        return meta

    def _get_task_meta_for(self, task_id: Any) -> dict[str, Any]:
        data = self.store.get(self.get_key_for_task(task_id))
        if data is None:
            return {"status": states.PENDING, "result": None}
        return self.meta_in(task_id, TaskRecord.unpack(data))

    def _mget_to_results(
        self,
        values: Iterable[bytes | None],
        keys: Iterable[Any],
        READY_STATES: Any = states.READY_STATES,  # noqa: N803
    ) -> dict[str, dict[str, Any]]:
        found = {}
        for task_id, data in zip(keys, values, strict=True):
            record = None if data is None else TaskRecord.unpack(data)
            if record is not None and record.state in READY_STATES:
                meta = self.meta_in(task_id, record)
                found[meta["task_id"]] = meta
        return found

    def meta_in(self, task_id: Any, record: TaskRecord) -> dict[str, Any]:
        """Return the meta of a task, whose record this is, its exception brought back to life."""
        meta: dict[str, Any] = self.meta_from_decoded(record.to_meta(self._decoded))
        # The record does not repeat what is in its key.
        meta["task_id"] = task_id if type(task_id) is str else bytes_to_str(task_id)
        return meta

    def decode_result(self, payload: bytes) -> dict[str, Any]:
        """Return the meta in a stored record, its exception brought back to life."""
        meta: dict[str, Any] = self.meta_from_decoded(TaskRecord.unpack(payload).to_meta(self._decoded))
        return meta

    def exception_to_python(self, exc: Any) -> Any:
        """Return an exception as an instance; also one that a writer with pickle had to wrap."""
        return super().exception_to_python(get_pickled_exception(exc) if isinstance(exc, BaseException) else exc)

    # -- payloads: they say themselves how they are encoded, so a reader need not be configured like the worker -----

    def encode(self, data: Any) -> bytes:
        return pack_payload(self._payload(data))

    def decode(self, payload: bytes | None) -> Any:
        if payload is None:
            return None
        return self._decoded(unpack_payload(payload))

    def _payload(self, data: Any, extra: Mapping[str, Any] | None = None) -> Payload:
        body, method = self._encoded(data), getattr(self, "compression", None)  # since Celery 5.7
        if extra is None and not method:
            return new_payload((self.content_type, self.content_encoding, None, body, None))
        compression = None
        extra_body = None if extra is None else self._encoded(extra)
        if method:
            body, compression = compress(body, method)
            extra_body = extra_body and compress(extra_body, method)[0]
        return Payload(self.content_type, self.content_encoding, compression, body, extra_body)

    def _encoded(self, data: Any) -> bytes:
        if self.encoder is kombu_json.dumps:
            try:
                return _encode_json(data)
            except Exception:  # noqa: S110 - kombu fails as well, and with the error that Celery expects
                pass
        body: bytes = ensure_bytes(dumps(data, serializer=self.serializer)[2])
        return body

    def _decoded(self, payload: Payload) -> Any:
        content_type, content_encoding, compression, body, _ = payload
        if compression:
            body = decompress(body, compression)
        if content_type == _JSON and _JSON in self.accept and self._reads_kombu_json:
            try:
                return _decode_json(body)
            except Exception:  # noqa: S110 - kombu fails as well, and with the error that Celery expects
                pass
        return loads(body, content_type, content_encoding, accept=self.accept)


def _require_expiry(setting: str, seconds: object) -> None:
    try:
        require_expiry(setting, seconds)
    except ConfigurationError as error:
        raise ImproperlyConfigured(str(error)) from error
