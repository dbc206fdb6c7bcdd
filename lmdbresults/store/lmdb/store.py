"""LMDBStore: the port over records in the environment of one file."""

import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, TypeVar

import lmdb

from lmdbresults.errors import NestedTransaction, StoreFull
from lmdbresults.options import Options, options_from_url
from lmdbresults.process.fork_gate import gate
from lmdbresults.store.base import KEEP, Keep, Progress, ReadTransaction, Store, Subscription, WriteTransaction
from lmdbresults.store.lmdb.durability.sidecar import last_checkpoint_at
from lmdbresults.store.lmdb.engine.environment import Environment
from lmdbresults.store.lmdb.engine.long_reader import LongReader
from lmdbresults.store.lmdb.engine.registry import environments
from lmdbresults.store.lmdb.engine.signal_safe import Block, Steps
from lmdbresults.store.lmdb.file.verify import refuse_broken, verify
from lmdbresults.store.lmdb.maintenance.backup import backup
from lmdbresults.store.lmdb.maintenance.upgrade import acquire
from lmdbresults.store.lmdb.notify.folder import WakeFolder
from lmdbresults.store.lmdb.notify.notifier import Notifier
from lmdbresults.store.lmdb.notify.subscription import LMDBSubscription
from lmdbresults.store.lmdb.records import records
from lmdbresults.store.lmdb.records.hand import Keeper
from lmdbresults.store.lmdb.records.layout import RECORD, VALUE_AT
from lmdbresults.store.lmdb.records.scan import count_others, ordered, scan
from lmdbresults.store.lmdb.records.skim import skim
from lmdbresults.store.lmdb.records.sweeper import Sweeper, Swept
from lmdbresults.store.lmdb.transactions import (
    CLOSED,
    ENDED,
    Reading,
    Scope,
    Writing,
    increment,
    put,
    remove,
    run_step,
    run_update,
    run_view,
)
from lmdbresults.store.lmdb.types import FINAL, ONE, Transaction
from lmdbresults.store.values import NEVER

if TYPE_CHECKING:
    from lmdbresults.store.lmdb.maintenance.check import Problem

__all__ = ["LMDBStore", "Stats", "open_store"]

Result = TypeVar("Result")

#: Records deleted at once when there is no space: few, because each may first cost pages of the reserve.
_RECLAIM_BATCH: Final = 32
#: Records looked at before a write fails for want of space: for about 0.2 seconds.
_RECLAIM_LOOKS: Final = 200_000
#: Seconds for which readers are given time to finish, and between two tries.
_READERS_PATIENCE: Final = 0.5
_READERS_PAUSE: Final = 0.002
#: Problems repaired in one transaction, and seconds for other writers after it.
_REPAIR_BATCH: Final = 256
_REPAIR_PAUSE: Final = 0.0005


#: Returns the number of the commit that a transaction reads.
_number_of: Final[Callable[[Transaction], int]] = methodcaller("id")


def open_store(path_or_url: str | os.PathLike[str], **options: Any) -> "LMDBStore":
    """Open the store at a path or an ``lmdb://`` URL; create the file if it does not exist.

    Options are those of `Options`, such as ``durability="none"`` or ``max_size=8 << 30``, and win over the URL's.
    Raises `ConfigurationError` for a bad URL or option, or an `OpenError` if the file cannot or must not be opened.
    """
    return LMDBStore(options_from_url(path_or_url, **options))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Figures about a store. Cheap to get, except for `chunks`: a millisecond for each 100 MB of large values."""

    path: str
    """The data file."""
    records: int
    """Records, with expired ones that were not deleted yet."""
    chunks: int
    """Pieces of large values."""
    waiters: int
    """Subscriptions to changes of keys, over all processes."""
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
    oldest_reader: LongReader | None
    """The read transaction that keeps the most pages from reuse; None if none is open."""
    checkpoint_at: float | None
    """When the last checkpoint was made, in seconds since the epoch; None if there is none."""


class LMDBStore(Store):
    """The `Store` in one LMDB file. Threads may share it; after a fork, parent and child can both use it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._clock = options.clock
        self._prefix = options.global_keyprefix.encode()
        self._environment: Environment = acquire(options, self)
        self._scope = Scope(self._prefix, self._clock, self._environment.file, Keeper())
        self._folder = WakeFolder(self._environment.path, options.mode)
        self._notifier = Notifier(self._folder, self._prefix)
        self._subscriptions: weakref.WeakSet[LMDBSubscription] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r})"

    def __reduce__(self) -> tuple[type["LMDBStore"], tuple[Options]]:
        return type(self), (self.options,)

    # -- single operations ---------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        return self._environment.read(records.lookup, self._prefix + key, self._clock())

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return self._look(keys)[1]

    def set(
        self, key: bytes, value: bytes, ttl: float | None = None, *, keep_prefix: bytes = b"", interim: bool = False
    ) -> bool:
        is_stored: bool = self._write(run_step, put, key, value, ttl, keep_prefix or None, interim)
        return is_stored

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        is_stored: bool = self._write(run_step, put, key, value, ttl, b"", False)
        return is_stored

    def delete(self, key: bytes) -> bool:
        existed: bool = self._write(run_step, remove, key)
        return existed

    def incr(self, key: bytes, by: int = 1, ttl: float | Keep | None = KEEP) -> int:
        count: int = self._write(run_step, increment, key, by, ttl)
        return count

    def _write(self, step: Callable[..., Any], *args: Any) -> Any:
        """Run a step in a transaction, and notify of what it has changed; return its result."""
        try:
            result, changes, (number, hand), has_written = self._environment.write(step, self._scope, *args)
        except StoreFull:
            result, changes, (number, hand), has_written = self._retry_with_space(step, self._scope, *args)
        self._scope.keeper.known = (number if has_written else number - 1, hand)
        if changes:
            self._notifier.send(changes, number)
        return result

    def notify(self, topic: bytes, *, one: bool = False) -> None:
        self._notifier.send([(self._prefix + topic, ONE if one else FINAL, None, NEVER)], self.moment())

    def scan(self, prefix: bytes = b"", *, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        # As a generator, it keeps the store from becoming garbage, and the file from being closed.
        yield from scan(self._environment.read, self._prefix, prefix, self._clock, head)

    def range(
        self, prefix: bytes = b"", start: bytes = b"", limit: int | None = None, *, head: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        yield from ordered(self._environment.read, self._prefix, prefix, self._clock, head, start, limit)

    @property
    def entry_layout(self) -> tuple[int, int]:
        """See `lmdbresults.store.base.Skimmable`."""
        return len(RECORD + self._prefix), VALUE_AT

    def skim(self, prefix: bytes, visit: Callable[[Iterator[tuple[bytes, bytes]]], Result]) -> Iterator[Result]:
        """See `lmdbresults.store.base.Skimmable`."""
        yield from skim(self._environment.read, self._prefix + prefix, visit)

    # -- transactions --------------------------------------------------------------------------------------------

    def view(self, operation: Callable[[ReadTransaction], Result]) -> Result:
        result: Result = self._environment.read(run_view, self._scope, operation)
        self._environment.file.require_usable()  # not in a child that the operation has forked
        return result

    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        result: Result = self._write(run_update, operation)
        return result

    def read(self) -> AbstractContextManager[ReadTransaction]:
        """Return a context manager for a snapshot. Leave it soon: the pages that it sees cannot be reused meanwhile.

        Raises `NestedTransaction` inside another transaction of this thread on the same file.
        """
        return Block(self._read_block())

    def _read_block(self) -> Steps[None]:
        txn = Reading(self._scope, ENDED)
        try:
            yield from self._environment.lend(txn.begin)
        finally:
            txn.end()
        yield 0

    def write(self) -> AbstractContextManager[WriteTransaction]:
        """Return a context manager for a transaction that commits at its end and is undone by an exception.

        Other writers wait meanwhile. Raises `NestedTransaction` like `read`, and `StoreFull`.
        """
        return Block(self._write_block())

    def _write_block(self) -> Steps[None]:
        txn, moment = Writing(self._scope, ENDED), 0

        def before_commit() -> None:
            nonlocal moment
            moment, _ = txn.finish()

        try:
            failure = yield from self._environment.lend(txn.begin, before_commit)
            if failure is None:
                self._notifier.send(txn.changes, moment)
            elif isinstance(failure, StoreFull):
                self._reclaim()  # a block cannot be run again, but the caller's next try finds more space
        except StoreFull:
            self._reclaim()  # raised as the hand moved, or by the commit
            raise
        finally:
            txn.end()
        yield 0

    def _retry_with_space(self, step: Callable[..., Any], *args: Any) -> Any:
        """Free space and run a step again, until it succeeds or nothing more can be freed; return its result.

        If LMDB itself finds no space although some is reserved, a reader keeps old pages from reuse. It is given time
        to finish: as long as it may have to wait for the processor.
        """
        looked, until = 0, time.monotonic() + _READERS_PATIENCE
        while True:
            swept = self._reclaim(_RECLAIM_LOOKS - looked)
            looked += swept.looked
            try:
                return self._environment.write(step, *args)
            except StoreFull as full:
                if swept.removed:
                    continue
                if not isinstance(full.__cause__, lmdb.Error) or time.monotonic() > until:
                    raise StoreFull(f"{full} {_extent(swept, looked)}") from full.__cause__ or full
                time.sleep(_READERS_PAUSE)

    # -- expiry --------------------------------------------------------------------------------------------------

    def sweep(self, limit: int | None = None, max_seconds: float | None = None) -> int:
        """Delete expired records, up to ``limit`` or for about ``max_seconds``; return how many.

        The sweep looks at all records once, in the order of their keys, and begins where the last one stopped. However
        short the time, some are looked at. Other writers can write in between. Also clears what killed readers and
        waiters have left.
        """
        self._environment.clear_dead_readers()
        self._notifier.remove_orphaned_boxes()
        swept = self._sweeper().run(
            math.inf if limit is None else limit, math.inf if max_seconds is None else max_seconds
        )
        return swept.removed

    def _sweeper(self) -> Sweeper:
        return Sweeper(self._environment, self._clock, self._notifier.send)

    def _reclaim(self, looks: int = _RECLAIM_LOOKS) -> Swept:
        """Free space: a few expired records, and pages that a checkpoint or killed readers keep from reuse.

        Look at up to so many records for expired ones.
        """
        try:
            self._environment.release_pages()
            swept = self._sweeper().run(limit=_RECLAIM_BATCH, most=looks)
            for _ in range(2):
                self._environment.write(records.touch, durably=False)
        except StoreFull:
            return Swept(0, 0, False)
        return swept

    # -- waiting -------------------------------------------------------------------------------------------------

    def subscribe(self) -> Subscription:
        subscription = LMDBSubscription(self._folder, self._prefix, self._look, self._notifier.pass_on, self._clock)
        self._subscriptions.add(subscription)
        return subscription

    def _look(self, keys: Iterable[bytes]) -> tuple[int, list[bytes | None]]:
        """Return the moment of a snapshot, and the values that keys have in it."""
        wanted = [self._prefix + key for key in keys]
        return self._environment.read(_lookup_all, wanted, self._clock())

    def moment(self) -> int:
        number: int = self._environment.read(_number_of)
        return number

    # -- the whole -----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Return once everything written so far survives a power failure. Raises `StoreError` if the disk fails."""
        self._environment.flush()

    def check(self, *, deep: bool = False) -> list[str]:
        """Return the problems found, one sentence each; an empty list means that the store is sound.

        ``deep`` verifies the file below the records as well.
        """
        if deep:  # in a subprocess: LMDB could crash on a damaged page
            return verify(self._environment.path, live=True)
        from lmdbresults.store.lmdb.maintenance.check import check  # rarely needed, with the modules of queues

        return self._environment.read(lambda raw: [problem.text for problem in check(raw)])

    def repair(self) -> list[str]:
        """Delete orphaned data, and count the messages of queues again; return a sentence for each repair.

        Damaged records are left: delete their keys, or restore a backup. Raises `FileDamaged` if the file is damaged
        below its records, or `StoreFull`.
        """
        from lmdbresults.store.lmdb.maintenance.check import repair, repairable  # rarely needed
        from lmdbresults.store.queues.counting import recount

        def repair_some(raw: Transaction, problems: "list[Problem]") -> list[str]:
            self._environment.file.reserve_for_delete(raw)
            return repair(raw, problems)

        refuse_broken(self._environment.path)
        problems = self._environment.read(repairable)
        done: list[str] = []
        for start in range(0, len(problems), _REPAIR_BATCH):
            time.sleep(_REPAIR_PAUSE)
            done += self._environment.write(repair_some, problems[start : start + _REPAIR_BATCH])
        return done + self.update(recount)

    def backup(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
    ) -> None:
        """Write a copy of the store, as of one moment, to a file that can be opened in its place.

        Others may read and write meanwhile. The file (mode 0600) appears once it is complete and on disk. ``progress``
        is called with the bytes written so far and about how many there will be. Raises `TargetExists` if the file
        exists and ``overwrite`` is not set.
        """
        backup(self._environment.path, os.path.abspath(path), self.stats().live_size, overwrite, progress)

    def stats(self) -> Stats:
        """Return figures about the file."""
        reader = self._environment.file.oldest_reader()  # before this thread begins to read
        return self._environment.read(self._stats, reader)

    def _stats(self, raw: Transaction, reader: LongReader | None) -> Stats:
        tree, info = raw.stat(), self._environment.info()
        chunks, others = count_others(raw)
        return Stats(
            path=self.options.path,
            records=tree["entries"] - chunks - others,
            chunks=chunks,
            waiters=self._notifier.waiters(),
            live_size=(tree["branch_pages"] + tree["leaf_pages"] + tree["overflow_pages"]) * tree["psize"],
            file_size=os.stat(self.options.path).st_size,
            max_size=info["map_size"],
            depth=tree["depth"],
            readers=info["num_readers"],
            oldest_reader=reader,
            checkpoint_at=last_checkpoint_at(self.options.path),
        )

    def close(self) -> None:
        if self._environment is CLOSED:
            return
        gate.refuse_in_transaction()
        for subscription in list(self._subscriptions):
            subscription.close()
        self._notifier.close()
        environment, self._environment = self._environment, CLOSED
        if environment is CLOSED:  # closed by another thread meanwhile
            return
        try:
            environments.release(environment, self)
        except NestedTransaction:
            self._environment = environment
            raise


def _extent(swept: Swept, looked: int) -> str:
    """Return how far expired records were looked for."""
    if swept.is_over:
        return "It holds no more expired records."
    return f"{looked} records were looked at for expired ones; sweep() looks at all."


def _lookup_all(raw: Transaction, keys: list[bytes], now: float) -> tuple[int, list[bytes | None]]:
    return raw.id(), [records.lookup(raw, key, now) for key in keys]
