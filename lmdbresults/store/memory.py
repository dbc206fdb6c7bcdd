"""MemoryStore: the port over a dict, to test backends over and as an example of an engine.

A write transaction works on a copy of the dict, which replaces the dict at the commit. So an exception undoes
everything, and readers keep their snapshot. It is slow with many keys.
"""

import math
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from typing import NamedTuple, TypeVar

from lmdbresults.errors import NestedTransaction, StoreClosed
from lmdbresults.store.base import EVERY_COMMIT, KEEP, Keep, ReadTransaction, Store, Subscription, WriteTransaction
from lmdbresults.store.values import NEVER, add_to_counter, deadline_of

__all__ = ["MemoryStore"]

Result = TypeVar("Result")


class Record(NamedTuple):
    """A value and when it expires."""

    value: bytes
    deadline: float

    def is_expired(self, now: float) -> bool:
        """Return whether the deadline has passed."""
        return NEVER < self.deadline <= now


class MemoryStore(Store):
    """A `Store` for the threads of one process. Closing it loses what it holds."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._records: dict[bytes, Record] | None = {}
        #: Held during a write transaction.
        self._writer = threading.Lock()
        #: Whether the present thread is in a transaction.
        self._inside = threading.local()
        #: How many transactions were committed.
        self._moment = 0
        self._subscriptions: weakref.WeakSet[_Subscription] = weakref.WeakSet()

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("A MemoryStore lives in one process: use an LMDBStore to share results between processes.")

    # -- transactions ----------------------------------------------------------------------------------------------

    def view(self, operation: Callable[[ReadTransaction], Result]) -> Result:
        with self.read() as txn:
            return operation(txn)

    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        with self.write() as txn:
            return operation(txn)

    @contextmanager
    def read(self) -> Iterator[ReadTransaction]:
        """Return a context manager for a snapshot."""
        with self._entered():
            txn = _Read(self._present(), self._clock)
            try:
                yield txn
            finally:
                txn.end()

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        """Return a context manager for a transaction that commits at its end and is undone by an exception."""
        with self._entered(), self._writer:
            records = dict(self._present())
            txn = _Write(records, self._clock)
            try:
                yield txn
            finally:
                txn.end()
            expired = _sweep(records, self._clock())
            self._commit(records, {**txn.changed, **dict.fromkeys(expired, False)}, txn.for_one)

    def _commit(
        self, records: dict[bytes, Record], changed: Mapping[bytes, bool], for_one: Iterable[bytes] = ()
    ) -> None:
        """Publish the records of a transaction, and notify of its changes; True marks an interim value.

        Of each topic in ``for_one``, one subscriber is woken.
        """
        self._records = records
        self._moment += 1
        for subscription in list(self._subscriptions):
            subscription.notify({**changed, EVERY_COMMIT: False})
        for topic in for_one:
            subscriptions = list(self._subscriptions)
            turn = self._moment % max(len(subscriptions), 1)
            any(each.notify({topic: False}) for each in subscriptions[turn:] + subscriptions[:turn])

    @contextmanager
    def _entered(self) -> Iterator[None]:
        if getattr(self._inside, "transaction", False):
            raise NestedTransaction("This thread is already in a transaction on this store: use the methods of that.")
        self._inside.transaction = True
        try:
            yield
        finally:
            self._inside.transaction = False

    def _present(self) -> dict[bytes, Record]:
        if self._records is None:
            raise StoreClosed("The store is closed, and what it held is gone. Make a new one.")
        return self._records

    # -- waiting ---------------------------------------------------------------------------------------------------

    def subscribe(self) -> Subscription:
        subscription = _Subscription(self)
        self._subscriptions.add(subscription)
        return subscription

    def moment(self) -> int:
        return self._moment

    # -- the whole -------------------------------------------------------------------------------------------------

    def sweep(self, limit: int | None = None, max_seconds: float | None = None) -> int:
        """Delete expired records, up to ``limit``; return how many."""
        with self._entered(), self._writer:
            records = dict(self._present())
            expired = _sweep(records, self._clock(), limit)
            self._commit(records, dict.fromkeys(expired, False))
        return len(expired)

    def stats(self) -> dict[str, int]:
        """Return how many ``records`` there are, with expired ones that were not deleted yet."""
        with self._entered():
            return {"records": len(self._present())}

    def close(self) -> None:
        with self._entered(), self._writer:
            self._records = None
        for subscription in list(self._subscriptions):
            subscription.close()


class _Subscription(Subscription):
    """A pair of sockets: changed keys wait in a queue, and a byte in a socket says that there are some."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        #: The keys that are followed, and whether every change was asked for.
        self._keys: dict[bytes, bool] = {}
        self._changed: deque[bytes] = deque()
        self._is_closed = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def add(self, keys: Iterable[bytes], *, every_change: bool = False) -> dict[bytes, bytes | None]:
        keys = list(keys)
        for key in () if self._is_closed else keys:
            self._keys[key] = every_change or self._keys.get(key, False)
        return dict(zip(keys, self._store.mget(keys), strict=True))

    def remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._keys.pop(key, None)

    def notify(self, changed: Mapping[bytes, bool]) -> bool:
        """Note which of the keys that have changed, maybe to an interim value, are followed; return whether any is."""
        keys = self._keys
        followed = [key for key, interim in changed.items() if key in keys and (keys[key] or not interim)]
        self._changed += followed
        if followed:
            self.ring()
        return bool(followed)

    def receive(self, timeout: float) -> Mapping[bytes, bytes | None] | None:
        with suppress(OSError):  # for nothing is left, or it is closed
            self._reader.settimeout(timeout)
            self._reader.recv(4096)
        changed: dict[bytes, bytes | None] = {self._changed.popleft(): None for _ in range(len(self._changed))}
        return None if self._is_closed else changed

    def fileno(self) -> int:
        return -1 if self._is_closed else self._reader.fileno()

    def ring(self) -> None:
        with suppress(OSError):  # for it is readable already, or closed
            self._writer.send(b"!")

    def close(self) -> None:
        self._is_closed = True
        self._keys.clear()
        self.ring()
        self._reader.close()
        self._writer.close()


class _Read(ReadTransaction):
    """The reading half over one state of the dict."""

    def __init__(self, records: dict[bytes, Record], clock: Callable[[], float]) -> None:
        self._records: dict[bytes, Record] | None = records
        self._clock = clock

    def end(self) -> None:
        """Refuse further use."""
        self._records = None

    def _open(self) -> dict[bytes, Record]:
        if self._records is None:
            raise StoreClosed("The transaction has ended: use it inside its block or callback only.")
        return self._records

    def _find(self, key: bytes) -> Record | None:
        record = self._open().get(key)
        return None if record is None or record.is_expired(self._clock()) else record

    def get(self, key: bytes) -> bytes | None:
        record = self._find(key)
        return record and record.value

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def ttl(self, key: bytes) -> float | None:
        record = self._find(key)
        if record is None:
            return None
        return math.inf if record.deadline == NEVER else record.deadline - self._clock()

    def now(self) -> float:
        self._open()
        return self._clock()

    def scan(self, prefix: bytes = b"", *, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        return self.range(prefix, head=head)

    def range(
        self, prefix: bytes = b"", start: bytes = b"", limit: int | None = None, *, head: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        keys = sorted(key for key in self._open() if key.startswith(prefix) and key >= start)
        found = ((key, record) for key in keys if (record := self._find(key)) is not None)
        return ((key, record.value[:head]) for key, record in islice(found, limit))


class _Write(_Read, WriteTransaction):
    """All of a transaction, over a copy of the dict."""

    def __init__(self, records: dict[bytes, Record], clock: Callable[[], float]) -> None:
        super().__init__(records, clock)
        #: The keys that have changed; True marks an interim value.
        self.changed: dict[bytes, bool] = {}
        #: Topics of which one subscriber is to be woken.
        self.for_one: list[bytes] = []

    def set(
        self, key: bytes, value: bytes, ttl: float | None = None, *, keep_prefix: bytes = b"", interim: bool = False
    ) -> bool:
        present = self._find(key)
        if keep_prefix and present is not None and present.value.startswith(keep_prefix):
            return False
        self._put(key, bytes(memoryview(value)), deadline_of(ttl, self._clock()))
        self.changed[key] = interim and self.changed.get(key, True)
        return True

    def _put(self, key: bytes, value: bytes, deadline: float) -> None:
        self._open()[key] = Record(value, deadline)

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        return self._find(key) is None and self.set(key, value, ttl)

    def delete(self, key: bytes) -> bool:
        existed = self._find(key) is not None
        self._open().pop(key, None)
        self.changed[key] = False
        return existed

    def move(self, key: bytes, new_key: bytes, value: bytes) -> None:
        self._open().pop(key, None)
        self._put(new_key, bytes(memoryview(value)), NEVER)

    def incr(self, key: bytes, by: int = 1, ttl: float | Keep | None = KEEP) -> int:
        present = self._find(key) or Record(b"0", NEVER)
        count = add_to_counter(key, present.value, by)
        self._put(key, b"%d" % count, present.deadline if isinstance(ttl, Keep) else deadline_of(ttl, self._clock()))
        self.changed[key] = False
        return count

    def expire(self, key: bytes, ttl: float | None) -> bool:
        deadline, present = deadline_of(ttl, self._clock()), self._find(key)
        if present is not None:
            self._put(key, present.value, deadline)
        return present is not None

    def notify(self, topic: bytes, *, one: bool = False) -> None:
        self._open()
        if one:
            self.for_one.append(topic)
        else:
            self.changed[topic] = False


def _sweep(records: dict[bytes, Record], now: float, limit: int | None = None) -> list[bytes]:
    """Delete expired records, up to a limit; return their keys."""
    expired = list(islice((key for key, record in records.items() if record.is_expired(now)), limit))
    for key in expired:
        del records[key]
    return expired
