"""The backend over a `Store`, and the one over an LMDB file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from lmdbresults.app import App
from lmdbresults.backends.base import BaseBackend, DisabledBackend
from lmdbresults.backends.keyvalue import KeyValueStoreBackend, count_tasks
from lmdbresults.errors import ChordError, StoreClosed, UnknownOption
from lmdbresults.options import Options
from lmdbresults.record import SUCCESS_PREFIX
from lmdbresults.results import AsyncResult, GroupResult
from lmdbresults.store import Store, WriteTransaction, open_store

__all__ = ["LMDBBackend", "StoreBackend", "open_backend"]


class StoreBackend(KeyValueStoreBackend):
    """A backend over any `Store`. What takes several operations elsewhere is one transaction here."""

    implements_incr = True
    supports_autoexpire = True

    def __init__(self, *args: Any, store: Store, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._store: Store | None = store

    @property
    def store(self) -> Store:
        """Where everything lies. Raises `StoreClosed` if it was given up."""
        if self._store is None:
            raise StoreClosed("The backend was closed. Open it again.")
        return self._store

    def process_cleanup(self) -> None:
        """Close the store."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def get(self, key: bytes) -> bytes | None:
        return self.store.get(key)

    def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self.store.mget(keys)

    def set(self, key: bytes, value: bytes) -> None:
        self.store.set(key, value, self.expires)

    def delete(self, key: bytes) -> None:
        self.store.delete(key)

    def incr(self, key: bytes) -> int:
        return self.store.incr(key, ttl=self.expires)

    def expire(self, key: bytes, value: float | None) -> None:
        self.store.expire(key, value)

    def cleanup(self) -> None:
        """Remove what has expired. Writing does so along the way; this is for a store that nobody writes to."""
        self.store.sweep()

    def _store_result(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> None:
        record = self._record(result, state, traceback, request)
        self.store.set(self.get_key_for_task(task_id), record, self.expires, unless_prefix=SUCCESS_PREFIX)

    # -- chords --------------------------------------------------------------------------------------------------------

    def _open_chord(self, header: GroupResult) -> None:
        key, group = self.get_key_for_chord(header.id), self._encoded_group(header)

        def open_(txn: WriteTransaction) -> None:
            _delete_all(txn, key)  # a header that is applied again is a new chord
            txn.set(key + b".size", b"%d" % count_tasks(header), self.expires)
            txn.set(self.get_key_for_group(header.id), group, self.expires)

        self.store.update(open_)

    def add_to_chord(self, chord_id: str, result: AsyncResult) -> None:
        """Let a chord that is running wait for one more part, the last of its header.

        Raises `ChordError` if there is no such chord, or it has ended.
        """
        key, group_key = self.get_key_for_chord(chord_id), self.get_key_for_group(chord_id)

        def add(txn: WriteTransaction) -> bool:
            meta = self.decode(txn.get(group_key))
            if meta is None:
                return False
            header = self.group_from_tuple(meta["result"])
            header.add(result)
            txn.set(group_key, self._encoded_group(header), self.expires)
            txn.incr(key + b".size", count_tasks(result), self.expires)
            return True

        if not self.store.update(add):
            raise ChordError(f"The chord {chord_id} does not exist, or has ended: nothing can be added to it.")

    def _count_part(self, group_id: str, part: str) -> int | None:
        key = self.get_key_for_chord(group_id)

        def count(txn: WriteTransaction) -> int | None:
            if txn.get(key + b".ended") is not None or not txn.add(key + self.key_t(part), b"", self.expires):
                return None
            return txn.incr(key, ttl=self.expires)

        return self.store.update(count)

    def _end_chord(self, header: GroupResult) -> None:
        key = self.get_key_for_chord(header.id)

        def end(txn: WriteTransaction) -> None:
            _delete_all(txn, key)
            txn.delete(self.get_key_for_group(header.id))
            txn.set(key + b".ended", b"1", self._ended_ttl())

        self.store.update(end)
        self._cache.pop(header.id, None)


class LMDBBackend(StoreBackend):
    """The backend in one LMDB file. Usable from threads, across forks, and in another process after pickling."""

    def __init__(self, url: str | os.PathLike[str], *, options: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self._options = dict(options or {})
        store = open_store(url, **self._options)
        super().__init__(store=store, url=os.fspath(url), **kwargs)

    @property
    def store(self) -> Store:
        """The store, opened again if it was closed."""
        if self._store is None:
            self._store = open_store(str(self.url), **self._options)
        return self._store

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "options": self._options}


#: What `open_backend` takes besides the options of the store.
_BACKEND_OPTIONS: Final = ("serializer", "max_cached_results", "accept", "expires", "expires_type")
_STORE_OPTIONS: Final = tuple(field.name for field in fields(Options) if field.name != "path")


def open_backend(path_or_url: str | os.PathLike[str], app: Any = None, **options: Any) -> BaseBackend:
    """Open the backend at a path or an ``lmdb://`` URL; ``disabled://`` gives one that stores nothing.

    Options are those of a store (`lmdbresults.options.Options`) and of a backend: ``serializer``, ``accept``,
    ``expires``, ``max_cached_results``. The app, if it has no backend yet, gets this one. Raises what `open_store`
    raises.
    """
    unknown = sorted(options.keys() - {*_BACKEND_OPTIONS, *_STORE_OPTIONS})
    if unknown:
        known = ", ".join((*_BACKEND_OPTIONS, *_STORE_OPTIONS))
        raise UnknownOption(f"Unknown option {', '.join(unknown)}; there are: {known}.")
    app = App() if app is None else app
    settings = {name: options[name] for name in _BACKEND_OPTIONS if name in options}
    backend: BaseBackend
    if path_or_url == "disabled://":
        backend = DisabledBackend(app, **settings)
    else:
        store_options = {name: options[name] for name in _STORE_OPTIONS if name in options}
        backend = LMDBBackend(path_or_url, app=app, options=store_options, **settings)
    if getattr(app, "backend", None) is None:
        app.backend = backend
    return backend


def _delete_all(txn: WriteTransaction, key: bytes) -> None:
    """Delete a chord's counter, and all that stands under its name followed by a dot."""
    txn.delete(key)
    for name, _ in list(txn.scan(key + b".")):
        txn.delete(name)
