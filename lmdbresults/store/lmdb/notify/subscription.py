"""Subscriptions to an `LMDBStore`: a box (box.py), and the keys that it follows."""

import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from lmdbresults.process.fork_gate import gate
from lmdbresults.store.base import Subscription
from lmdbresults.store.lmdb.notify.box import Box
from lmdbresults.store.lmdb.notify.folder import WakeFolder
from lmdbresults.store.lmdb.notify.messages import DATAGRAM_BYTES, messages_in
from lmdbresults.store.lmdb.records.layout import place_of
from lmdbresults.store.lmdb.types import INTERIM, ONE
from lmdbresults.store.transactions import EVERY_COMMIT

__all__ = ["LMDBSubscription"]

#: Seconds after which to look again whether the box has lost its name, or to try again to get one.
_VERIFY_EVERY: Final = 1.0


class LMDBSubscription(Subscription):
    """A subscription whose box is made when there is something to follow. A forked child makes its own."""

    def __init__(
        self,
        folder: WakeFolder,
        prefix: bytes,
        look: Callable[[list[bytes]], tuple[int, list[bytes | None]]],
        pass_on: Callable[[bytes, int], object],
        clock: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._prefix = prefix
        self._commits = place_of(prefix + EVERY_COMMIT)
        self._look = look
        self._pass_on = pass_on
        self._clock = clock
        self._box: Box | None = None
        #: What closes a box. One that was left is closed by the thread that reads, which may still be waiting at it.
        self._finalizers: dict[Box, weakref.finalize[[], LMDBSubscription]] = {}
        self._is_closed = False
        self._reset()
        gate.watch_forks(self)

    def _reset(self) -> None:
        #: Guards keys and marks. Reentrant because a signal handler may subscribe.
        self._lock = threading.RLock()
        #: The keys that are followed by their places, and the places of those with interim values.
        self._keys: dict[bytes, bytes] = {}
        self._every_change: set[bytes] = set()
        #: Whether a message may have been missed, so that any key may have changed.
        self._has_missed = False
        #: The last commit before the last look: a value that was sent earlier may be stale.
        self._looked_at = 0
        self._verify_at = 0.0

    def after_fork_in_child(self) -> None:
        """Leave the box to the parent."""
        self._box = None
        self._close_boxes()
        self._reset()

    # -- keys ------------------------------------------------------------------------------------------------------

    def add(self, keys: Iterable[bytes], *, every_change: bool = False) -> dict[bytes, bytes | None]:
        keys = list(keys)
        self.follow(keys, every_change=every_change)
        moment, values = self._look(keys)
        self._looked_at = max(self._looked_at, moment)
        return dict(zip(keys, values, strict=True))

    def follow(self, keys: Collection[bytes], *, every_change: bool = False) -> None:
        with self._lock:
            if keys and not self._is_closed:
                if time.monotonic() >= self._verify_at:
                    self._verify()
                for key in keys:
                    self._follow(key, every_change)

    def _follow(self, key: bytes, every_change: bool) -> None:
        place = place_of(self._prefix + key)
        is_known, had_every_change = place in self._keys, place in self._every_change
        if is_known and had_every_change >= every_change:
            return
        # First the mark: an exception in between leaves one too many, which is harmless.
        self._mark(place, every_change, 1)
        self._keys[place] = key
        if every_change:
            self._every_change.add(place)
        if is_known:
            self._mark(place, had_every_change, -1)

    def remove(self, keys: Iterable[bytes]) -> None:
        with self._lock:
            for key in keys:
                place = place_of(self._prefix + key)
                if self._keys.pop(place, None) is not None:
                    had_every_change = place in self._every_change
                    self._every_change.discard(place)
                    self._mark(place, had_every_change, -1)

    def _mark(self, place: bytes, every_change: bool, times: int) -> None:
        try:
            if self._box is not None:
                self._box.mark(place, every_change, times)
        except OSError:  # the disk is full
            self._leave()

    # -- the box ---------------------------------------------------------------------------------------------------

    def _verify(self) -> None:
        """Get a box if there is none, or another one if writers cannot find it any more."""
        self._verify_at = time.monotonic() + _VERIFY_EVERY
        try:
            if self._box is not None and not self._box.is_reachable():
                self._leave()
            if self._box is None:
                self._open(Box(self._folder))
        except OSError:  # no permission, no folder, no such sockets: one can still look again and again
            self._leave()

    def _open(self, box: Box) -> None:
        self._finalizers[box] = weakref.finalize(self, box.close)
        self._box = box
        for place in self._keys:
            box.mark(place, place in self._every_change)
        self._has_missed = bool(self._keys)

    def _leave(self) -> None:
        """Leave a box to be closed. The thread that waits for a message looks at everything."""
        box, self._box = self._box, None
        if box is not None:
            self._has_missed = True
            box.ring()

    def _close_boxes(self) -> None:
        """Close the boxes that were left."""
        for box in list(self._finalizers):
            if box is not self._box:
                self._finalizers.pop(box)()

    # -- messages --------------------------------------------------------------------------------------------------

    def receive(self, timeout: float) -> Mapping[bytes, bytes | None] | None:
        with self._lock:
            if self._keys and time.monotonic() >= self._verify_at:
                self._verify()
            if len(self._finalizers) > 1 or self._box is None:
                self._close_boxes()
            box = self._box
        changed: dict[bytes, bytes | None] = {}
        try:
            if box is not None:
                self._read(box, 0.0 if self._has_missed else timeout, changed)
        except BaseException:  # of a signal handler: what has been read until then is lost
            self._has_missed = True
            raise
        if not self._has_missed:
            return None if self._is_closed else changed
        with self._lock:  # or a change that was missed meanwhile would be forgotten
            self._has_missed = False
        return None

    def _read(self, box: Box, timeout: float, changed: dict[bytes, bytes | None]) -> None:
        while (datagram := self._datagram(box.receiver, timeout)) is not None:
            self._take(datagram, changed)
            if datagram and self._commits in self._keys:  # any datagram announces a commit (`Notifier.send`)
                changed[EVERY_COMMIT] = None
            if changed and len(changed) == len(self._keys):
                break  # the rest can wait if nothing else is followed: the usual case, which saves a system call
            timeout = 0.0
        if box.has_lost():
            self._has_missed = True

    def _take(self, datagram: bytes, changed: dict[bytes, bytes | None]) -> None:
        """Add what a datagram says to what has changed."""
        for place, kind, moment, deadline, value in messages_in(datagram):
            key = self._keys.get(place)
            if key is None:
                if kind == ONE:
                    self._pass_on(place, moment)
            elif kind != INTERIM or place in self._every_change:
                is_valid = moment > self._looked_at and (not deadline or self._clock() < deadline)
                changed[key] = value if is_valid else None

    def _datagram(self, receiver: socket.socket, timeout: float) -> bytes | None:
        """Return what arrives first; None if nothing does in time."""
        if timeout != receiver.gettimeout():
            receiver.settimeout(timeout)
        try:
            return receiver.recv(DATAGRAM_BYTES)
        except (BlockingIOError, TimeoutError):
            return None
        except OSError:
            if receiver.fileno() >= 0:
                raise
            return None  # it was closed meanwhile

    def fileno(self) -> int:
        box = self._box
        return -1 if box is None else box.receiver.fileno()

    def ring(self) -> None:
        box = self._box
        if box is not None:
            box.ring()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._keys, box = {}, self._box
            if box is not None:
                box.refuse()
                while (datagram := self._datagram(box.receiver, 0.0)) is not None:
                    self._take(datagram, {})  # which passes on what was for one subscriber
                self._leave()
            self._close_boxes()
