"""The writer's side: after a commit, messages go to the boxes that follow what has changed."""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from lmdbresults.store.lmdb.notify.box import bury_dead, clear_dead
from lmdbresults.store.lmdb.notify.folder import WakeFolder
from lmdbresults.store.lmdb.notify.marks import EVERY_CHANGE, FOLLOWED, Marks
from lmdbresults.store.lmdb.notify.messages import DATAGRAM_BYTES, pack
from lmdbresults.store.lmdb.records.layout import place_of
from lmdbresults.store.lmdb.types import FINAL, INTERIM, ONE, Change

__all__ = ["Notifier"]

#: Seconds after which a writer looks again whether the folder is still the one it knows, and which boxes are dead.
_VERIFY_EVERY: Final = 1.0
#: Sockets that a process keeps connected to boxes: an address is looked up in 15 µs after a sleep.
_MOST_LINES: Final = 16
#: There is no room in the buffer of the sender, or in the queue of the receiver.
_FULL: Final = (errno.EAGAIN, errno.ENOBUFS)

_yield_processor: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


class _QueueFull(Exception):
    """Raised when a box takes no more messages until its owner has read some."""


class Notifier:
    """Sends the messages of one store. Threads may share it. Sending never waits, and never fails: they are hints."""

    def __init__(self, folder: WakeFolder) -> None:
        self._folder = folder
        self._marks: Marks | None = None
        self._verify_at = 0.0
        self._lines: dict[int, socket.socket] = {}

    def send(self, changes: Iterable[Change], moment: int) -> None:
        """Tell of the changes of the transaction whose id is ``moment``, which is committed."""
        if (now := time.monotonic()) >= self._verify_at:
            self._verify(now)
        marks = self._marks
        if marks is None or not (groups := marks.groups()):
            return
        found = []
        for change in changes:
            boxes = marks.followers(place_of(change[0]), EVERY_CHANGE if change[1] == INTERIM else FOLLOWED, groups)
            if boxes:
                found.append((change, boxes))
        if found:
            self._tell(found, moment)

    def _tell(self, found: list[tuple[Change, list[int]]], moment: int) -> None:
        bundles: dict[int, bytes] = {}
        for (key, kind, value, deadline), boxes in found:
            message = pack(place_of(key), kind, moment, deadline, value)
            if kind == ONE:
                self._post_to_one(boxes, message, moment)
                continue
            for box in boxes:
                bundle = bundles.get(box, b"")
                if len(bundle) + len(message) > DATAGRAM_BYTES:
                    self._post(box, bundle)
                    bundle = b""
                bundles[box] = bundle + message
        for box, bundle in bundles.items():
            self._post(box, bundle)
        # A process that was woken may be queued on our core, behind us: this lets it run first. On two cores with other
        # work it halves the time until it is awake. It costs 0.5 us; beside busy loops we write as much as before.
        _yield_processor()

    def pass_on(self, place: bytes) -> None:
        """Send a message that was for one subscriber, and came to another, to all subscribers."""
        self._verify(time.monotonic())
        with suppress(OSError):
            if (marks := self._marks) is not None:
                for box in marks.followers(place, FOLLOWED, marks.groups()):
                    self._post(box, pack(place, FINAL, 0))

    # -- sending ---------------------------------------------------------------------------------------------------

    def _post_to_one(self, boxes: list[int], message: bytes, turn: int) -> None:
        """Send a message to one box whose owner is alive; to each in turn, if the transactions are numbered so."""
        full = []
        for number in range(len(boxes)):
            box = boxes[(turn + number) % len(boxes)]
            try:
                if self._reach(box, message):
                    return
            except _QueueFull:
                full.append(box)
        if full:
            self._post(full[0], message)

    def _post(self, box: int, datagram: bytes) -> None:
        """Send a datagram; if the queue is full, note that a message was lost."""
        try:
            self._reach(box, datagram)
        except _QueueFull:
            with suppress(OSError, _QueueFull):
                if self._marks is not None:
                    self._marks.set_lost(box, True)
                # The note, then the datagram once more: if there is room by now, the owner reads it and sees the note;
                # if not, it will read the queue after the note was made.
                self._reach(box, datagram)

    def _reach(self, box: int, datagram: bytes) -> bool:
        """Send a datagram, unless the owner of the box is dead; return whether it was sent. Raises `_QueueFull`."""
        line = self._lines.get(box)
        return (line is not None and self._try(box, line, datagram)) or self._try(box, None, datagram)

    def _try(self, box: int, line: socket.socket | None, datagram: bytes) -> bool:
        try:
            (line or self._connect(box)).send(datagram)
        except OSError as error:
            if error.errno in _FULL:
                raise _QueueFull from None
            self._lines.pop(box, None)  # the line led to a former owner of the box, or its owner is dead
            return False
        return True

    def _connect(self, box: int) -> socket.socket:
        line = self._lines[box] = self._folder.connect(box)
        while len(self._lines) > _MOST_LINES:
            with suppress(StopIteration, RuntimeError):  # other threads do so as well
                self._lines.pop(next(iter(self._lines)), None)
        return line

    # -- what is alive ---------------------------------------------------------------------------------------------

    def _verify(self, now: float) -> None:
        """Notice that the file of marks was replaced, and owners of boxes that were killed."""
        self._verify_at = now + _VERIFY_EVERY
        with suppress(OSError):  # of no permission, no folder: nothing can wait there either
            marks = self._marks
            if marks is None or not self._folder.leads_to(marks.descriptor):
                self._lines.clear()
                marks = self._marks = Marks(self._folder.open_marks())
            if marks.groups():
                bury_dead(self._folder)

    def clear_dead(self) -> None:
        """Remove everything that killed subscribers have left."""
        with suppress(OSError):
            clear_dead(self._folder)

    def close(self) -> None:
        """Close the sockets, once no thread sends by them."""
        self._marks = None
        self._lines.clear()
        self._verify_at = float("inf")
