"""The Store port: what a result backend needs from storage, and what every store promises.

A key is bytes, a value is bytes. ``ttl`` is in seconds, a float; None or 0 means: never expires. Every operation is
atomic across threads and processes. What has expired is invisible at once, whether or not it was swept.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, TypeAlias, TypeVar

__all__ = ["KEEP", "Mailbox", "Progress", "ReadTransaction", "Sent", "Store", "WriteTransaction"]

Result = TypeVar("Result")
#: What is called with the work done so far and all there is.
Progress: TypeAlias = Callable[[int, int], object]
#: A value that came with a message, so that it need not be looked for, behind the `Store.moment` of its commit.
Sent: TypeAlias = tuple[int, bytes]


class _Keep:
    """The type of `KEEP`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "KEEP"


#: As the ``ttl`` of `incr`: leave the deadline as it is.
KEEP: Final = _Keep()


class ReadTransaction(ABC):
    """What can be asked of one snapshot of the store. Usable inside its ``with`` block only."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """Return the value, or None if there is none. Raises `RecordDamaged` if it fails its checksum."""

    @abstractmethod
    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """Return the values of many keys, in their order, all from one moment."""

    @abstractmethod
    def ttl(self, key: bytes) -> float | None:
        """Return the seconds that a key has left: infinity if it never expires, None if there is no such key."""

    @abstractmethod
    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs of key and value whose key begins with ``prefix``, in no promised order.

        Called on a store, no snapshot is held between them: what changes meanwhile may or may not be seen. Raises
        `RecordDamaged`, if there is reason, at its end: once it has yielded all that can be read.
        """


class WriteTransaction(ReadTransaction):
    """What can be done in one transaction: all of it happens, or none. It reads its own writes."""

    @abstractmethod
    def set(
        self,
        key: bytes,
        value: bytes,
        ttl: float | None = None,
        *,
        unless_prefix: bytes = b"",
        interim: bool = False,
    ) -> bool:
        """Store a value, whatever was there before, and return True.

        ``unless_prefix`` protects a present value that begins with these bytes: then return False and change nothing.
        ``interim`` says that this is not the value that is waited for: it wakes only those who asked for every change.
        Raises `StoreFull`, or ValueError for a ttl that is negative or no number.
        """

    @abstractmethod
    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        """Store a value only if there is none; return whether it was stored."""

    @abstractmethod
    def delete(self, key: bytes) -> bool:
        """Delete a key; return whether it was there. Works when the store is full."""

    @abstractmethod
    def incr(self, key: bytes, by: int = 1, ttl: "float | _Keep | None" = KEEP) -> int:
        """Add to the counter under a key, which begins at 0, and return what it is now.

        A counter is a decimal number in ASCII of at most 64 bits. Raises `NotACounter` for any other value.
        """

    @abstractmethod
    def expire(self, key: bytes, ttl: float | None) -> bool:
        """Count the time that a key has left from now; return whether there is such a key."""


class Mailbox(ABC):
    """Where the news arrives that keys have changed, from whichever process changed them.

    News is a hint to look again. It may come for nothing, and it is lost with a process that dies between its commit
    and the message; so whoever waits looks again after a while in any case, by `Store.moment`. Threads may share a
    mailbox, as long as one at a time calls `receive` or `drain`.
    """

    @abstractmethod
    def register(
        self, keys: Iterable[bytes], is_pending: Callable[[bytes | None], bool], *, every_change: bool = False
    ) -> list[bytes]:
        """Have a message arrive when a key changes next; return the keys that are not pending, so not registered.

        ``is_pending(value)`` says of a value, or of None, whether it is still to be waited for. Value and registration
        are looked at in one transaction, so no change goes unnoticed. ``every_change`` has messages arrive for
        interim values too. A registration lasts until a value that is not interim, or `forget`.

        Where nothing can be registered (no room, no sockets, closed), the rest is neither looked at nor returned.
        """

    @abstractmethod
    def forget(self, keys: Iterable[bytes]) -> None:
        """Take registrations back. What was not registered is skipped.

        Call it for what was used up, too: a mailbox may remember a key until then.
        """

    @abstractmethod
    def receive(self, timeout: float) -> Mapping[bytes, Sent | None] | None:
        """Wait so many seconds for a message at most; return the keys that have changed, with what was sent along.

        None: any key may have changed, and none is registered any more. What is sent along is a hint, too: it was
        committed, and may have been replaced since; it may be missing though there is a value.
        """

    def drain(self) -> Collection[bytes] | None:
        """Return, without waiting, the keys that `receive` would."""
        changed = self.receive(0)
        return None if changed is None else changed.keys()

    @abstractmethod
    def fileno(self) -> int:
        """Return what becomes readable when messages arrive; -1 if none can, and one has to look again and again."""

    @abstractmethod
    def ring(self) -> None:
        """Have `fileno` become readable, so that who waits for that looks up; `drain` returns nothing for it."""

    @abstractmethod
    def close(self) -> None:
        """Take all registrations back, and have who waits for `fileno` look up. Closing twice is fine."""


class Store(WriteTransaction):
    """A place for values by key. Each method of a transaction, called on the store, is a transaction of its own."""

    @abstractmethod
    def read(self) -> AbstractContextManager[ReadTransaction]:
        """Return a context manager for a snapshot. Leave it soon: what it sees cannot be reused meanwhile.

        Raises `NestedTransaction` inside another transaction of the same thread on the same store.
        """

    @abstractmethod
    def write(self) -> AbstractContextManager[WriteTransaction]:
        """Return a context manager for a transaction that commits at the end and is undone by an exception.

        All other writers wait meanwhile. Raises `NestedTransaction` like `read`, `StoreFull` if there is no room.
        """

    @abstractmethod
    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        """Return ``operation(txn)`` once its changes are committed.

        It may be called again after a first call was undone, for instance to make room, so it must have no effect
        of its own.
        """

    @abstractmethod
    def sweep(self, limit: int | None = None, max_seconds: float | None = None) -> int:
        """Delete what has expired, up to ``limit`` records or for about ``max_seconds``; return how many.

        However short the time, a little is done. Other writers get their turn in between. Nobody needs to call this: a
        store sweeps a little as it is written.
        """

    @abstractmethod
    def flush(self) -> None:
        """Return once everything that was written so far survives a loss of power, as far as this store can tell.

        Raises `StoreError` if the disk fails.
        """

    @abstractmethod
    def check(self, *, deep: bool = False) -> list[str]:
        """Return a sentence for everything in the store that is not as it should be; an empty list is good news.

        ``deep`` looks below the records as well, at the file itself, and above them, for what is left of chords.
        """

    def backup(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
    ) -> None:
        """Write a copy of the store, as it is at one moment, to a file that can be opened in its place.

        Others may read and write meanwhile. The file (mode 0600) appears once it is complete and on disk. ``progress``
        is called with the bytes written so far, and how many there will be, about. Raises `TargetExists` if there is a
        file already and ``overwrite`` is not set, or NotImplementedError if this kind of store makes no copies.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backup(): copy it by the means of its engine.")

    @abstractmethod
    def stats(self) -> Any:
        """Return figures about the store; which ones depends on its kind."""

    @abstractmethod
    def mailbox(self) -> "Mailbox":
        """Return a new mailbox, for one thread or event loop to read. Whoever asks for it closes it."""

    @abstractmethod
    def moment(self) -> int:
        """Return a number that is another one after every change: while it stays, there is nothing new to see."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the store holds; using it afterwards raises `StoreClosed`. Closing twice is fine."""

    def __enter__(self: "Self") -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


Self = TypeVar("Self", bound=Store)
