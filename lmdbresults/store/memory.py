"""MemoryStore: the port over a dict. The store to run tests over, and the example for whoever writes a store.

A write works on a copy of the dict, which takes the place of the former one at the end. So an exception undoes
everything, and who reads keeps the moment that it began with. It is slow once there are many keys.
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

from lmdbresults.errors import NestedTransaction, NotACounter, StoreClosed
from lmdbresults.store.base import KEEP, Mailbox, ReadTransaction, Sent, Store, WriteTransaction, _Keep
from lmdbresults.store.quoting import quoted

__all__ = ["MemoryStore"]

Result = TypeVar("Result")


class Record(NamedTuple):
    """A value and when it expires: infinity for never."""

    value: bytes
    deadline: float


class MemoryStore(Store):
    """A `Store` for the threads of one process. Nothing is left of it when it is closed."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._records: dict[bytes, Record] | None = {}
        #: Held during a write transaction: there is one at a time.
        self._writer = threading.Lock()
        #: Whether the present thread is in a transaction; nobody else sees this.
        self._inside = threading.local()
        #: How many transactions there were, and who is told of changes.
        self._moment = 0
        self._mailboxes: weakref.WeakSet[_Mailbox] = weakref.WeakSet()

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("A MemoryStore lives in one process: use an LMDBStore where several are to see the same.")

    # -- single operations -----------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        with self.read() as txn:
            return txn.get(key)

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        with self.read() as txn:
            return txn.mget(keys)

    def ttl(self, key: bytes) -> float | None:
        with self.read() as txn:
            return txn.ttl(key)

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self.read() as txn:
            pairs = list(txn.scan(prefix))
        yield from pairs

    def set(
        self,
        key: bytes,
        value: bytes,
        ttl: float | None = None,
        *,
        unless_prefix: bytes = b"",
        interim: bool = False,
    ) -> bool:
        with self.write() as txn:
            return txn.set(key, value, ttl, unless_prefix=unless_prefix, interim=interim)

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        with self.write() as txn:
            return txn.add(key, value, ttl)

    def delete(self, key: bytes) -> bool:
        with self.write() as txn:
            return txn.delete(key)

    def incr(self, key: bytes, by: int = 1, ttl: float | _Keep | None = KEEP) -> int:
        with self.write() as txn:
            return txn.incr(key, by, ttl)

    def expire(self, key: bytes, ttl: float | None) -> bool:
        with self.write() as txn:
            return txn.expire(key, ttl)

    # -- transactions ----------------------------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[ReadTransaction]:
        with self._entered():
            txn = _Read(self._present(), self._clock)
            try:
                yield txn
            finally:
                txn.end()

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        with self._entered(), self._writer:
            records = dict(self._present())
            txn = _Write(records, self._clock)
            try:
                yield txn
            finally:
                txn.end()
            expired = _sweep(records, self._clock())
            self._become(records, {**txn.changed, **dict.fromkeys(expired, False)})

    def _become(self, records: dict[bytes, Record], changed: Mapping[bytes, bool]) -> None:
        """Let a transaction count, and tell of what has changed, and whether that was in the interim."""
        self._records = records
        self._moment += 1
        for mailbox in list(self._mailboxes):
            mailbox.tell(changed)

    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        with self.write() as txn:
            return operation(txn)

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

    def mailbox(self) -> Mailbox:
        mailbox = _Mailbox(self)
        self._mailboxes.add(mailbox)
        return mailbox

    def moment(self) -> int:
        return self._moment

    # -- the whole -------------------------------------------------------------------------------------------------

    def sweep(self, limit: int | None = None, max_seconds: float | None = None) -> int:
        with self._entered(), self._writer:
            records = dict(self._present())
            expired = _sweep(records, self._clock(), limit)
            self._become(records, dict.fromkeys(expired, False))
        return len(expired)

    def flush(self) -> None:
        """Nothing to do: what lies in memory survives nothing."""

    def check(self, *, deep: bool = False) -> list[str]:
        with self.read():
            return []  # one dict, and nothing that is derived from it: there is nothing to contradict it

    def stats(self) -> dict[str, int]:
        """Return how many ``entries`` there are, those included that have expired and were not swept."""
        with self._entered():
            return {"entries": len(self._present())}

    def close(self) -> None:
        with self._entered(), self._writer:
            self._records = None
        for mailbox in list(self._mailboxes):
            mailbox.close()


class _Mailbox(Mailbox):
    """A pair of sockets: the keys wait in a set, and a byte in a socket says that there are some."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._registered: dict[bytes, bool] = {}
        self._changed: deque[bytes] = deque()
        self._is_closed = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def register(
        self, keys: Iterable[bytes], is_pending: Callable[[bytes | None], bool], *, every_change: bool = False
    ) -> list[bytes]:
        with self._store.write() as txn:  # in which nobody else changes anything
            keys = list(keys)
            ready = [key for key in keys if not is_pending(txn.get(key))]
            for key in () if self._is_closed else set(keys).difference(ready):
                self._registered[key] = every_change or self._registered.get(key, False)
        return ready

    def tell(self, changed: Mapping[bytes, bool]) -> None:
        """Take the keys that have changed, and whether that was in the interim. The store's writer lock is held."""
        for key, interim in changed.items():
            if self._registered.get(key, False) or (not interim and key in self._registered):
                self._changed.append(key)
                if not interim:
                    self._registered.pop(key, None)
                self.ring()

    def forget(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._registered.pop(key, None)

    def receive(self, timeout: float) -> Mapping[bytes, Sent | None] | None:
        with suppress(OSError):  # for nothing is left, or it is closed
            self._reader.settimeout(timeout)
            self._reader.recv(4096)
        changed: dict[bytes, Sent | None] = {self._changed.popleft(): None for _ in range(len(self._changed))}
        return None if self._is_closed else changed

    def fileno(self) -> int:
        return -1 if self._is_closed else self._reader.fileno()

    def ring(self) -> None:
        with suppress(OSError):  # for it is readable already, or closed
            self._writer.send(b"!")

    def close(self) -> None:
        self._is_closed = True
        self._registered.clear()
        self.ring()
        self._reader.close()
        self._writer.close()


class _Read(ReadTransaction):
    """The verbs of reading over one state of the dict."""

    def __init__(self, records: dict[bytes, Record], clock: Callable[[], float]) -> None:
        self._records: dict[bytes, Record] | None = records
        self._clock = clock

    def end(self) -> None:
        self._records = None

    def _open(self) -> dict[bytes, Record]:
        if self._records is None:
            raise StoreClosed("The transaction has ended: use it inside its with block only.")
        return self._records

    def _find(self, key: bytes) -> Record | None:
        record = self._open().get(key)
        return None if record is None or record.deadline <= self._clock() else record

    def get(self, key: bytes) -> bytes | None:
        record = self._find(key)
        return record and record.value

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def ttl(self, key: bytes) -> float | None:
        record = self._find(key)
        return record and record.deadline - self._clock()

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key in [key for key in self._open() if key.startswith(prefix)]:
            record = self._find(key)
            if record is not None:
                yield key, record.value


class _Write(_Read, WriteTransaction):
    """The verbs of writing over a copy of the dict."""

    def __init__(self, records: dict[bytes, Record], clock: Callable[[], float]) -> None:
        super().__init__(records, clock)
        #: The keys that have changed, and whether that was in the interim.
        self.changed: dict[bytes, bool] = {}

    def set(
        self,
        key: bytes,
        value: bytes,
        ttl: float | None = None,
        *,
        unless_prefix: bytes = b"",
        interim: bool = False,
    ) -> bool:
        present = self._find(key)
        if unless_prefix and present is not None and present.value.startswith(unless_prefix):
            return False
        self._open()[key] = Record(bytes(memoryview(value)), self._deadline(ttl))
        self.changed[key] = interim and self.changed.get(key, True)
        return True

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        return self._find(key) is None and self.set(key, value, ttl)

    def delete(self, key: bytes) -> bool:
        existed = self._find(key) is not None
        self._open().pop(key, None)
        self.changed[key] = False
        return existed

    def incr(self, key: bytes, by: int = 1, ttl: float | _Keep | None = KEEP) -> int:
        present = self._find(key) or Record(b"0", math.inf)
        count = _number(key, present.value) + by
        if not _fits(count):
            raise NotACounter(f"{quoted(key)} would exceed 64 bits by {by:+}, and was left as it is.")
        deadline = present.deadline if isinstance(ttl, _Keep) else self._deadline(ttl)
        self._open()[key] = Record(b"%d" % count, deadline)
        self.changed[key] = False
        return count

    def expire(self, key: bytes, ttl: float | None) -> bool:
        deadline, present = self._deadline(ttl), self._find(key)
        if present is not None:
            self._open()[key] = present._replace(deadline=deadline)
        return present is not None

    def _deadline(self, ttl: float | None) -> float:
        if not ttl:
            return math.inf
        if not ttl > 0:
            raise ValueError(f"ttl {ttl!r} will not do: it has to be a number of seconds, or None or 0 for no expiry.")
        return self._clock() + ttl


def _number(key: bytes, value: bytes) -> int:
    digits = value[1:] if value[:1] == b"-" else value
    number = int(value) if digits.isdigit() and len(digits) < 20 else None
    if number is None or not _fits(number):
        raise NotACounter(f"What {quoted(key)} holds is no whole number of 64 bits, so it cannot be counted up.")
    return number


def _fits(number: int) -> bool:
    return -(1 << 63) <= number < 1 << 63


def _sweep(records: dict[bytes, Record], now: float, limit: int | None = None) -> list[bytes]:
    """Delete what has expired, up to a limit; return the keys of that."""
    expired = list(islice((key for key, record in records.items() if record.deadline <= now), limit))
    for key in expired:
        del records[key]
    return expired
