"""LMDB's lock file, mapped: which process holds the write lock, and the table of readers (reader_table.py)."""

import fcntl
import mmap
import os
import sys
from contextlib import suppress
from typing import Final

from lmdbresults.store.lmdb.file.byte_lock import holder_of, request
from lmdbresults.store.lmdb.file.paths import LOCK_SUFFIX

__all__ = ["UNKNOWN", "LockFile", "holder_before_opening", "is_free", "owner_of", "read_unopened"]

#: By machine, where the mutex of the write lock lies and where the first reader: after a header of 24 bytes and a mutex
#: of 40 or 48, and after the second mutex, each time rounded up to cache lines of 64.
_PLACES: Final = {"x86_64": (64, 128), "aarch64": (128, 192)}
#: Where the mutex of the reader table lies.
_READER_MUTEX: Final = 8
#: The bits of the first word of a mutex that hold the thread id of its owner. Others say that the owner has died, and
#: that threads wait for it.
_OWNER: Final = 0x3FFFFFFF

#: The word of a lock that cannot be seen: as if it were always free.
UNKNOWN: Final = memoryview(bytes(4)).cast("I")


class LockFile:
    """The lock file of an LMDB environment that is open in this process. Close it only after the environment.

    Closing any descriptor of the file drops the locks that this process has on it, as POSIX says.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        #: The content; None on a system where its layout is not known.
        self.map: mmap.mmap | None = None
        #: The first word of the write lock: 0 while it is free. Looking at it takes 0.05 µs.
        self.word = UNKNOWN
        #: The same of the lock of the reader table, which LMDB holds as a read transaction begins: about 0.05 µs.
        self.reader_word = UNKNOWN
        mutex, self.first_reader = _places()
        if self.first_reader:
            self._descriptor = os.open(path + LOCK_SUFFIX, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            self.map = mmap.mmap(self._descriptor, 0)
            if mutex:
                self.word = memoryview(self.map)[mutex : mutex + 4].cast("I")
                self.reader_word = memoryview(self.map)[_READER_MUTEX : _READER_MUTEX + 4].cast("I")
        #: Kept here until they are released, so that a `close` that a signal handler has interrupted can be repeated.
        self._words = (self.word, self.reader_word)

    def close(self) -> None:
        """Close the file. May be called again."""
        self.word = self.reader_word = UNKNOWN
        for word in self._words:
            if word is not UNKNOWN:
                word.release()
        if self.map is not None:
            self.map.close()
            self.map = None
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def owner_of(word: memoryview) -> int:
    """Return the id of the thread that holds a lock, in any process; 0 if it is free or cannot be seen."""
    owner: int = word[0] & _OWNER
    return owner


def is_free(word: memoryview) -> bool:
    """Return whether a mutex of LMDB's is free, or to be recovered by LMDB."""
    owner = owner_of(word)
    if owner:
        with suppress(PermissionError):  # the process of another user
            try:
                os.kill(owner, 0)
            except ProcessLookupError:  # it has just exited, or is in another PID namespace: leave it to LMDB
                return True
    return not owner


def holder_before_opening(path: str) -> int:
    """Return the id of a process or thread for which LMDB would wait as it opens a file; 0 if there is none.

    The first process that opens a file has it exclusively for a moment. Later ones begin a read transaction. This
    process must not have the file open.
    """
    if not _places()[0]:
        return 0
    try:
        descriptor = os.open(path + LOCK_SUFFIX, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return 0  # opening the file says what is wrong
    try:
        kind, process = holder_of(fcntl.fcntl(descriptor, fcntl.F_GETLK, request(fcntl.F_WRLCK, 0)))
        word = memoryview(os.pread(descriptor, 4, _READER_MUTEX).ljust(4, b"\0")).cast("I")
    finally:
        os.close(descriptor)
    if kind == fcntl.F_WRLCK:
        return process
    # If no process has the file open, LMDB makes new mutexes, and the word is stale.
    return 0 if kind == fcntl.F_UNLCK or is_free(word) else owner_of(word)


def read_unopened(path: str) -> tuple[int, bytes]:
    """Return the thread that holds the write lock of a file (0: none, or unknown), and the slots of its readers.

    This process must not have the file open. Raises OSError.
    """
    mutex, first_reader = _places()
    with open(path + LOCK_SUFFIX, "rb") as file:
        data = file.read()
    if not first_reader:
        return 0, b""
    word = memoryview(data[mutex : mutex + 4].ljust(4, b"\0")).cast("I")
    return owner_of(word) if mutex and not is_free(word) else 0, data[first_reader:]


def _places() -> tuple[int, int]:
    """Return the places of the write lock and of the first reader; 0 where they are not known."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return 0, 0
    mutex, first_reader = _PLACES.get(os.uname().machine, (0, 0))
    with suppress(ValueError, OSError):
        if os.confstr("CS_GNU_LIBC_VERSION"):
            return mutex, first_reader
    return 0, first_reader  # in other C libraries a mutex begins with other things
