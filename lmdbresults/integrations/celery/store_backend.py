"""The Celery result backend over any store: Celery's own key-value backend, with our records, chords and waiting.

The class replaces what must be faster or safer, and inherits the rest, so that later additions of Celery work too.
"""

import time
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, tzinfo
from functools import cached_property
from typing import Any, Final

from celery import VERSION, signals, states
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import ImproperlyConfigured
from kombu.utils.encoding import ensure_bytes

from lmdbresults import serialization
from lmdbresults.backends.listing import iter_results
from lmdbresults.backends.task_records import TaskRecords
from lmdbresults.errors import ConfigurationError, StoreBusy, StoreFull, TooManyReaders
from lmdbresults.integrations.celery import chord_recovery  # noqa: F401 - it listens to the signals of workers
from lmdbresults.integrations.celery.chords import ChordsMixin, make_chords
from lmdbresults.integrations.celery.consumer import ResultConsumer, WaitingMixin
from lmdbresults.integrations.celery.effects import Effects, StoredResult, noting
from lmdbresults.integrations.celery.ends import EndsMixin
from lmdbresults.integrations.celery.payloads import KombuCodec
from lmdbresults.integrations.celery.stepwise import StepwiseEffects
from lmdbresults.integrations.transport_options import store_options
from lmdbresults.options import parse_size, require_expiry
from lmdbresults.record import RECORD_VERSION, RUNTIME, TaskRecord, pack_fields, pack_payload, read_meta, unpack_payload
from lmdbresults.store import Store, WriteTransaction

__all__ = ["StoreBackend"]

#: The states that the end of a task stores.
_HELD: Final = states.READY_STATES | {states.RETRY}
#: What Celery's meta holds, when a result belongs to no group and ``result_extended`` is off.
_PLAIN_META: Final = {"status", "result", "traceback", "children", "date_done"}


#: The option that is for the codec and not for the store.
_MAX_DECODED_BYTES: Final = "max_decoded_bytes"


#: The attribute of a request that says when its task started, by the monotonic clock.
_STARTED: Final = "lmdbresults_started"


class RecordWithId(bytes):
    """The bytes of a task record with the id of the task, which is in the key: Celery's own backends store it twice."""

    task_id: str

    def __new__(cls, record: bytes, task_id: str) -> "RecordWithId":
        self = super().__new__(cls, record)
        self.task_id = task_id
        return self


class StoreBackend(EndsMixin, ChordsMixin, WaitingMixin, KeyValueStoreBackend):
    """Task results in a store. A subclass opens it, by its URL and those transport options that it knows."""

    #: The transport options that are for the store. Celery uses ``global_keyprefix`` itself.
    store_options: Collection[str] = ()
    #: Of the queues that lie in the store; empty: there are none, so the end of a task is not one commit.
    identity = ""
    #: Notes what the end of a task writes.
    effects_class: type[Effects] = StepwiseEffects

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
        self._has_plain_meta = self._find_plain_meta()
        if self.app.conf.find_value_for_key("extended", "result"):
            signals.task_prerun.connect(_note_start, dispatch_uid=__name__)
        self._changed_settings = self.app.conf.changes
        options = self._options(url)
        self.codec = KombuCodec(self, options.pop(_MAX_DECODED_BYTES, serialization.MAX_DECODED_BYTES))
        self.records = TaskRecords(
            self.task_keyprefix, super().get_key_for_task, self.codec.value, self.codec.exception
        )
        self.store = self._open(url, options)
        self.result_consumer = ResultConsumer(self, self.app)
        self.chords = make_chords(self)

    def _options(self, url: str | None) -> dict[str, Any]:
        setting = "result_backend_transport_options"
        try:
            options = store_options(setting, url or "", self._given(setting), (*self.store_options, _MAX_DECODED_BYTES))
        except ConfigurationError as error:
            raise ImproperlyConfigured(str(error)) from error
        limit = options.get(_MAX_DECODED_BYTES)
        if isinstance(limit, str):
            try:
                options[_MAX_DECODED_BYTES] = parse_size(limit)
            except ValueError as error:
                raise ImproperlyConfigured(f"{_MAX_DECODED_BYTES} must be a size, got {limit!r}: {error}") from error
        return options

    def _given(self, setting: str) -> Mapping[str, Any]:
        """Return the transport options of the application."""
        given: Mapping[str, Any] = self.app.conf.get(setting) or {}
        return given

    def _open(self, url: str | None, options: Mapping[str, Any]) -> Store:
        """Open the store. Raises ``ImproperlyConfigured``."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to open its store.")

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
        """End all waits and close the store. Celery never calls it."""
        self.result_consumer.stop()
        self.store.close()

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Return whether waiting may help: for room, for the write lock, or for a slot in the reader table."""
        return isinstance(exc, StoreFull | StoreBusy | TooManyReaders)

    def new_effects(self, **options: Any) -> Effects:
        """Return an object that notes what the end of a task or chord writes."""
        return self.effects_class(self, **options)

    # -- the store, by the names that Celery's base class uses -------------------------------------------------

    @property
    def client(self) -> Store:
        """The open store. Celery 5.3 deletes a chord's counter by this name."""
        return self.store

    def get_key_for_task(self, task_id: Any, key: str = "") -> bytes:
        return super().get_key_for_task(task_id, key) if key else self.records.key(task_id)

    def get(self, key: bytes) -> bytes | None:
        return self._with_id(key, self.store.get(key))

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        wanted = list(keys)
        return [self._with_id(key, value) for key, value in zip(wanted, self.store.mget(wanted), strict=True)]

    def _with_id(self, key: bytes, value: bytes | None) -> bytes | None:
        prefix: bytes = self.task_keyprefix
        return RecordWithId(value, key[len(prefix) :].decode()) if value and key.startswith(prefix) else value

    def set(self, key: bytes, value: bytes | str) -> None:
        self._set_with_state(key, value, states.SUCCESS)

    def _set_with_state(self, key: bytes, value: bytes | str, state: str) -> None:
        data = ensure_bytes(value)
        if key.startswith(self.task_keyprefix) and not TaskRecord.is_one(data):  # a meta, by `encode`
            data = TaskRecord.from_meta(self.decode(data), self.codec.payload).pack()
        self.store.set(key, data, self._failure_expires if state == states.FAILURE else self.expires)

    def delete(self, key: bytes) -> None:
        self.store.delete(key)

    def incr(self, key: bytes) -> int:
        # The deadline comes with the count: a worker killed before Celery's expire() leaves no counter behind.
        return self.store.incr(key, ttl=getattr(self, "chord_expires", self.expires))

    def expire(self, key: bytes, value: float | None) -> None:
        self.store.expire(key, value)

    def cleanup(self) -> None:
        """End the chords of dead workers. Expired results are deleted without it."""
        self.chords.recover(now=True)

    def chord_ttl(self) -> float | None:
        """Return for how many seconds a chord is kept after its last part."""
        return getattr(self, "chord_expires", self.expires) or None  # since Celery 5.4

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
        """Store a result, or note it for the transaction that ends the task."""
        record = self._record(result, state, traceback, request)
        ttl = self._failure_expires if state == states.FAILURE else self.expires
        effects = noting(self)
        if effects is not None and effects.holds_results and state in _HELD:
            effects.results.append(StoredResult(task_id, state, record, ttl))
        else:
            self.records.put(self.store, task_id, state, record, ttl)
            self.chords.recover()
        return result

    def store_many(self, results: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Store several results in one transaction: all of them, or none if it raises.

        Each item is a tuple of arguments of `store_result`. Returns the list of its return values. Other writers wait
        during the transaction, so pass hundreds of results rather than many thousands.
        """
        encoded: list[Any] = []
        records: list[tuple[Any, str, bytes, float | None]] = []
        for task_id, result, state, *more in results:
            encoded.append(self.encode_result(result, state))
            traceback, request = (*more, None, None)[:2]
            ttl = self._failure_expires if state == states.FAILURE else self.expires
            records.append((task_id, state, self._record(encoded[-1], state, traceback, request), ttl))

        def store(txn: WriteTransaction) -> None:
            for record in records:
                self.records.put(txn, *record)

        if records:
            self.store.update(store)
            self.chords.recover()
        return encoded

    iter_results = iter_results

    def _record(self, result: Any, state: str, traceback: str | None, request: Any) -> bytes:
        """Return the record of a result, whose fields are what Celery's meta holds.

        Celery looks up ``result_extended`` and converts the time between zones for every result, which together cost
        as much as storing it. So Celery makes the meta only where its content is not known before.
        """
        if not self._has_plain_meta or self._changed_settings.get("result_extended"):
            meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
            started = getattr(request, _STARTED, None)
            if started is not None and state in states.READY_STATES:
                meta[RUNTIME] = round(time.monotonic() - started, 6)
            return TaskRecord.from_meta(meta, self.codec.payload).pack()
        date_done = datetime.now(self._zone).isoformat() if state in states.READY_STATES else None
        group_id = parent_id = None
        if request:
            group_id, parent_id = getattr(request, "group", None) or None, getattr(request, "parent_id", None) or None
        lineage = (group_id, parent_id, self.current_task_children(request))
        payload = self.codec.payload(result)
        return pack_fields((RECORD_VERSION, state, date_done, None, None, None, None, *lineage, traceback, payload))

    @cached_property
    def _zone(self) -> tzinfo:
        """The time zone of dates, looked up for the first result: Celery keeps it from then on."""
        zone: tzinfo = self.app.timezone
        return zone

    def _find_plain_meta(self) -> bool:
        """Return whether the installed Celery puts into a meta what `_record` knows, and nothing else."""
        if self.app.conf.find_value_for_key("extended", "result") or VERSION < (5, 5):  # which wrote the date otherwise
            return False
        meta: dict[str, Any] = self._get_result_meta(None, states.STARTED, None, None)
        return meta.keys() == _PLAIN_META

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
        meta = self.records.get_meta(self.store, task_id)
        if meta["status"] == states.PENDING:
            self._ensure_not_eager()
        elif cache and meta["status"] == states.SUCCESS:
            self._cache[task_id] = meta
        return meta

    def _get_task_meta_for(self, task_id: Any) -> dict[str, Any]:
        return self.records.get_meta(self.store, task_id)

    def _mget_to_results(
        self,
        values: Iterable[bytes | None],
        keys: Iterable[Any],
        READY_STATES: Any = states.READY_STATES,  # noqa: N803
    ) -> dict[str, dict[str, Any]]:
        return {meta["task_id"]: meta for _, meta in self.records.metas(zip(keys, values, strict=True), READY_STATES)}

    # What programs do with the values of `get` and `mget`, as with Celery's own backends.

    def decode_result(self, payload: bytes) -> dict[str, Any]:
        """Return the meta in a value that `get` or `mget` has returned, its exception as an instance."""
        meta: dict[str, Any] = self.meta_from_decoded(self.decode(payload))
        return meta

    def encode(self, data: Any) -> bytes:
        return pack_payload(self.codec.payload(data))

    def decode(self, payload: bytes | None) -> Any:
        """Return what `encode` encoded, or the meta in a task record."""
        if payload is None:
            return None
        if TaskRecord.is_one(payload):
            task_id = payload.task_id if isinstance(payload, RecordWithId) else None
            return read_meta(payload, self.codec.value, task_id=task_id)
        return self.codec.value(unpack_payload(payload))


def _require_expiry(setting: str, seconds: object) -> None:
    try:
        require_expiry(setting, seconds)
    except ConfigurationError as error:
        raise ImproperlyConfigured(str(error)) from error


def _note_start(task: Any, **_: Any) -> None:
    setattr(task.request, _STARTED, time.monotonic())
