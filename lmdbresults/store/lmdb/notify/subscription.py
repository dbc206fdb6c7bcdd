"""Subscriptions of an `LMDBStore`: a socket (sockets.py), and what is registered in the file under its name."""

import os
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final, TypeVar

from lmdbresults.errors import DiskFailed, StoreClosed, StoreFull
from lmdbresults.process.fork_gate import gate
from lmdbresults.store.base import Sent, Subscription
from lmdbresults.store.lmdb.notify.messages import DATAGRAM_BYTES, HEAD_BYTES, INTERIM, VALUE, head_at
from lmdbresults.store.lmdb.notify.registrations import Registrations
from lmdbresults.store.lmdb.notify.sockets import WakeFolder
from lmdbresults.store.lmdb.records.waiters import BOX_BYTES

__all__ = ["LMDBSubscription"]

Item = TypeVar("Item")

#: Registrations made under one hold of the write lock: a few milliseconds.
_BATCH: Final = 500


class LMDBSubscription(Subscription):
    """A subscription whose socket is made when there is something to wait for; a child makes its own.

    What is taken for registered is so in the file. The reverse may fail: then a key is registered once more, or its
    registration is left to the next change. No lock is held over a transaction, so that a key may be used up while
    another thread is about to note that it has just registered it; whoever uses a key up therefore says so to all who
    register at that moment.
    """

    def __init__(
        self,
        registrations: Registrations,
        folder: WakeFolder,
        look: Callable[[list[bytes]], list[bytes | None]],
    ) -> None:
        self._look = look
        self._registrations = registrations
        self._folder = folder
        self._socket: socket.socket | None = None
        #: Connected to it, so that it can be reached though it has lost its name. Shutting it down would do as well,
        #: had a socket with a timeout not a loop in C that is never left then.
        self._ringer: socket.socket | None = None
        self._is_closed = False
        self._start_anew()
        gate.watch_forks(self)

    def _start_anew(self) -> None:
        #: Guards the making of the socket. No transaction is begun while it is held.
        self._opening = threading.RLock()
        self._box = os.urandom(BOX_BYTES)
        self._is_impossible = False
        #: Of the socket, so that it is set only when it changes.
        self._timeout = 0.0
        #: Datagrams read since the last look for the marker of a full queue.
        self._unchecked = 0
        #: A socket that has lost its name, until nobody can be reading it.
        self._nameless: socket.socket | None = None
        #: The key behind each topic, until it is forgotten: a message may come in between.
        self._keys: dict[bytes, bytes] = {}
        #: What is registered, and whether every change was asked for.
        self._registered: dict[bytes, bool] = {}
        #: What may be registered, or used up by a message that got lost in an exception.
        self._in_doubt: set[bytes] = set()
        #: For each thread that is registering, the keys that were used up since it began.
        self._in_progress: dict[int, set[bytes]] = {}

    def before_fork(self) -> None:
        """Nothing to do: the socket stays the parent's."""

    def after_fork_in_child(self) -> None:
        """Leave the socket to the parent."""
        receiver, self._socket, self._ringer = self._socket, None, None
        if receiver is not None:
            self._finalizer()
        self._start_anew()

    # -- registrations ---------------------------------------------------------------------------------------------

    def add(self, keys: Iterable[bytes], *, every_change: bool = False) -> dict[bytes, bytes | None]:
        keys = list(keys)
        wanted = [key for key in keys if self._registered.get(key) not in (True, every_change)]
        used_up: set[bytes] = set()
        self._in_progress[id(used_up)] = used_up
        try:
            if wanted and self._is_open():
                for batch in _batches(wanted, _BATCH):
                    self._register(batch, every_change, used_up)
        except StoreFull:
            pass  # whoever waits looks again and again
        finally:
            self._in_progress.pop(id(used_up), None)
        return dict(zip(keys, self._look(keys), strict=True))

    def _register(self, keys: list[bytes], every_change: bool, used_up: set[bytes]) -> None:
        box = self._box
        self._keys.update((self._registrations.topic_of(key), key) for key in keys)  # the news may come at once
        try:
            self._registrations.watch(keys, box, every_change)
            self._note(keys, every_change)
        except StoreFull:
            raise
        except BaseException:  # of a signal handler, perhaps after the commit: `remove` has to take them back
            self._note(keys, every_change)
            raise
        # The order matters: whoever uses keys up says so first, and then takes from what is registered.
        if box != self._box:
            used_up.update(keys)
        for key in list(used_up):
            self._registered.pop(key, None)

    def _note(self, keys: Iterable[bytes], every_change: bool) -> None:
        for key in keys:
            self._registered[key] = every_change or self._registered.get(key, False)

    def remove(self, keys: Iterable[bytes]) -> None:
        keys = list(keys)
        registered = [key for key in keys if key in self._registered or key in self._in_doubt]
        try:
            for batch in _batches(registered, _BATCH):
                with suppress(StoreFull, DiskFailed):  # then they last until their life has ended
                    self._registrations.unwatch(batch, self._box)
        finally:
            self._use_up(registered)
            self._in_doubt.difference_update(registered)
            for key in keys:
                self._keys.pop(self._registrations.topic_of(key), None)

    def _use_up(self, keys: Collection[bytes]) -> None:
        """Note that keys are registered no more."""
        if self._in_progress:
            for used_up in list(self._in_progress.values()):
                used_up.update(keys)
        for key in keys:
            self._registered.pop(key, None)

    def _use_up_all(self) -> None:
        self._use_up(list(self._keys.values()))

    # -- messages --------------------------------------------------------------------------------------------------

    def receive(self, timeout: float) -> Mapping[bytes, Sent | None] | None:
        changed: dict[bytes, Sent | None] = {}
        try:
            datagram = self._datagram(timeout)
            while datagram is not None:
                self._unchecked += 1
                self._take(datagram, changed)
                # Nothing else is waited for, and what did not fit the queue would still be ahead of us: the usual case.
                if datagram and not self._registered and self._unchecked < self._folder.queue_length:
                    return changed
                datagram = self._datagram(0)
            return changed if self._is_all() else None
        except BaseException:  # of a signal handler: what has been read until then is lost
            self._in_doubt.update(self._registered)
            self._use_up_all()
            raise

    def _is_all(self) -> bool:
        """Return whether what was read is all there was. If not, nobody knows which keys are used up."""
        nameless, self._nameless = self._nameless, None
        if nameless is not None:
            nameless.close()
        elif not self._is_closed and not (self._unchecked and self._has_overflown()):
            return True
        self._use_up_all()
        return False

    def _has_overflown(self) -> bool:
        self._unchecked = 0
        return self._folder.has_overflown(self._box)

    def _take(self, datagram: bytes, changed: dict[bytes, Sent | None]) -> None:
        """Add what a datagram says to what has changed."""
        start, end = 0, len(datagram)
        try:
            while start < end:
                topic, kind, moment, deadline, length = head_at(datagram, start)
                value = start + HEAD_BYTES
                start = value + length
                key = self._keys.get(topic)
                if key is None:  # it was forgotten since
                    continue
                if kind != INTERIM:
                    self._use_up((key,))
                    self._in_doubt.add(key)  # it may have been added again meanwhile
                is_there = kind == VALUE and start <= end and (not deadline or self._registrations.clock() < deadline)
                changed[key] = (moment, datagram[value:start]) if is_there else None
        except struct.error:  # nobody of ours has sent it
            return

    def _datagram(self, timeout: float) -> bytes | None:
        """Return what arrives first; None if nothing does, or nothing can any more."""
        receiver = self._socket
        if receiver is None:
            return None
        if self._nameless is not None:  # looked at after the socket, which is another one by now if this is missed
            timeout = 0.0
        if timeout != self._timeout:
            receiver.settimeout(timeout)
            self._timeout = timeout
        try:
            return receiver.recv(DATAGRAM_BYTES)
        except (BlockingIOError, TimeoutError):
            return None
        except OSError:
            if receiver is self._socket:
                raise
            return None  # it was closed meanwhile

    def fileno(self) -> int:
        receiver = self._socket
        return -1 if receiver is None else receiver.fileno()

    def ring(self) -> None:
        _ring(self._ringer)

    # -- the socket ------------------------------------------------------------------------------------------------

    def _is_open(self) -> bool:
        """Return whether there is a socket that can be reached; make it, if that is possible."""
        with self._opening:
            if self._socket is not None and not self._folder.holds(self._box):
                self._leave(self._socket)
            if self._socket is None and not self._is_impossible and not self._is_closed:
                self._open()
            return self._socket is not None

    def _open(self) -> None:
        try:
            receiver, ringer = self._folder.bind(self._box)
        except OSError:
            self._is_impossible = True  # of no permission, no folder, no such sockets: one can still look again
        else:
            self._timeout, self._unchecked = 0.0, 0
            self._socket, self._ringer = receiver, ringer
            self._finalizer = weakref.finalize(self, _abandon, self._folder, self._box, os.getpid(), receiver, ringer)

    def _leave(self, nameless: socket.socket) -> None:
        """Give up a socket whose name somebody has removed, and have whoever reads it look at everything."""
        ringer, self._ringer = self._ringer, None
        self._socket = None
        self._box = os.urandom(BOX_BYTES)
        self._use_up_all()
        self._nameless = nameless
        _ring(ringer)

    def close(self) -> None:
        with self._opening:
            self._is_closed = True
            receiver, self._socket = self._socket, None
        if receiver is not None:
            self.ring()
            try:
                with suppress(StoreClosed):
                    self.remove(list(self._registered))
            finally:
                self._finalizer()


def _ring(ringer: socket.socket | None) -> None:
    if ringer is not None:
        with suppress(OSError):  # a full queue is readable already
            ringer.send(b"")


def _abandon(folder: WakeFolder, box: bytes, owner: int, *sockets: socket.socket) -> None:
    """Remove what a mailbox leaves behind, unless this is a child of the process that made it."""
    for each in sockets:
        each.close()
    if os.getpid() == owner:
        folder.unbind(box)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
