"""Boxes, in which messages arrive. A box is a number, a socket of that name, and marks for the keys that it follows."""

import errno
import os
import socket
from collections import Counter
from contextlib import suppress
from typing import Final

from lmdbresults.store.lmdb.notify.folder import WakeFolder
from lmdbresults.store.lmdb.notify.marks import ALIVE, BOXES, EVERY_CHANGE, FOLLOWED, FREE, ORPHANED, Marks, rows_of

__all__ = ["Box", "count_boxes", "remove_orphaned_boxes", "retire_orphaned_boxes"]

_WITH_INTERIM: Final = 1 << 32


class Box:
    """A box of this process. Its methods raise OSError if the file system refuses, for example if the disk is full.

    Only one thread at a time may change marks. A signal handler may change them at any instruction.
    """

    def __init__(self, folder: WakeFolder) -> None:
        self._folder = folder
        self._owner = os.getpid()
        #: By row: the number of followed keys, plus `_WITH_INTERIM` times those followed with interim values.
        self._counts: Counter[int] = Counter()
        retire_orphaned_boxes(folder)
        self._marks = Marks(folder.open_marks())  # whose descriptor holds the lock of the box
        try:
            self.number, self.receiver = self._claim()
            self._inode = folder.inode(self.number)
            #: Connected to the receiver, so that `ring` works even if the socket was deleted.
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
                self._marks.unlock(number)  # something that is not a socket has this name
                continue
            self._marks.set_lost(number, False)
            self._marks.set_state(number, ALIVE)
            return number, receiver
        raise OSError(errno.EMFILE, "all boxes are in use", self._folder.path)

    # -- marks -----------------------------------------------------------------------------------------------------

    def mark(self, place: bytes, every_change: bool, times: int = 1) -> None:
        """Follow the key at a place; -1 ``times`` undoes that."""
        counts, number, by = self._counts, self.number, times * _WITH_INTERIM if every_change else times
        for row in rows_of(place):
            counts[row] += by
            written = None
            while written != (count := counts[row]):  # repeat if a signal handler has changed it meanwhile
                written, marks = count, FOLLOWED if count < _WITH_INTERIM else FOLLOWED | EVERY_CHANGE
                self._marks.mark(number, row, marks if count > 0 else 0)
            if count <= 0:
                counts.pop(row, None)

    # -- messages --------------------------------------------------------------------------------------------------

    def has_lost(self) -> bool:
        """Return whether a message was lost since the last call."""
        try:
            if not self._marks.has_lost(self.number):
                return False
            self._marks.set_lost(self.number, False)
        except (ValueError, OSError):  # another thread has closed the box
            pass
        return True

    def is_reachable(self) -> bool:
        """Return whether writers can find this box: a cleanup daemon may have deleted the marks or the socket."""
        return self._folder.leads_to(self._marks.descriptor) and self._folder.inode(self.number) == self._inode

    def ring(self) -> None:
        """Wake the thread that waits for a message."""
        with suppress(OSError):  # the queue is full, so the thread wakes anyway
            self._ringer.send(b"")

    # -- closing ---------------------------------------------------------------------------------------------------

    def refuse(self) -> None:
        """Accept no more messages: a writer gets an error, and chooses another box. Those received remain."""
        if os.getpid() == self._owner:
            with suppress(OSError):  # closed already
                self.receiver.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Release the box. In a forked child, only close its descriptors: the box is the parent's."""
        self.receiver.close()
        self._ringer.close()
        try:
            if os.getpid() == self._owner:
                with suppress(OSError):  # then `remove_orphaned_boxes` clears it later
                    for row in self._counts:
                        self._marks.mark(self.number, row, 0)
                    if self._folder.inode(self.number) == self._inode:
                        self._folder.remove(self.number)
                    self._marks.set_state(self.number, FREE)
        finally:
            self._marks.close()


def retire_orphaned_boxes(folder: WakeFolder) -> None:
    """Stop writers from sending to boxes of killed processes: set their state, and remove their sockets."""
    marks = Marks(folder.open_marks())  # a new descriptor: locks of one descriptor never conflict
    for number in marks.alive():
        if marks.lock(number):
            folder.remove(number)
            marks.set_state(number, ORPHANED)
            marks.unlock(number)
    marks.close()


def remove_orphaned_boxes(folder: WakeFolder) -> None:
    """Remove the boxes of killed processes, with their marks and sockets. Reads all marks of each."""
    retire_orphaned_boxes(folder)
    marks = Marks(folder.open_marks())
    named = set(folder.boxes())
    for number in range(BOXES):
        if (marks.state(number) == ORPHANED or number in named) and marks.lock(number):
            folder.remove(number)
            if marks.state(number) != FREE:
                marks.clear(number)
            marks.set_state(number, FREE)
            marks.unlock(number)
    marks.close()


def count_boxes(folder: WakeFolder) -> tuple[int, int]:
    """Return how many boxes have a socket, and how many of these belong to killed processes. Changes nothing."""
    named = folder.boxes()
    marks = Marks(folder.open_marks())
    orphaned = 0
    for number in named:
        if marks.lock(number):
            marks.unlock(number)
            orphaned += 1
    marks.close()
    return len(named), orphaned
