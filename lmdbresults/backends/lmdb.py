"""The backend over a `Store`, and the one over an LMDB file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from lmdbresults.app import App
from lmdbresults.backends.base import BaseBackend, DisabledBackend
from lmdbresults.backends.keyvalue import KeyValueStoreBackend, chord_size, count_tasks, part_key
from lmdbresults.errors import ChordError, StoreClosed, UnknownOption
from lmdbresults.options import Options, options_from_url
from lmdbresults.record import SUCCESS_PREFIX
from lmdbresults.results import AsyncResult, GroupResult
from lmdbresults.store import LMDBStore, Store, WriteTransaction

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

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "store": self._store}

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
            _delete_count(txn, key)  # a header that is applied again is a new chord
            txn.delete(key + b".ended")
            txn.set(key + b".size", b"%d" % count_tasks(header), self.expires)
            txn.set(self.get_key_for_group(header.id), group, self.expires)

        self.store.update(open_)

    def add_to_chord(self, chord_id: str, result: AsyncResult | GroupResult) -> None:
        """Let a chord that is running wait for one more part, the last of its header.

        Raises `ChordError` if there is no such chord, or it has ended.
        """
        key, group_key = self.get_key_for_chord(chord_id), self.get_key_for_group(chord_id)

        def add(txn: WriteTransaction) -> bool:
            group, size = txn.get(group_key), txn.get(key + b".size")
            if group is None or size is None or txn.get(key + b".ended") is not None:
                return False
            header = self.group_from_tuple(self.decode(group)["result"])
            if result not in header.results:
                header.add(result)
                txn.set(group_key, self._encoded_group(header), self.expires)
                txn.set(key + b".size", b"%d" % (int(size) + count_tasks(result)), self.expires)
            return True

        if not self.store.update(add):
            raise ChordError(f"The chord {chord_id} does not exist, or has ended: nothing can be added to it.")

    def _count_part(self, request: Any) -> int | None:
        key = self.get_key_for_chord(request.group)
        part = key + self.key_t(part_key(request.group_index, request.id))

        def count(txn: WriteTransaction) -> int | None:
            if txn.get(key + b".ended") is not None or not txn.add(part, b"", self.expires):
                return None
            parts = txn.incr(key, ttl=self.expires)
            missing = (chord_size(txn.get(key + b".size"), request) or 0) - parts
            if missing <= 0:  # from here on nothing counts, nothing can be added, and nobody else ends the chord
                txn.set(key + b".ended", b"1", self._ended_ttl())
            return max(missing, 0)

        return self.store.update(count)

    def _end_chord(self, header: GroupResult) -> None:
        key = self.get_key_for_chord(header.id)

        def end(txn: WriteTransaction) -> None:
            _delete_count(txn, key)
            txn.delete(self.get_key_for_group(header.id))
            txn.set(key + b".ended", b"1", self._ended_ttl())

        self.store.update(end)
        self._cache.discard(header.id)


class LMDBBackend(StoreBackend):
    """The backend in one LMDB file. Usable from threads, across forks, and in another process after pickling."""

    def __init__(
        self, url: str | os.PathLike[str], *, options: Options | Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        #: Kept in full: a relative path, or ``~``, leads elsewhere once the process has another folder or user.
        self._options = options if isinstance(options, Options) else options_from_url(url, **(options or {}))
        super().__init__(store=LMDBStore(self._options), url=os.fspath(url), **kwargs)

    @property
    def store(self) -> Store:
        """The store, opened again if it was closed."""
        if self._store is None:
            self._store = LMDBStore(self._options)
        return self._store

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        del settings["store"]  # opened anew by these options
        return {**settings, "options": self._options}


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
    return backend


def _delete_count(txn: WriteTransaction, key: bytes) -> None:
    """Delete what a chord has counted, and up to what."""
    txn.delete(key)
    txn.delete(key + b".size")
    for name, _ in list(txn.scan(key + b".part.")):
        txn.delete(name)
