"""Boxes: where messages arrive. A box is a number, a socket of that name, and marks at the keys that it follows."""

import errno
import os
import socket
from collections import Counter
from contextlib import suppress

from lmdbresults.store.lmdb.notify.folder import WakeFolder
from lmdbresults.store.lmdb.notify.marks import ALIVE, BOXES, DEAD, EVERY_CHANGE, FOLLOWED, FREE, Marks, rows_of

__all__ = ["Box", "bury_dead", "clear_dead"]


class Box:
    """A box of this process. Its methods raise OSError where something is impossible, such as writing to a full disk.

    The caller sees to it that one thread at a time changes marks. A signal handler may come at any instruction.
    """

    def __init__(self, folder: WakeFolder) -> None:
        self._folder = folder
        self._owner = os.getpid()
        #: How many of the keys that are followed have a row, and of those with interim values.
        self._followed: Counter[int] = Counter()
        self._every_change: Counter[int] = Counter()
        bury_dead(folder)
        self._marks = Marks(folder.open_marks())  # whose descriptor has the lock
        try:
            self.number, self.receiver = self._claim()
            self._inode = folder.inode(self.number)
            #: Connected to the receiver, so that it can be reached even if it loses its name.
            self._ringer = folder.connect(self.number)
        except BaseException:
            self._marks.close()
            raise

    def _claim(self) -> tuple[int, socket.socket]:
        for number in range(BOXES):
            if self._marks.state(number) == ALIVE or not self._marks.lock(number):
                continue
            self._folder.remove(number)
            self._marks.allocate(number)
            if self._marks.state(number) != FREE:
                self._marks.clear(number)
            try:
                receiver = self._folder.bind(number)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self._marks.unlock(number)  # the name is that of something else
                continue
            self._marks.set_lost(number, False)
            self._marks.set_state(number, ALIVE)
            return number, receiver
        raise OSError(errno.EMFILE, "all boxes are in use", self._folder.path)

    # -- marks -----------------------------------------------------------------------------------------------------

    def mark(self, place: bytes, every_change: bool) -> None:
        """Follow the key at a place."""
        for row in rows_of(place):
            self._followed[row] += 1
            self._every_change[row] += every_change
            self._write(row)

    def unmark(self, place: bytes, every_change: bool) -> None:
        """Undo `mark`."""
        for row in rows_of(place):
            self._followed[row] -= 1
            self._every_change[row] -= every_change
            self._write(row)

    def _write(self, row: int) -> None:
        marks = -1
        while marks != (marks := self._marks_of(row)):  # again, if a signal handler has changed them meanwhile
            self._marks.mark(self.number, row, marks)

    def _marks_of(self, row: int) -> int:
        if self._followed[row] <= 0:
            self._followed.pop(row, None)
            self._every_change.pop(row, None)
            return 0
        return FOLLOWED | (EVERY_CHANGE if self._every_change[row] else 0)

    # -- messages --------------------------------------------------------------------------------------------------

    def has_lost(self) -> bool:
        """Return whether a message was lost since this was last asked."""
        try:
            lost = self._marks.has_lost(self.number)
            if lost:
                self._marks.set_lost(self.number, False)
        except (ValueError, OSError):  # another thread has closed the box
            return True
        return lost

    def is_reachable(self) -> bool:
        """Return whether writers can find this box: a cleaner may have removed names."""
        return self._folder.leads_to(self._marks.descriptor) and self._folder.inode(self.number) == self._inode

    def ring(self) -> None:
        """Wake the thread that waits for a message."""
        with suppress(OSError):  # a full queue is readable already
            self._ringer.send(b"")

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give up the box. In a forked child, leave it to the parent."""
        self.receiver.close()
        self._ringer.close()
        try:
            if os.getpid() == self._owner:
                with suppress(OSError):  # then it stays to be cleared
                    for row in self._followed:
                        self._marks.mark(self.number, row, 0)
                    if self._folder.inode(self.number) == self._inode:
                        self._folder.remove(self.number)
                    self._marks.set_state(self.number, FREE)
        finally:
            self._marks.close()


def bury_dead(folder: WakeFolder) -> None:
    """Have writers leave out the boxes of killed processes, and remove their sockets."""
    marks = Marks(folder.open_marks())  # under a descriptor of its own, or its locks would be no locks
    for number in marks.alive():
        if marks.lock(number):
            folder.remove(number)
            marks.set_state(number, DEAD)
            marks.unlock(number)
    marks.close()


def clear_dead(folder: WakeFolder) -> None:
    """Remove everything that killed processes have left."""
    bury_dead(folder)
    marks = Marks(folder.open_marks())
    named = set(folder.boxes())
    for number in range(BOXES):
        if (marks.state(number) == DEAD or number in named) and marks.lock(number):
            folder.remove(number)
            if marks.state(number) != FREE:
                marks.clear(number)
            marks.set_state(number, FREE)
            marks.unlock(number)
    marks.close()
