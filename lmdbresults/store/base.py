"""The Store port: what backends need from storage, and what every engine promises.

Every operation is atomic across threads and processes. What only some engines can do is a capability: a small protocol
to ask for with `isinstance`, such as `Sweepable`.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from lmdbresults.process.identity import Owner, current_owner
from lmdbresults.store.chords import TransactionalChords
from lmdbresults.store.transactions import EVERY_COMMIT, KEEP, Keep, ReadTransaction, WriteTransaction

if TYPE_CHECKING:
    from lmdbresults.store.queues.transactional import TransactionalQueues

__all__ = [
    "EVERY_COMMIT",
    "KEEP",
    "Checkable",
    "Copyable",
    "Durable",
    "Interactive",
    "Keep",
    "Listing",
    "Measurable",
    "Progress",
    "ReadTransaction",
    "Replacing",
    "Skimmable",
    "Store",
    "Subscription",
    "Sweepable",
    "WriteTransaction",
]

Result = TypeVar("Result")
#: Called with the work done so far and the whole of it.
Progress: TypeAlias = Callable[[int, int], object]


class Subscription(ABC):
    """Keys that one waiter follows, and the messages that say which of them have changed, in whichever process.

    A message is a hint to look. It may come without reason, and it is lost if the writer dies between its commit and
    the message. So a waiter also looks again after a while, for instance when `Store.moment` has changed. Threads may
    share a subscription, but only one at a time may call `receive` or `drain`.
    """

    #: Seconds between two looks at least, for an engine that notices lost messages; see `lmdbresults.store.following`.
    look_every: float = 0.0

    @abstractmethod
    def add(self, keys: Iterable[bytes], *, every_change: bool = False) -> dict[bytes, bytes | None]:
        """Follow some keys, then return their values as of a moment not before that, so no change is missed.

        A key is followed until `remove`, whatever its value: remove what need not be waited for. ``every_change`` has
        messages arrive for interim values too. Raises `RecordDamaged` like `Store.mget`; the keys are followed then.

        Where no messages can arrive (no sockets, closed), only the values are returned.
        """

    def follow(self, keys: Collection[bytes], *, every_change: bool = False) -> None:
        """Follow some keys like `add`, without reading them: topics, say. Look for what they announce after that."""
        self.add(keys, every_change=every_change)

    @abstractmethod
    def remove(self, keys: Iterable[bytes]) -> None:
        """Stop following some keys. A key that is not followed is skipped.

        A message for ``one`` subscriber (`WriteTransaction.notify`) may have come before. `drain` returns its topic no
        more, but passes it on to another subscriber; so does `close`.
        """

    @abstractmethod
    def receive(self, timeout: float) -> Mapping[bytes, bytes | None] | None:
        """Wait for messages for up to ``timeout`` seconds; return the keys that have changed, with their new values.

        None: any key may have changed. A value is None if it must be read. Else it was committed after the last `add`,
        and may have been replaced since.
        """

    def drain(self) -> Collection[bytes] | None:
        """Return, without waiting, the keys that `receive` would return."""
        changed = self.receive(0)
        return None if changed is None else changed.keys()

    @abstractmethod
    def fileno(self) -> int:
        """Return a descriptor that becomes readable when messages arrive; -1 if none can, so one must poll."""

    @abstractmethod
    def ring(self) -> None:
        """Make `fileno` readable, so that the thread that waits for it returns; `drain` returns nothing for it."""

    @abstractmethod
    def close(self) -> None:
        """Stop following all keys, and wake the thread that waits for `fileno`. Closing twice is fine."""


class Store(WriteTransaction):
    """Values by key. Each method of a transaction, called on the store, is a transaction of its own.

    An engine implements `view`, `update`, `subscribe` and `close`. The rest has defaults over these, which an engine
    overrides where it can do better.
    """

    # -- transactions ----------------------------------------------------------------------------------------------

    @abstractmethod
    def view(self, operation: Callable[[ReadTransaction], Result]) -> Result:
        """Return ``operation(txn)``, run over one snapshot.

        The operation may be called again, so it must have no effect of its own. Keep it short: pages that the snapshot
        sees cannot be reused meanwhile. Raises `NestedTransaction` inside an `update` of this thread on the same
        store.
        """

    @abstractmethod
    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        """Return ``operation(txn)`` once its changes are committed; an exception undoes them.

        The operation may be called again after a first call was undone, for instance to free space, so it must have no
        effect of its own. Other writers wait meanwhile. Raises `NestedTransaction` like `view`, and
        `StoreFull`.
        """

    def get(self, key: bytes) -> bytes | None:
        return self.view(lambda txn: txn.get(key))

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        wanted = list(keys)
        return self.view(lambda txn: txn.mget(wanted))

    def ttl(self, key: bytes) -> float | None:
        return self.view(lambda txn: txn.ttl(key))

    def ttls(self, keys: Iterable[bytes]) -> list[float | None]:
        """Return for many keys, in their order, what `ttl` returns for one."""
        wanted = list(keys)
        return self.view(lambda txn: [txn.ttl(key) for key in wanted])

    def now(self) -> float:
        return self.view(lambda txn: txn.now())

    def scan(self, prefix: bytes = b"", *, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        yield from self.view(lambda txn: list(txn.scan(prefix, head=head)))

    def range(
        self, prefix: bytes = b"", start: bytes = b"", limit: int | None = None, *, head: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        yield from self.view(lambda txn: list(txn.range(prefix, start, limit, head=head)))

    def set(
        self, key: bytes, value: bytes, ttl: float | None = None, *, keep_prefix: bytes = b"", interim: bool = False
    ) -> bool:
        return self.update(lambda txn: txn.set(key, value, ttl, keep_prefix=keep_prefix, interim=interim))

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        return self.update(lambda txn: txn.add(key, value, ttl))

    def delete(self, key: bytes) -> bool:
        return self.update(lambda txn: txn.delete(key))

    def move(self, key: bytes, new_key: bytes, value: bytes) -> None:
        self.update(lambda txn: txn.move(key, new_key, value))

    def incr(self, key: bytes, by: int = 1, ttl: float | Keep | None = KEEP) -> int:
        return self.update(lambda txn: txn.incr(key, by, ttl))

    def expire(self, key: bytes, ttl: float | None) -> bool:
        return self.update(lambda txn: txn.expire(key, ttl))

    def notify(self, topic: bytes, *, one: bool = False) -> None:
        self.update(lambda txn: txn.notify(topic, one=one))

    # -- chords, queues and liveness -------------------------------------------------------------------------------

    @property
    def chords(self) -> TransactionalChords:
        """The chords of this store. An engine without arbitrary transactions returns its own."""
        return TransactionalChords(self)

    @cached_property
    def queues(self) -> "TransactionalQueues":
        """The queues of this store. An engine without them raises `Unsupported`, so ``hasattr`` returns False."""
        from lmdbresults.store.queues.transactional import TransactionalQueues  # results alone need none of it

        return TransactionalQueues(self)

    def owner(self) -> Owner:
        """Return what this process owns claims by."""
        return current_owner()

    def is_alive(self, owner: Owner) -> bool:
        """Return whether an owner of claims still runs."""
        return owner.is_alive()

    # -- waiting ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def subscribe(self) -> "Subscription":
        """Return a new subscription, for one thread or event loop to read. The caller closes it."""

    def moment(self) -> int | None:
        """Return a number that differs after every change, so that there is nothing new while it stays.

        None: the engine has no such number, so look every time.
        """
        return None

    # -- the end ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """Release what the store holds; using it afterwards raises `StoreClosed`. Closing twice is fine."""

    def __enter__(self: "Self") -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


Self = TypeVar("Self", bound=Store)


# -- capabilities ------------------------------------------------------------------------------------------------------


@runtime_checkable
class Interactive(Protocol):
    """A store whose transactions can be ``with`` blocks, which cannot be run again."""

    def read(self) -> AbstractContextManager[ReadTransaction]:
        """Return a context manager for a snapshot; see `Store.view`."""

    def write(self) -> AbstractContextManager[WriteTransaction]:
        """Return a context manager for a transaction that commits at its end; see `Store.update`."""


@runtime_checkable
class Sweepable(Protocol):
    """A store that deletes expired records itself, a few with each write."""

    def sweep(self, limit: int | None = None, max_seconds: float | None = None) -> int:
        """Delete expired records, up to ``limit`` or for about ``max_seconds``; return how many.

        However short the time, a few records are looked at. Other writers can write in between. No call is needed while
        the store is written to.
        """


@runtime_checkable
class Durable(Protocol):
    """A store whose data survives a power failure."""

    def flush(self) -> None:
        """Return once everything written so far survives a power failure. Raises `StoreError` if the disk fails."""


@runtime_checkable
class Replacing(Protocol):
    """A store of a server, which can write many values at once, each only if it is as it was read."""

    def replace_many(self, writes: Sequence[tuple[bytes, bytes | None, bytes, float | None]]) -> list[bool]:
        """Store values whose keys have the expected ones; return for each whether it was stored.

        A write is key, expected value (None: there is none), value and seconds to live.
        """


@runtime_checkable
class Listing(Protocol):
    """A store of a server, which must remember each key to name it once."""

    def keys(self) -> Iterator[bytes]:
        """Yield all keys, some perhaps twice, in memory that does not grow with their number."""


@runtime_checkable
class Checkable(Protocol):
    """A store that can verify itself."""

    def check(self, *, deep: bool = False) -> list[str]:
        """Return the problems found, one sentence each; an empty list means that the store is sound.

        ``deep`` verifies the file below the records as well.
        """


@runtime_checkable
class Copyable(Protocol):
    """A store that can be backed up to a file."""

    def backup(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
    ) -> None:
        """Write a copy of the store, as of one moment, to a file that can be opened in its place.

        Others may read and write meanwhile. The file (mode 0600) appears once it is complete and on disk. ``progress``
        is called with the bytes written so far and about how many there will be. Raises `TargetExists` if the file
        exists and ``overwrite`` is not set.
        """


@runtime_checkable
class Measurable(Protocol):
    """A store that has figures about itself."""

    def stats(self) -> Any:
        """Return the figures, which depend on the engine."""


@runtime_checkable
class Skimmable(Protocol):
    """A store that shows its records as they lie: fast enough to look at the head of every one."""

    @property
    def entry_layout(self) -> tuple[int, int]:
        """Where the key begins in the first part of an entry, and the value in the second.

        Before the value lie its deadline (a big-endian float; 0: never) and a byte that is 0 if it lies there whole.
        """

    def skim(self, prefix: bytes, visit: Callable[[Iterator[tuple[bytes, bytes]]], Result]) -> Iterator[Result]:
        """Yield ``visit(entries)`` for slices of all entries whose key begins with ``prefix``, expired ones included.

        ``visit`` reads each slice to its end, in which time it must not use the store. Nothing is verified: read what
        is shown to a user by `get`.
        """
