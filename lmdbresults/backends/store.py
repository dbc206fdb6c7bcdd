"""The backend over a `Store`. Steps that are separate operations in other backends are one transaction here."""

import os
import uuid
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from lmdbresults.backends.chords import CLAIMS_KEY, Chords
from lmdbresults.backends.keyvalue import KeyValueStoreBackend
from lmdbresults.backends.listing import iter_results
from lmdbresults.backends.waiting import Waiting
from lmdbresults.errors import ChordError, StoreClosed
from lmdbresults.protocols import Meta
from lmdbresults.results import AsyncResult, GroupResult, count_tasks
from lmdbresults.store import Store, WriteTransaction
from lmdbresults.store.base import Copyable, Durable, Sweepable
from lmdbresults.store.chords import ResultRecord
from lmdbresults.store.following import Source

__all__ = ["StoreBackend"]


class StoreBackend(KeyValueStoreBackend):
    """A backend over any `Store`."""

    implements_incr = True
    supports_autoexpire = True

    def __init__(self, *args: Any, store: Store, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.store = store
        self.chords = Chords(self, self.chord_bodies, self.key_t(self.chord_keyprefix) + self.key_t(CLAIMS_KEY))
        self.waiting = Waiting(self, self.chords.recover)

    @cached_property
    def store(self) -> Store:
        """The open store. Raises `StoreClosed` if it was closed."""
        raise StoreClosed("The backend was closed. Open it again.")

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "store": vars(self).get("store")}

    def process_cleanup(self) -> None:
        """Close the store. Calls that wait for a result raise `StoreClosed`."""
        self.waiting.close()
        store: Store | None = vars(self).pop("store", None)
        if store is not None:
            store.close()

    # -- single operations -------------------------------------------------------------------------------------------

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
        """Delete expired results and recover chords. Needed only if nothing is stored: storing does both as well."""
        if isinstance(self.store, Sweepable):
            self.store.sweep()
        self.chords.recover(now=True)

    def flush(self) -> None:
        """Wait until everything stored so far survives a power failure. Does nothing if the store is not `Durable`."""
        if isinstance(self.store, Durable):
            self.store.flush()

    def backup(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a copy of the store to a file. Other processes may write meanwhile. See `store.base.Copyable`."""
        if not isinstance(self.store, Copyable):
            raise NotImplementedError(f"{type(self.store).__name__} has no backup(): use the tools of its engine.")
        self.store.backup(path, overwrite=overwrite)

    # -- results -----------------------------------------------------------------------------------------------------

    def _store_result(self, task_id: str, result: Any, state: str, traceback: str | None, request: Any) -> None:
        record = self._record(result, state, traceback, request)
        self.records.put(self.store, task_id, state, record, self.expires)
        self.chords.recover()

    def store_many(self, results: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Store several results in one transaction: all of them, or none if it raises.

        Each item is a tuple of arguments of `store_result`. Returns the list of its return values. Other writers wait
        during the transaction, so pass hundreds of results rather than many thousands.
        """
        encoded: list[Any] = []
        records: list[tuple[str, str, bytes]] = []
        for task_id, result, state, *more in results:
            encoded.append(self.encode_result(result, state))
            traceback, request = (*more, None, None)[:2]
            records.append((task_id, state, self._record(encoded[-1], state, traceback, request)))

        def store(txn: WriteTransaction) -> None:
            for record in records:
                self.records.put(txn, *record, self.expires)

        if records:
            self.store.update(store)
            self.chords.recover()
        return encoded

    iter_results = iter_results

    def _get_task_meta_for(self, task_id: str) -> Meta:
        return self.records.get_meta(self.store, task_id)

    # -- chords ------------------------------------------------------------------------------------------------------

    def _end_task(
        self, task_id: str, result: Any, state: str, traceback: str | None, request: Any, store_result: bool
    ) -> None:
        """Store a result and count it as a part in one transaction."""
        if request is None or not request.chord or not request.group:
            super()._end_task(task_id, result, state, traceback, request, store_result)
            return
        record = self._record(self.encode_result(result, state), state, traceback, request)
        stored = self.records.to_store(task_id, record, self.expires) if store_result else None
        self._return_part(request, state, record, stored)
        self.chords.recover()

    def on_chord_part_return(self, request: Any, state: str, result: Any) -> None:
        """Count a part, by its header index and its id. The part that completes the chord publishes the body."""
        if request.group:
            self._return_part(request, state, self._record(self.encode_result(result, state), state, None, request))

    def _return_part(self, request: Any, state: str, record: bytes, stored: ResultRecord | None = None) -> None:
        self.chords.part_returned(request, state, record, self.chord_bodies.signature(request.chord), stored)

    def _open_chord(self, header: GroupResult, body: Any, **kwargs: Any) -> None:
        signature = self.chord_bodies.signature(body)
        if signature.id is None:  # a fixed id: if two processes publish the body, there is still one result
            signature.set(task_id=str(uuid.uuid4()))
        tree = None
        if any(isinstance(part, GroupResult) for part in header.results):
            tree = self.encode({"result": header.as_tuple()})
        self.chords.open(header.id, count_tasks(header), self.encode(dict(signature)), tree)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Set the number of parts that a chord waits for. The default is the number of tasks in its header."""
        self.chords.set_size(group_id, chord_size)

    def add_to_chord(self, chord_id: str, result: AsyncResult | GroupResult) -> None:
        """Let an open chord wait for one more result, placed after the results of its header.

        Raises `ChordError` if there is no such chord, or it has ended.
        """
        if not self.chords.add_more(chord_id, result.id, count_tasks(result)):
            raise ChordError(f"Chord {chord_id} does not exist or has ended: nothing can be added to it.")

    def chord_ttl(self) -> float | None:
        """Return the seconds for which a chord is kept after its last part returned: the same as results."""
        ttl: float | None = self.expires
        return ttl

    @property
    def _source(self) -> Source:
        return self.store
