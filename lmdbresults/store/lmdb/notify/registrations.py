"""Registering mailboxes for records: in the transactions of a store, and of the dead in none for long.

If a record is not there, a vacant one (records.py) stands in for it until it expires.
"""

from functools import cache
from typing import TYPE_CHECKING, Final

from lmdbresults.store.lmdb.engine.environment import Environment
from lmdbresults.store.lmdb.notify.sockets import WakeFolder
from lmdbresults.store.lmdb.records import waiters
from lmdbresults.store.lmdb.records.expiry_index import index, index_key
from lmdbresults.store.lmdb.records.layout import HASHED, IS_AWAITED, IS_HASHED, VACANT, Record, place_of
from lmdbresults.store.lmdb.records.records import record_at, sound_record, write
from lmdbresults.store.lmdb.types import Transaction

if TYPE_CHECKING:
    from lmdbresults.store.lmdb.store import LMDBStore
    from lmdbresults.store.lmdb.transactions import Writing

__all__ = ["Registrations", "clear_dead"]

#: Seconds that a vacant record stands in for one that is waited for. Then whoever waits is woken and registers again;
#: of who was killed nothing is left.
_WATCH_LIFE: Final = 3600.0
#: What two records take besides their keys: the registration, and the vacant record with its entry in the index.
_COST: Final = 384
#: Registrations that are looked through in one transaction.
_PAGE: Final = 500


class Registrations:
    """The registrations in the file of a store."""

    def __init__(self, store: "LMDBStore") -> None:
        self._store = store
        self.clock = store._clock

    def topic_of(self, key: bytes) -> bytes:
        """Return what stands for a key in messages."""
        return waiters.topic_of(place_of(self._store._prefix + key))

    def watch(self, keys: list[bytes], box: bytes, every_change: bool) -> None:
        """Register a box for some keys, in one transaction."""
        self._store._apply(self._watch, keys, box, every_change, durably=False)

    def _watch(self, txn: "Writing", keys: list[bytes], box: bytes, every: bool) -> None:
        store = self._store
        for key in keys:
            store._environment.file.reserve(txn._raw, 2 * len(key) + _COST)
            watch(txn._raw, store._prefix + key, box, every, store._clock() + _WATCH_LIFE)
            txn.changes += 1

    def unwatch(self, keys: list[bytes], box: bytes) -> None:
        """Take the registrations of a box back, in one transaction."""
        _unwatch(self._store._environment, [(place_of(self._store._prefix + key), box) for key in keys])


def clear_dead(environment: Environment, folder: WakeFolder) -> None:
    """Take back the registrations of processes that were killed, and remove their sockets."""
    folder.remove_dead()
    is_alive = cache(folder.is_alive)
    start: bytes | None = b""
    while start is not None:
        found, start = environment.read(waiters.page, start, _PAGE)
        dead = [(place, box) for place, box in found if not is_alive(box)]
        if dead:
            _unwatch(environment, dead)


def _unwatch(environment: Environment, registrations: list[tuple[bytes, bytes]]) -> None:
    def take_back(raw: Transaction) -> None:
        environment.file.reserve_for_delete(raw)
        for place, box in registrations:
            unwatch(raw, place, box)

    environment.write(take_back, durably=False)


def watch(txn: Transaction, key: bytes, box: bytes, every_change: bool, until: float) -> None:
    """Register a box for the next change of a record.

    If there is no record, a vacant one stands in for it ``until`` it expires.
    """
    place = place_of(key)
    waiters.enter(txn, place, box, every_change)
    present = sound_record(txn, key, place)
    if present is None:
        flags = IS_AWAITED | (IS_HASHED if place[:1] == HASHED else 0)
        write(txn, key, place, Record(VACANT, index(txn, place, None, until), flags, b""))
    elif not present.flags & IS_AWAITED:
        write(txn, key, place, present._replace(flags=present.flags | IS_AWAITED))


def unwatch(txn: Transaction, place: bytes, box: bytes) -> None:
    """Take a registration back, and the vacant record if it was the last one."""
    if waiters.leave(txn, place, box):
        return
    _, present = record_at(txn, place)
    if present is not None and present.deadline == VACANT:
        txn.delete(place)
        txn.delete(index_key(present.indexed, place))
