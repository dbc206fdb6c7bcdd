"""LMDB's reader table: which transactions read which commit, and so keep its pages from reuse.

The table is part of the lock file. Each open read transaction has a slot with the number of its commit, its process and
its thread. LMDB never reads the thread, so a slot is labelled there: as a *pin*, through which nothing is read, or with
the time at which a long read began.
"""

import os
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from lmdbresults.errors import StoreBusy
from lmdbresults.process.identity import describe
from lmdbresults.store.lmdb.file.lock_file import LockFile, is_free, owner_of

if TYPE_CHECKING:
    import lmdb

__all__ = [
    "LOCK_PATIENCE",
    "LOGGED_PIN",
    "PIN",
    "Reader",
    "ReaderTable",
    "began_now",
    "parse_slots",
    "wait_for_table",
]

#: Number of the commit, process, thread, and padding up to the size of a cache line.
_SLOT: Final = struct.Struct("=Qi4xQ40x")
_LABEL: Final = struct.Struct("=Q")
_LABEL_AT: Final = 16
#: The number in the slot of a transaction that has ended.
_NO_TXN: Final = _LABEL.pack((1 << 64) - 1)

#: The label of a pin: "lmdbpin" in ASCII. No thread id can have this value.
PIN: Final = 0x6C6D646270696E
#: The same of a file that is logged: "lmdblog".
LOGGED_PIN: Final = 0x6C6D64626C6F67
#: The upper bits of the label of a long read, "rd" in ASCII; the lower bits hold milliseconds since the epoch.
_READ: Final = 0x7264 << 48
_TIME: Final = (1 << 48) - 1
#: The bits that a thread id, which is an address, can have. A label also has higher bits.
_THREAD: Final = (1 << 48) - 1
#: Seconds until a process that has the table locked, which takes 0.05 µs, counts as stopped.
LOCK_PATIENCE: Final = 5.0
#: How often to begin a transaction again if its slot cannot be distinguished from those of other threads.
_TRIES: Final = 8


class Reader(NamedTuple):
    """An open read transaction of any process."""

    place: int
    """Of its slot in the lock file."""
    txn: int
    """Number of the commit that it reads: pages that were freed by it, or later, are not reused."""
    pid: int
    label: int

    @property
    def is_pin(self) -> bool:
        """Whether nothing is read through it."""
        return self.label in (PIN, LOGGED_PIN)

    @property
    def since(self) -> float | None:
        """When it began, in seconds since the epoch, if it is labelled with that."""
        return (self.label & _TIME) / 1000 if self.label & ~_TIME == _READ else None


def parse_slots(slots: bytes, first: int = 0) -> list[Reader]:
    """Return the open read transactions in the slots of a table, which begin at the place ``first``."""
    fields = enumerate(_SLOT.iter_unpack(slots[: len(slots) // _SLOT.size * _SLOT.size]))
    found = []
    for number, (txn, pid, label) in fields:
        if pid and txn != (1 << 64) - 1:
            found.append(Reader(first + number * _SLOT.size, txn, pid, label))
    return found


def began_now() -> int:
    """Return the label of a long read that begins now."""
    return _READ | int(time.time() * 1000)


def wait_for_table(owner: Callable[[], int]) -> None:
    """Wait until no thread has the table locked, without yielding to another greenlet, which must not write now.

    LMDB locks the table for 0.05 µs. Raises `StoreBusy` if that lasts, because the process of the thread is stopped.
    """
    until = time.monotonic() + LOCK_PATIENCE
    while thread := owner():
        if time.monotonic() >= until:
            raise StoreBusy(
                f"{describe(thread)} was stopped as it began to read, so no other process can. Continue or end it."
            )
        os.sched_yield()


class ReaderTable:
    """The reader table of a file that is open in this process."""

    def __init__(self, handle: "lmdb.Environment", lock_file: LockFile) -> None:
        self._handle = handle
        #: None on a system where the layout of the table is not known: then no slot is labelled.
        self._map, self._first = lock_file.map, lock_file.first_reader
        self._word = lock_file.reader_word
        #: Whether slots are labelled.
        self.has_labels = self._map is not None

    def readers(self) -> list[Reader]:
        """Return the open read transactions of all processes, pins included."""
        if self._map is None:
            return []
        slots = self._map[self._first : self._first + self._handle.info()["num_readers"] * _SLOT.size]
        return parse_slots(slots, self._first)

    def begin(self, label: int) -> "lmdb.Transaction[bytes]":
        """Begin a read transaction, and label its slot, if it can be found."""
        pid, former = os.getpid(), set[Reader]()
        for _ in range(_TRIES if self._map else 0):
            if self._word[0]:
                wait_for_table(lambda: 0 if is_free(self._word) else owner_of(self._word))
            txn = self._handle.begin()
            number = txn.id()
            new = [
                one
                for one in self.readers()
                if one.pid == pid and one.txn == number and not one.label & ~_THREAD and one not in former
            ]
            if len(new) == 1:
                self._write(new[0].place + _LABEL_AT, _LABEL.pack(label))
                return txn
            txn.abort()  # other threads of this process read the same commit
            former = set(self.readers())
        return self._handle.begin()

    def free(self, reader: Reader, last: int) -> None:
        """Stop keeping pages for a transaction through which nothing is read, such as a pin of a stopped process.

        The caller holds LMDB's write lock; ``last`` is the last commit. The process may end the transaction at any
        moment, and a new reader may get the slot. Its snapshot can only be the last commit, so that is restored then.
        """
        self._write(reader.place, _NO_TXN)
        assert self._map is not None, "readers() has found it there"
        _, pid, label = _SLOT.unpack(self._map[reader.place : reader.place + _SLOT.size])
        if (pid, label) != (reader.pid, reader.label):
            self._write(reader.place, _LABEL.pack(last))

    def _write(self, place: int, number: bytes) -> None:
        assert self._map is not None, "a place was found in it"
        self._map[place : place + len(number)] = number
