"""LMDBStore: environment and records behind the port."""

import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from lmdbresults.errors import NestedTransaction, StoreClosed, StoreFull
from lmdbresults.options import Options, options_from_url
from lmdbresults.store import records, waiters
from lmdbresults.store.base import KEEP, Mailbox, ReadTransaction, Store, WriteTransaction, _Keep
from lmdbresults.store.block import Block, Steps, Undone, lend
from lmdbresults.store.check import check
from lmdbresults.store.environment import Environment, Transaction
from lmdbresults.store.mailbox import LMDBMailbox, WakeFolder
from lmdbresults.store.pieces import PIECE_BYTES
from lmdbresults.store.register import register
from lmdbresults.store.waiters import News

__all__ = ["LMDBStore", "Stats", "open_store"]

Result = TypeVar("Result")

#: What a write sweeps along the way, besides twice what it adds: so the store shrinks to what has not expired, and
#: the time stays in the order of the write itself (each record that goes dirties a page: about 5 µs).
_SWEEP_PER_WRITE: Final = 8
#: Seconds after which a writer looks at the index again; another process may have stored something short-lived.
_LOOK_AGAIN: Final = 1.0
#: What a sweep does under one hold of the write lock (a few milliseconds), and how long it lets others have it then.
_SWEEP_BATCH: Final = 256
_SWEEP_PAUSE: Final = 0.0005
#: What is taken down at once when there is no room: few, because each record may cost pages of the reserve first.
_RECLAIM_BATCH: Final = 32
#: What a record takes besides key and value: its head, its entry in the index, the nodes of both.
_RECORD_COST: Final = 128
_SCAN_PAGE: Final = 500
#: Seconds that a vacant record stands in for one that is waited for. Then whoever waits is woken and registers again;
#: of who was killed nothing is left.
_WATCH_LIFE: Final = 3600.0


def open_store(path_or_url: str | os.PathLike[str], **options: Any) -> "LMDBStore":
    """Open the store at a path or an ``lmdb://`` URL; the file is created if it does not exist.

    Options are those of `Options`, such as ``durability="none"`` or ``max_size=8 << 30``, and win over the URL's.
    Raises `ConfigurationError` for a bad URL or option, an `OpenError` if the file cannot or should not be opened.
    """
    return LMDBStore(options_from_url(path_or_url, **options))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Figures about a store, cheap to get."""

    path: str
    """The data file."""
    entries: int
    """Keys in the tree: records, entries of the expiry index and pieces of large values."""
    live_size: int
    """Bytes in pages that hold data."""
    file_size: int
    """Bytes that the file takes on disk: live, free for reuse, and allocated ahead."""
    max_size: int
    """Bytes that the file may grow to in this process."""
    depth: int
    """Levels of the tree."""
    readers: int
    """Slots in use in the reader table, over all processes."""


class LMDBStore(Store):
    """The `Store` in one LMDB file. Threads may share it; after a fork, parent and child each go on with it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._clock = options.clock
        self._prefix = options.global_keyprefix.encode()
        #: When this store has last looked for expired records, and when it has to look again.
        self._looked_at = self._look_again_at = -math.inf
        self._environment: Environment = register.acquire(options)
        self._wakes = WakeFolder(self._environment.path, options.mode)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r})"

    def __reduce__(self) -> tuple[type["LMDBStore"], tuple[Options]]:
        return type(self), (self.options,)

    # -- single operations ---------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        return self._environment.read(records.lookup, self._prefix + key, self._clock())

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        wanted = [self._prefix + key for key in keys]
        return self._environment.read(_lookup_all, wanted, self._clock())

    def ttl(self, key: bytes) -> float | None:
        with self.read() as txn:
            return txn.ttl(key)

    def set(
        self,
        key: bytes,
        value: bytes,
        ttl: float | None = None,
        *,
        unless_prefix: bytes = b"",
        interim: bool = False,
    ) -> bool:
        return self._apply(_Write.put, key, value, ttl, unless_prefix or None, interim)

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        return self._apply(_Write.add, key, value, ttl)

    def delete(self, key: bytes) -> bool:
        return self._apply(_Write.delete, key)

    def incr(self, key: bytes, by: int = 1, ttl: float | _Keep | None = KEEP) -> int:
        return self._apply(_Write.incr, key, by, ttl)

    def expire(self, key: bytes, ttl: float | None) -> bool:
        return self._apply(_Write.expire, key, ttl)

    # -- transactions --------------------------------------------------------------------------------------------

    def read(self) -> AbstractContextManager[ReadTransaction]:
        return Block(self._read())

    def _read(self) -> Steps:
        txn, failure = _Read(self, _ENDED), None
        try:
            with self._environment.transaction(write=False) as txn._raw:
                failure = yield from lend(txn)
                if failure is not None:
                    raise Undone(failure)
        except Undone:
            pass
        finally:
            txn.end()
        yield 0

    def write(self) -> AbstractContextManager[WriteTransaction]:
        return Block(self._write())

    def _write(self) -> Steps:
        txn, failure = _Write(self, _ENDED), None
        try:
            with self._environment.transaction(write=True) as txn._raw:
                failure = yield from lend(txn)
                if failure is not None:
                    raise Undone(failure)
                self._sweep_along(txn._raw, txn)
            self._wakes.send(txn.news)
        except Undone:
            if isinstance(failure, StoreFull):
                self._reclaim()  # what the block did cannot be done again from here; the next try has more room
        except StoreFull:
            self._reclaim()  # what sweeping along or the commit has raised
            raise
        finally:
            txn.end()
        yield 0

    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        result: Result = self._make_room_for(self._run_foreign, operation)
        return result

    def _run_foreign(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        """Run what is not ours, and may do anything, fork included: in a transaction that is prepared for it."""
        txn = _Write(self, _ENDED)
        try:
            with self._environment.transaction(write=True) as txn._raw:
                result = operation(txn)
                self._sweep_along(txn._raw, txn)
            self._wakes.send(txn.news)
            return result
        finally:
            txn.end()

    def _apply(self, verb: Callable[..., Result], *args: Any) -> Result:
        """Run a method of `_Write` in a transaction of its own."""
        result: Result
        try:
            result, news = self._environment.write(self._run, verb, args)
        except StoreFull:
            result, news = self._make_room_for(self._environment.write, self._run, verb, args)
        if news:
            self._wakes.send(news)
        return result

    def _run(self, raw: Transaction, verb: Callable[..., Result], args: tuple[Any, ...]) -> tuple[Result, list[News]]:
        txn = _Write(self, raw)
        result = verb(txn, *args)
        self._sweep_along(raw, txn)
        return result, txn.news

    def _make_room_for(self, attempt: Callable[..., Any], *args: Any) -> Any:
        """Return what the attempt returns. If there is no room, sweep and try again until there is nothing to sweep."""
        more = True
        while True:
            try:
                return attempt(*args)
            except StoreFull:
                if not more:
                    raise
                more = self._reclaim()

    # -- expiry --------------------------------------------------------------------------------------------------

    def sweep(self, limit: int | None = None, max_seconds: float | None = None) -> int:
        until = math.inf if max_seconds is None else time.monotonic() + max_seconds
        self._environment.clear_dead_readers()
        self._clear_dead_waiters()
        removed, more = 0, True
        while more and (limit is None or removed < limit) and time.monotonic() < until:
            if removed:
                time.sleep(_SWEEP_PAUSE)
            most = _SWEEP_BATCH if limit is None else min(limit - removed, _SWEEP_BATCH)
            gone, more = self._sweep_batch(most, _SWEEP_BATCH)
            removed += gone
        return removed

    def _sweep_batch(self, limit: int, budget: int) -> tuple[int, bool]:
        """Sweep in one transaction; in a smaller one if not even the pages that it copies find room."""
        while True:
            try:
                removed, more, news = self._environment.write(self._sweep_records, limit, budget)
                self._wakes.send(news)
                return removed, more
            except StoreFull:
                if budget == 1:
                    raise
                budget = max(budget // 8, 1)

    def _sweep_records(self, raw: Transaction, limit: int, budget: int) -> tuple[int, bool, list[News]]:
        news: list[News] = []
        self._environment.make_room(raw, None)
        return *records.sweep(raw, self._clock(), limit, budget, news), news

    def _sweep_along(self, raw: Transaction, txn: "_Write") -> None:
        """Sweep more than was added, if something may have expired since the last look, or the clock was set back."""
        now = self._clock()
        if self._looked_at <= now < self._look_again_at:
            return
        budget = _SWEEP_PER_WRITE + 2 * txn.changes
        _, more = records.sweep(raw, now, budget, budget, txn.news)
        self._looked_at = now
        self._look_again_at = now if more else min(records.next_deadline(raw), now + _LOOK_AGAIN)

    def _reclaim(self) -> bool:
        """Make room by what has expired and by what dead readers pin; return whether there was anything to sweep."""
        self._environment.clear_dead_readers()
        _, more = self._sweep_batch(_RECLAIM_BATCH, _RECLAIM_BATCH)
        for _ in range(2):
            self._environment.write(records.touch)
        return more

    # -- waiting -------------------------------------------------------------------------------------------------

    def mailbox(self) -> Mailbox:
        return LMDBMailbox(self, self._wakes)

    def moment(self) -> int:
        return self._environment.read(Transaction.id)

    def topic_of(self, key: bytes) -> bytes:
        """Return what stands for a key in messages."""
        return waiters.topic_of(records.place_of(self._prefix + key))

    def watch(
        self, keys: list[bytes], is_pending: Callable[[bytes | None], bool], box: bytes, every_change: bool
    ) -> list[bytes]:
        """Register a mailbox for those keys that are pending, in one transaction; return the others."""
        return self._apply(_Write.watch, keys, is_pending, box, every_change)

    def unwatch(self, keys: list[bytes], box: bytes) -> None:
        """Take the registrations of a mailbox back, in one transaction."""
        places = [(records.place_of(self._prefix + key), box) for key in keys]
        self._environment.write(self._unwatch, places)

    def _unwatch(self, raw: Transaction, registrations: list[tuple[bytes, bytes]]) -> None:
        self._environment.make_room(raw, None)
        for place, box in registrations:
            records.unwatch(raw, place, box)

    def _clear_dead_waiters(self) -> None:
        """Take back the registrations of processes that were killed, and remove their sockets."""
        self._wakes.remove_dead()
        is_alive = functools.cache(self._wakes.is_alive)
        start: bytes | None = b""
        while start is not None:
            found, start = self._environment.read(waiters.page, start, _SCAN_PAGE)
            dead = [(place, box) for place, box in found if not is_alive(box)]
            if dead:
                self._environment.write(self._unwatch, dead)

    # -- the whole -----------------------------------------------------------------------------------------------

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        start: bytes | None = b""
        while start is not None:
            pairs, start = self._environment.read(records.page, self._prefix + prefix, start, self._clock(), _SCAN_PAGE)
            for key, value in pairs:
                yield key[len(self._prefix) :], value

    def check(self) -> list[str]:
        return self._environment.read(lambda raw: list(check(raw)))

    def stats(self) -> Stats:
        return self._environment.read(self._stats)

    def _stats(self, raw: Transaction) -> Stats:
        tree, info = raw.stat(), self._environment.handle().info()
        return Stats(
            path=self.options.path,
            entries=tree["entries"],
            live_size=(tree["branch_pages"] + tree["leaf_pages"] + tree["overflow_pages"]) * tree["psize"],
            file_size=os.stat(self.options.path).st_size,
            max_size=info["map_size"],
            depth=tree["depth"],
            readers=info["num_readers"],
        )

    def close(self) -> None:
        environment, self._environment = self._environment, _CLOSED
        if environment is _CLOSED:
            return
        try:
            register.release(environment)
        except NestedTransaction:
            self._environment = environment
            raise


class _Read(ReadTransaction):
    """The verbs of reading over a raw transaction."""

    __slots__ = ("_raw", "_store")

    def __init__(self, store: LMDBStore, raw: Transaction) -> None:
        self._store = store
        self._raw = raw

    def end(self) -> None:
        self._raw = _ENDED

    def get(self, key: bytes) -> bytes | None:
        return records.lookup(self._raw, self._store._prefix + key, self._store._clock())

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def ttl(self, key: bytes) -> float | None:
        now = self._store._clock()
        found = records.entry(self._raw, self._store._prefix + key, now)
        if found is None:
            return None
        return found.deadline - now if found.deadline else math.inf

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        own = self._store._prefix
        start: bytes | None = b""
        while start is not None:
            pairs, start = records.page(self._raw, own + prefix, start, self._store._clock(), _SCAN_PAGE)
            for key, value in pairs:
                yield key[len(own) :], value


class _Write(_Read, WriteTransaction):
    """The verbs of writing over a raw transaction."""

    __slots__ = ("changes", "news")

    def __init__(self, store: LMDBStore, raw: Transaction) -> None:
        self._store = store
        self._raw = raw
        #: Records and pieces that were added: what sweeping has to keep up with.
        self.changes = 0
        #: What to tell whom once this is committed.
        self.news: list[News] = []

    def set(
        self,
        key: bytes,
        value: bytes,
        ttl: float | None = None,
        *,
        unless_prefix: bytes = b"",
        interim: bool = False,
    ) -> bool:
        return self.put(key, value, ttl, unless_prefix or None, interim)

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        return self.put(key, value, ttl, b"")  # every value begins with nothing

    def put(
        self, key: bytes, value: bytes, ttl: float | None, unless_prefix: bytes | None, interim: bool = False
    ) -> bool:
        store = self._store
        key, now = store._prefix + key, store._clock()
        if not isinstance(value, bytes):
            value = bytes(memoryview(value))  # bytes() alone would take a number for a length
        store._environment.make_room(self._raw, len(key) + len(value) + _RECORD_COST)
        self.changes += 1 + len(value) // PIECE_BYTES
        return records.put(self._raw, key, value, _deadline(ttl, now), now, self.news, unless_prefix, interim)

    def delete(self, key: bytes) -> bool:
        self._store._environment.make_room(self._raw, None)
        return records.remove(self._raw, self._store._prefix + key, self._store._clock(), self.news)

    def watch(
        self, keys: list[bytes], is_pending: Callable[[bytes | None], bool], box: bytes, every_change: bool
    ) -> list[bytes]:
        """Register a mailbox for the keys that are pending; return the others."""
        ready = []
        for key in keys:
            if is_pending(self.get(key)):
                self._store._environment.make_room(self._raw, 2 * len(key) + 3 * _RECORD_COST)
                until = self._store._clock() + _WATCH_LIFE
                records.watch(self._raw, self._store._prefix + key, box, every_change, until)
                self.changes += 1
            else:
                ready.append(key)
        return ready

    def incr(self, key: bytes, by: int = 1, ttl: float | _Keep | None = KEEP) -> int:
        key, now = self._store._prefix + key, self._store._clock()
        deadline = None if isinstance(ttl, _Keep) else _deadline(ttl, now)
        self._store._environment.make_room(self._raw, len(key) + _RECORD_COST)
        self.changes += 1
        return records.increment(self._raw, key, by, deadline, now, self.news)

    def expire(self, key: bytes, ttl: float | None) -> bool:
        now = self._store._clock()
        self._store._environment.make_room(self._raw, None)
        return records.expire(self._raw, self._store._prefix + key, _deadline(ttl, now), now)


def _lookup_all(raw: Transaction, keys: list[bytes], now: float) -> list[bytes | None]:
    return [records.lookup(raw, key, now) for key in keys]


def _deadline(ttl: float | None, now: float) -> float:
    if not ttl:
        return records.NEVER
    if not ttl > 0:
        raise ValueError(f"ttl {ttl!r} will not do: it has to be a number of seconds, or None or 0 for no expiry.")
    return records.NEVER if ttl == math.inf else now + ttl


class _Gone:
    """Stands where something was that is no longer there, and says so to whoever wants to use it."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        raise StoreClosed(self._message)


_CLOSED: Any = _Gone("The store is closed. Open it again with open_store().")
_ENDED: Any = _Gone("The transaction has ended: use it inside its with block only.")
