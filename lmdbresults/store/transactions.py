"""Transactions of the port: what can be asked of a store, and what can be done to it, in one step.

A key is bytes, a value is bytes. ``ttl`` is in seconds, a float; None or 0 means that the record never expires. An
expired record is invisible at once, whether or not it has been swept.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["EVERY_COMMIT", "KEEP", "Keep", "ReadTransaction", "WriteTransaction"]


class Keep:
    """The type of `KEEP`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "KEEP"


#: As the ``ttl`` of `WriteTransaction.incr`: leave the deadline as it is.
KEEP: Final = Keep()

#: A topic that is announced after each commit, to subscribers with the same key prefix. While a subscriber has not read
#: an announcement, a writer may leave out further ones. An engine that cannot announce commits announces nothing.
EVERY_COMMIT: Final = b"lmdbresults-commit"


class ReadTransaction(ABC):
    """One snapshot of a store. Using it after its end raises `StoreClosed`."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """Return the value, or None if there is none. Raises `RecordDamaged` if it fails its checksum."""

    @abstractmethod
    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """Return the values of many keys, in the order of the keys, as of one moment."""

    @abstractmethod
    def ttl(self, key: bytes) -> float | None:
        """Return the seconds until a key expires: infinity if it never does, None if there is no such key."""

    @abstractmethod
    def now(self) -> float:
        """Return the time by the clock of the store, in seconds since the epoch: deadlines are compared with it."""

    @abstractmethod
    def scan(self, prefix: bytes = b"", *, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of each record whose key begins with ``prefix``, in no promised order.

        With ``head``, yield at most so many bytes of each value; large values are not read to their end, so their
        checksum is not verified. Called on a store, no snapshot is held: changes made meanwhile may or may not be
        seen. Damaged records are skipped, and `RecordDamaged` is raised at the end.
        """

    @abstractmethod
    def range(
        self, prefix: bytes = b"", start: bytes = b"", limit: int | None = None, *, head: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of up to ``limit`` records whose key begins with ``prefix``, in the order of their keys.

        Begin at the key ``start`` or behind it. A store may leave out keys of more than 400 bytes, which it may not
        have in order (LMDB: more than 501, the prefix of the store included). For ``head`` and damage see `scan`.
        """


class WriteTransaction(ReadTransaction):
    """Changes that all happen, or none. The transaction reads its own writes."""

    @abstractmethod
    def set(
        self, key: bytes, value: bytes, ttl: float | None = None, *, keep_prefix: bytes = b"", interim: bool = False
    ) -> bool:
        """Store a value, replacing a present one, and return True.

        A present value that begins with ``keep_prefix`` is kept: then change nothing and return False. ``interim``
        marks a value that is not final: it wakes only those subscribers that asked for every change. Raises
        `StoreFull`, or ValueError for a ttl that is negative or not a number.
        """

    @abstractmethod
    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        """Store a value if the key has none; return whether it was stored."""

    def insert(self, key: bytes, value: bytes) -> None:
        """Store a value that never expires under a key that has none. Subscribers need not be notified.

        Raises `StoreFull`.
        """
        self.set(key, value)

    @abstractmethod
    def delete(self, key: bytes) -> bool:
        """Delete a key; return whether it existed. Works in a full store."""

    @abstractmethod
    def move(self, key: bytes, new_key: bytes, value: bytes) -> None:
        """Delete a key, if it exists, and store a value that never expires under ``new_key``, which may be the same.

        Works in a full store, like `delete`, if the value is about as large as the former one. Subscribers are not
        notified.
        """

    @abstractmethod
    def incr(self, key: bytes, by: int = 1, ttl: float | Keep | None = KEEP) -> int:
        """Add to the counter of a key, which starts at 0, and return the sum.

        A counter is a decimal number in ASCII of at most 64 bits. Raises `NotACounter` for any other value.
        """

    @abstractmethod
    def expire(self, key: bytes, ttl: float | None) -> bool:
        """Let a key expire ``ttl`` seconds from now; return whether it exists."""

    @abstractmethod
    def notify(self, topic: bytes, *, one: bool = False) -> None:
        """Wake the subscribers of a topic once the transaction is committed, or ``one`` of them.

        A topic is any key; it needs no record.
        """
