"""The writer's side of waiting: after a commit, it sends messages to the boxes that follow the changed keys."""

import errno
import itertools
import os
import socket
import termios
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from fcntl import ioctl
from typing import Final

from lmdbresults.store.lmdb.notify.box import remove_orphaned_boxes, retire_orphaned_boxes
from lmdbresults.store.lmdb.notify.folder import WakeFolder
from lmdbresults.store.lmdb.notify.marks import EVERY_CHANGE, FOLLOWED, Marks
from lmdbresults.store.lmdb.notify.messages import DATAGRAM_BYTES, pack
from lmdbresults.store.lmdb.records.layout import place_of
from lmdbresults.store.lmdb.types import FINAL, INTERIM, ONE, Change
from lmdbresults.store.transactions import EVERY_COMMIT

__all__ = ["Notifier"]

#: Seconds after which a writer checks again whether the file of marks was replaced, and which boxes are orphaned.
_VERIFY_EVERY: Final = 1.0
#: How many sockets a process keeps connected to boxes. Connecting one takes 15 µs.
_MAX_SOCKETS: Final = 16
#: The buffer of the sender, or the queue of the receiver, is full.
_FULL: Final = (errno.EAGAIN, errno.ENOBUFS)

#: Returns, for a connected socket, the size of what it has sent and the receiver has not read. Linux only.
_UNREAD: Final[int | None] = getattr(termios, "TIOCOUTQ", None)
#: As the moment of a message for one subscriber: it was passed on.
_PASSED_ON: Final = 0

_yield_processor: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


class _QueueFull(Exception):
    """Raised when a box takes no more messages until its owner has read some."""


class Notifier:
    """Sends the messages of one store. Thread-safe. Sending never waits and never raises: messages are hints."""

    def __init__(self, folder: WakeFolder, prefix: bytes = b"") -> None:
        self._folder = folder
        self._commits = place_of(prefix + EVERY_COMMIT)
        self._marks: Marks | None = None
        self._verify_at = 0.0
        #: Connected sockets by box, the most recent last.
        self._sockets: dict[int, socket.socket] = {}
        #: Chooses the one to wake among many. Processes begin at different places.
        self._turn = itertools.count(os.getpid())

    def send(self, changes: Iterable[Change], moment: int) -> None:
        """Send messages about the changes of a committed transaction, whose id is ``moment``."""
        if (now := time.monotonic()) >= self._verify_at:
            self._verify(now)
        marks = self._marks
        if marks is None or not (groups := marks.groups()):
            return
        is_sent = False
        bundles: dict[int, bytes] = {}
        for key, kind, value, deadline in changes:
            place = place_of(key)
            boxes = marks.followers(place, EVERY_CHANGE if kind == INTERIM else FOLLOWED, groups)
            if not boxes:
                continue
            is_sent = True
            if kind == ONE:
                self._send_to_one(boxes, place, moment)
                continue
            message = pack(place, kind, moment, deadline, value)
            for box in boxes:
                bundle = bundles.get(box, b"")
                if len(bundle) + len(message) > DATAGRAM_BYTES:
                    self._send_or_note_loss(box, bundle)
                    bundle = b""
                bundles[box] = bundle + message
        for box, bundle in bundles.items():
            self._send_or_note_loss(box, bundle)
        self._announce(marks.followers(self._commits, FOLLOWED, groups), moment)
        if is_sent:
            # The woken process may be queued on the core of this one: let it run first. On two busy cores this halves
            # the time until it is awake. It costs 0.5 µs, and does not reduce the rate of writes
            # (docs/design/waiting.md).
            _yield_processor()

    def _announce(self, boxes: list[int], moment: int) -> None:
        """Announce a commit to boxes that follow all of them, unless a datagram is unread, which announces it too."""
        for box in boxes:
            if not self._has_unread(box):
                self._send_or_note_loss(box, pack(self._commits, FINAL, moment))

    def pass_on(self, place: bytes, moment: int) -> None:
        """Send a message for one subscriber to another: it reached a box that does not follow its key.

        One that was passed on before goes to all, or boxes that only share rows with the key would send it to and fro.
        """
        self._verify(time.monotonic())
        with suppress(OSError):
            if (marks := self._marks) is not None:
                boxes = marks.followers(place, FOLLOWED, marks.groups())
                if moment != _PASSED_ON and boxes:
                    self._send_to_one(boxes, place, _PASSED_ON)
                else:
                    for box in boxes:
                        self._send_or_note_loss(box, pack(place, FINAL, 0))

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send_to_one(self, boxes: list[int], place: bytes, moment: int) -> None:
        """Send a message to one box whose owner is alive: in turn, but rather to one that has read the one before.

        A subscriber that stops following removes its mark, then reads its box. So if its mark is still there after the
        message was sent, it will read that; if not, another is sent one as well.
        """
        message = pack(place, ONE, moment)
        first = next(self._turn) % len(boxes)
        full = []
        for box in sorted(boxes[first:] + boxes[:first], key=self._has_unread):
            try:
                if self._send_datagram(box, message) and self._is_followed_by(box, place):
                    return
            except _QueueFull:
                full.append(box)
        if full:
            self._send_or_note_loss(full[0], message)

    def _is_followed_by(self, box: int, place: bytes) -> bool:
        marks = self._marks
        return marks is not None and box in marks.followers(place, FOLLOWED, marks.groups())

    def _has_unread(self, box: int) -> bool:
        """Return whether a box has not received all that this process has sent to it."""
        connected = self._sockets.get(box)
        if connected is None or _UNREAD is None:
            return False
        try:
            return ioctl(connected, _UNREAD, bytes(4)) != bytes(4)
        except OSError:  # another thread has closed it
            return False

    def _send_or_note_loss(self, box: int, datagram: bytes) -> None:
        """Send a datagram; if the queue is full, note that a message was lost."""
        try:
            self._send_datagram(box, datagram)
        except _QueueFull:
            with suppress(OSError, _QueueFull):
                if self._marks is not None:
                    self._marks.set_lost(box, True)
                # Send again, after the note. If there is room by now, the owner receives this, then sees the note.
                # If the queue is still full, the owner sees the note when it next reads the queue.
                self._send_datagram(box, datagram)

    def _send_datagram(self, box: int, datagram: bytes) -> bool:
        """Send a datagram; return False if the box has no live owner. Raises `_QueueFull`."""
        for connected in (self._sockets.get(box), None):  # the first may be connected to a former owner of the box
            try:
                (connected or self._connect(box)).send(datagram)
            except OSError as error:
                if error.errno in _FULL:
                    raise _QueueFull from None
                self._sockets.pop(box, None)
            else:
                return True
        return False

    def _connect(self, box: int) -> socket.socket:
        connected = self._sockets[box] = self._folder.connect(box)
        while len(self._sockets) > _MAX_SOCKETS:
            with suppress(StopIteration, RuntimeError):  # another thread is removing sockets as well
                self._sockets.pop(next(iter(self._sockets)), None)
        return connected

    # -- stale state -----------------------------------------------------------------------------------------------

    def _verify(self, now: float) -> None:
        """Reopen the file of marks if it was replaced, and retire boxes whose owner was killed."""
        self._verify_at = now + _VERIFY_EVERY
        with suppress(OSError):  # no permission, or no folder: then no waiter can have a box either
            marks = self._marks
            if marks is None or not self._folder.leads_to(marks.descriptor):
                self._sockets.clear()
                marks = self._marks = Marks(self._folder.open_marks())
            if marks.groups():
                retire_orphaned_boxes(self._folder)

    def waiters(self) -> int:
        """Return how many boxes are in use."""
        if os.path.lexists(self._folder.path):  # else it would be created
            self._verify(time.monotonic())
        return len(self._marks.alive()) if self._marks is not None else 0

    def remove_orphaned_boxes(self) -> None:
        """Remove the boxes of killed subscribers."""
        with suppress(OSError):
            remove_orphaned_boxes(self._folder)

    def close(self) -> None:
        """Close the sockets. One that another thread is using is closed after that."""
        self._marks = None
        self._sockets.clear()
        self._verify_at = float("inf")
