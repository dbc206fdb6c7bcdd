"""A write transaction that remembers what it changes, for the log."""

from collections.abc import Callable
from typing import Final, cast

from lmdbresults.store.lmdb.durability.log_file import DELETED, OPERATION
from lmdbresults.store.lmdb.types import Transaction

__all__ = ["LoggedTransaction", "logged"]


class LoggedTransaction:
    """Stands in for a write transaction of LMDB. What reads is LMDB's own; a cursor must not be written through."""

    __slots__ = ("_begun", "_delete", "_ended", "_pop", "_put", "_replace", "cursor", "get", "id", "parts", "stat")

    def __init__(self, raw: Transaction) -> None:
        self.get, self.cursor, self.id, self.stat = raw.get, raw.cursor, raw.id, raw.stat
        self._put, self._delete, self._pop, self._replace = raw.put, raw.delete, raw.pop, raw.replace
        #: The operations of the record, in pieces.
        self.parts: list[bytes] = []
        #: How many calls have begun, and how many of them have ended as they should.
        self._begun = self._ended = 0

    def is_complete(self) -> bool:
        """Return whether `parts` has all changes. Not if one has failed, or if a signal handler has raised in it."""
        return self._begun == self._ended

    def put(self, key: bytes, value: bytes, overwrite: bool = True) -> bool:
        self._begun += 1
        is_stored = self._put(key, value, overwrite=overwrite)
        if is_stored:
            self.parts += (OPERATION.pack(len(key), len(value)), key, value)
        self._ended += 1
        return is_stored

    def replace(self, key: bytes, value: bytes) -> bytes | None:
        self._begun += 1
        former = self._replace(key, value)
        self.parts += (OPERATION.pack(len(key), len(value)), key, value)
        self._ended += 1
        return former

    def delete(self, key: bytes) -> bool:
        self._begun += 1
        existed = self._delete(key)
        if existed:
            self.parts += (OPERATION.pack(len(key), DELETED), key)
        self._ended += 1
        return existed

    def pop(self, key: bytes) -> bytes | None:
        self._begun += 1
        former = self._pop(key)
        if former is not None:
            self.parts += (OPERATION.pack(len(key), DELETED), key)
        self._ended += 1
        return former


#: Returns what stands in for a transaction. LMDB's class cannot have subclasses; this has what the store uses of it.
logged: Final = cast("Callable[[Transaction], Transaction]", LoggedTransaction)
