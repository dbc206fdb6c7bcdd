"""The file of marks: which box follows which keys. Processes share it without waiting for each other.

    at 0: 8 random bytes, replaced whenever the state of a box changes
    at 1024: one byte per box, its state
    at 2048: one byte per box, whether a message to it was lost
    at 65536: for each group of 32 boxes, 2**17 rows of 32 bytes, one byte per box

A key has two rows, by its hash. The owner of a box marks a key by setting its own byte in both rows. A writer reads the
two rows and finds all boxes that follow the key, however many there are. Different keys can share rows, so a writer
sometimes sends a needless message: for a box that follows 10,000 keys, at 2 % of all writes. Disk blocks are allocated
before a page is used: on a full disk, touching a mapped page without a block would kill the process (SIGBUS).

Invariant: no wake-up is lost. A subscriber sets its marks, then reads the data file; a writer commits, then reads the
marks. Each completes its first step by a system call before it begins the second, so at least one sees the other.

Only the process that holds the lock of a box changes the box's marks and state. The lock is a kernel lock on byte N of
the file, for box N; the kernel releases it when the process exits. No process ever waits for it.
"""

import errno
import fcntl
import mmap
import os
import stat
from contextlib import suppress
from typing import Final
from zlib import crc32

from lmdbresults.store.lmdb.file.byte_lock import SET_LOCK, request

__all__ = ["ALIVE", "BOXES", "EVERY_CHANGE", "FOLLOWED", "FREE", "HEADER_BYTES", "ORPHANED", "Marks", "rows_of"]

BOXES: Final = 1024
#: States of a box: not in use, and without marks; in use; not in use, with the marks of an owner that was killed.
FREE, ALIVE, ORPHANED = 0, 1, 2
#: Bits of a mark: a key of this row is followed; interim values of such a key are followed as well.
FOLLOWED, EVERY_CHANGE = 1, 2

_STATES, _LOST = 1024, 2048
#: A multiple of every page size of Linux up to 64 KiB: groups are mapped, so each must begin at a page.
HEADER_BYTES: Final = 1 << 16
_GROUP: Final = 32
_NO_MARKS: Final = bytes(_GROUP)
_ROW_BITS: Final = 17
_LAST_ROW: Final = (1 << _ROW_BITS) - 1
_HASH_SHIFT: Final = 32 - _ROW_BITS
_GROUP_BYTES: Final = _GROUP << _ROW_BITS
#: A group of boxes that all have one bit set.
_IN_EACH: Final = {bit: int.from_bytes(bytes([bit]) * _GROUP, "little") for bit in (FOLLOWED, EVERY_CHANGE)}
_ENCODED: Final = tuple(bytes([marks]) for marks in range(4))


def rows_of(place: bytes) -> tuple[int, int]:
    """Return the rows of the key at a place."""
    hashed = crc32(place)
    return hashed & _LAST_ROW, hashed >> _HASH_SHIFT


class Marks:
    """The file of marks, open under one descriptor, which also holds the locks that were acquired. Linux only."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        #: What is mapped, by its position: the header at 0, and groups.
        self._mapped: dict[int, mmap.mmap] = {}
        #: What `groups` last returned, and the 8 random bytes at that time.
        self._version = b""
        self._groups: list[tuple[int, mmap.mmap]] = []
        try:
            if SET_LOCK is None:
                raise OSError(errno.ENOSYS, "no locks of open file descriptions")
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            self._header = self._map(0, HEADER_BYTES)
        except BaseException:
            self.close()
            raise

    def _map(self, start: int, length: int) -> mmap.mmap:
        if start not in self._mapped:
            if os.fstat(self.descriptor).st_size < start + length:
                os.posix_fallocate(self.descriptor, start, length)  # harmless if another process does so as well
            mapped = mmap.mmap(self.descriptor, length, prot=mmap.PROT_READ, offset=start)
            self._mapped.setdefault(start, mapped)
        return self._mapped[start]

    def _rows(self, box: int) -> mmap.mmap:
        return self._map(HEADER_BYTES + box // _GROUP * _GROUP_BYTES, _GROUP_BYTES)

    def close(self) -> None:
        """Close the file. Its locks are released, unless a forked child has the file open too."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        for mapped in self._mapped.values():  # each holds a duplicate of the descriptor, and thus the locks
            mapped.close()

    def __del__(self) -> None:  # not sooner: another thread may still use what this one has dropped
        self.close()

    # -- states ----------------------------------------------------------------------------------------------------

    def alive(self) -> list[int]:
        """Return the boxes that are in use."""
        return [box for box in range(BOXES) if self.state(box) == ALIVE]

    def state(self, box: int) -> int:
        """Return the state of a box."""
        return self._header[_STATES + box]

    def set_state(self, box: int, state: int) -> None:
        """Set the state of a box. The caller holds its lock."""
        self._write(_STATES + box, state)
        os.pwrite(self.descriptor, os.urandom(8), 0)

    def has_lost(self, box: int) -> bool:
        """Return whether a message to a box was lost."""
        return self._header[_LOST + box] != 0

    def set_lost(self, box: int, lost: bool) -> None:
        """Set whether a message to a box was lost. A writer sets it; the owner clears it, and looks at all its keys."""
        self._write(_LOST + box, lost)

    def _write(self, position: int, value: int) -> None:
        os.pwrite(self.descriptor, value.to_bytes(1, "little"), position)

    # -- marks -----------------------------------------------------------------------------------------------------

    def allocate(self, box: int) -> None:
        """Allocate disk space for the marks of a box. Raises OSError if the disk is full."""
        self._rows(box)

    def mark(self, box: int, row: int, marks: int) -> None:
        """Set the mark of a box in a row."""
        position = HEADER_BYTES + box // _GROUP * _GROUP_BYTES + row * _GROUP + box % _GROUP
        os.pwrite(self.descriptor, _ENCODED[marks], position)

    def groups(self) -> list[tuple[int, mmap.mmap]]:
        """Return the first box and the rows of each group that has boxes in use."""
        version = self._header[:8]
        if version != self._version:
            starts = sorted({box // _GROUP * _GROUP for box in self.alive()})
            with suppress(OSError):  # the file was truncated, and the disk is full
                self._groups = [(start, self._rows(start)) for start in starts]
            self._version = version
        return self._groups

    def followers(self, place: bytes, wanted: int, groups: list[tuple[int, mmap.mmap]]) -> list[int]:
        """Return the boxes in use whose marks for a key include ``wanted``, which is one bit."""
        hashed = crc32(place)
        first = (hashed & _LAST_ROW) * _GROUP
        boxes: list[int] = []
        for start, rows in groups:
            row = rows[first : first + _GROUP]
            if row != _NO_MARKS:
                second = (hashed >> _HASH_SHIFT) * _GROUP
                both = int.from_bytes(row, "little") & int.from_bytes(rows[second : second + _GROUP], "little")
                both &= _IN_EACH[wanted]
                while both:  # a bit for each box
                    boxes.append(start + (((both & -both).bit_length() - 1) >> 3))
                    both &= both - 1
        header = self._header
        return [box for box in boxes if header[_STATES + box] == ALIVE] if boxes else boxes

    def clear(self, box: int) -> None:
        """Clear all marks of a box. The caller holds its lock."""
        for row, marks in enumerate(self._rows(box)[box % _GROUP :: _GROUP]):
            if marks:
                self.mark(box, row, 0)

    # -- locks -----------------------------------------------------------------------------------------------------

    def lock(self, box: int) -> bool:
        """Acquire the lock of a box without waiting; return False if another descriptor holds it."""
        try:
            self._set_lock(box, fcntl.F_WRLCK)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(self, box: int) -> None:
        """Release the lock of a box."""
        self._set_lock(box, fcntl.F_UNLCK)

    def _set_lock(self, box: int, kind: int) -> None:
        assert SET_LOCK is not None, "checked when the file was opened"
        fcntl.fcntl(self.descriptor, SET_LOCK, request(kind, box))
