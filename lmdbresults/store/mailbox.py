"""Mailboxes: Unix datagram sockets in a folder beside the file, by which a writer wakes whoever waits.

A message is a row of topics (waiters.py) that have changed. It is sent after the commit, never waits, and may go to a
process that is dead. A queue that is full, which on Linux takes ten messages, belongs to somebody who will wake up
anyway; a marker beside the socket then tells him to look at everything.
"""

import errno
import os
import socket
import stat
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from lmdbresults.errors import StoreClosed, StoreFull
from lmdbresults.store.base import Mailbox
from lmdbresults.store.gate import gate
from lmdbresults.store.waiters import BOX_BYTES, TOPIC_BYTES, News

if TYPE_CHECKING:
    from lmdbresults.store.lmdb import LMDBStore

__all__ = ["FOLDER_SUFFIX", "LMDBMailbox", "WakeFolder"]

Item = TypeVar("Item")

FOLDER_SUFFIX: Final = "-wake"
_FULL_SUFFIX: Final = ".full"

#: An address of a Unix socket has 108 bytes on Linux and 104 elsewhere, with a NUL at the end.
_LONGEST_ADDRESS: Final = 103
#: Topics in a message: less than a page.
_MESSAGE_TOPICS: Final = 64
_ENTRY_BYTES: Final = TOPIC_BYTES + 1
#: Registrations made, or looked through, under one hold of the write lock: a few milliseconds.
_BATCH: Final = 500


class WakeFolder:
    """The folder of the sockets of one file."""

    def __init__(self, path: str, mode: int) -> None:
        self.path = path + FOLDER_SUFFIX
        self._socket_mode = mode
        #: Who may read may enter.
        self._mode = mode | (mode & 0o444) >> 2
        self._sender: socket.socket | None = None
        self._is_short = len(os.fsencode(self._name(bytes(BOX_BYTES)))) <= _LONGEST_ADDRESS

    # -- receiving -------------------------------------------------------------------------------------------------

    def bind(self, box: bytes) -> socket.socket:
        """Return the socket of a new box. Raises OSError where sockets are impossible."""
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            receiver.setblocking(False)
            self._make()
            with self.address(box) as address:
                receiver.bind(address)
            os.chmod(self._name(box), self._socket_mode)
        except BaseException:
            receiver.close()
            raise
        return receiver

    def _make(self) -> None:
        try:
            os.mkdir(self.path, self._mode)
        except FileExistsError:
            found = os.lstat(self.path)
            # Somebody else's folder would be somebody else's to watch, and to take the sockets from.
            if not stat.S_ISDIR(found.st_mode) or (found.st_uid != os.geteuid() and not self._socket_mode & 0o077):
                raise PermissionError(errno.EACCES, "not a folder of this user", self.path) from None
        else:
            os.chmod(self.path, self._mode)  # whatever the umask

    def unbind(self, box: bytes) -> None:
        """Remove the socket of a box, and the folder if it was the last one."""
        for name in (self._name(box), self._name(box) + _FULL_SUFFIX):
            with suppress(OSError):
                os.unlink(name)
        with suppress(OSError):
            os.rmdir(self.path)

    def has_overflown(self, box: bytes) -> bool:
        """Return whether a message did not fit the queue of a box since the last time that this was asked."""
        marker = self._name(box) + _FULL_SUFFIX
        if not os.access(marker, os.F_OK):  # a third of what unlink() takes to fail
            return False
        with suppress(OSError):
            os.unlink(marker)
        return True

    # -- sending ---------------------------------------------------------------------------------------------------

    def send(self, news: Iterable[News]) -> None:
        """Send messages, without waiting for anybody. Nothing that can go wrong matters: who waits looks again."""
        rows: dict[bytes, list[bytes]] = {}
        for box, topic, is_last in news:
            rows.setdefault(box, []).append(topic + (b"\1" if is_last else b"\0"))
        for box, row in rows.items():
            with suppress(OSError), self.address(box) as address:
                for start in range(0, len(row), _MESSAGE_TOPICS):
                    self._send(box, address, b"".join(row[start : start + _MESSAGE_TOPICS]))

    def _send(self, box: bytes, address: str, message: bytes) -> None:
        if self._sender is None:
            self._sender = _unbound()
            weakref.finalize(self, self._sender.close)
        try:
            if _fits(self._sender, message, address):
                return
            # It may be the buffer of the sender that is full, with what others have not read: then another will do.
            with _unbound() as another:
                if not _fits(another, message, address):
                    # First the marker, then the message once more: if there is room by now, whoever reads it sees the
                    # marker; if not, the marker is there before the queue is read.
                    with open(self._name(box) + _FULL_SUFFIX, "wb"):
                        pass
                    _fits(another, message, address)
        except ConnectionRefusedError:  # its process was killed
            self.unbind(box)

    # -- cleaning --------------------------------------------------------------------------------------------------

    def is_alive(self, box: bytes) -> bool:
        """Return whether a process has the socket of a box open."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as prober:
            try:
                with self.address(box) as address:
                    prober.connect(address)
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            except OSError:
                pass  # of another user: it is not known to be dead
        return True

    def remove_dead(self) -> None:
        """Remove the sockets of killed processes, and the folder if nothing is left in it."""
        with suppress(OSError):
            for name in os.listdir(self.path):
                box = _box_of(name.removesuffix(_FULL_SUFFIX))
                if box is not None and not self.is_alive(box):
                    self.unbind(box)

    # -- names -----------------------------------------------------------------------------------------------------

    def _name(self, box: bytes) -> str:
        return f"{self.path}/{box.hex()}"

    def address(self, box: bytes) -> AbstractContextManager[str]:
        """Return a context with an address that is short enough: the path, or one through an open folder."""
        return nullcontext(self._name(box)) if self._is_short else self._short_address(box)

    @contextmanager
    def _short_address(self, box: bytes) -> Iterator[str]:
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{folder}/{box.hex()}"
        finally:
            os.close(folder)


class LMDBMailbox(Mailbox):
    """A mailbox of an `LMDBStore`. Its socket is made when there is something to wait for; a child makes its own."""

    def __init__(self, store: "LMDBStore", folder: WakeFolder) -> None:
        self._store = store
        self._folder = folder
        self._socket: socket.socket | None = None
        self._start_anew()
        gate.watch_forks(self)

    def _start_anew(self) -> None:
        self._box = os.urandom(BOX_BYTES)
        self._is_impossible = False
        #: What is registered: the key behind each topic, and whether every change was asked for.
        self._keys: dict[bytes, bytes] = {}
        self._registered: dict[bytes, bool] = {}

    def before_fork(self) -> None:
        """Nothing to do: the socket stays the parent's."""

    def after_fork_in_child(self) -> None:
        """Leave the socket to the parent."""
        receiver, self._socket = self._socket, None
        if receiver is not None:
            self._finalizer()
        self._start_anew()

    # -- registrations ---------------------------------------------------------------------------------------------

    def register(
        self, keys: Iterable[bytes], is_pending: Callable[[bytes | None], bool], *, every_change: bool = False
    ) -> list[bytes]:
        ready: list[bytes] = []
        wanted = [key for key in keys if self._registered.get(key) not in (True, every_change)]
        if not wanted or not self._is_open():
            return ready
        for batch in _batches(wanted, _BATCH):
            self._keys.update((self._store.topic_of(key), key) for key in batch)  # the news may come at once
            try:
                gone = self._store.watch(batch, is_pending, self._box, every_change)
            except StoreFull:
                return ready  # whoever waits looks again and again
            self._registered.update((key, every_change) for key in batch)
            self._drop(gone)
            ready += gone
        return ready

    def forget(self, keys: Iterable[bytes]) -> None:
        registered = self._drop(keys)
        for batch in _batches(registered, _BATCH) if registered else ():
            with suppress(StoreFull):  # then they last until their life has ended
                self._store.unwatch(batch, self._box)

    def _drop(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return those of the keys that were registered, as far as is known here; from now on they are not."""
        dropped = [key for key in keys if self._registered.pop(key, None) is not None]
        for key in dropped:
            self._keys.pop(self._store.topic_of(key), None)
        return dropped

    # -- messages --------------------------------------------------------------------------------------------------

    def drain(self) -> Collection[bytes] | None:
        changed: set[bytes] = set()
        for message in self._messages():
            for start in range(0, len(message), _ENTRY_BYTES):
                topic = message[start : start + TOPIC_BYTES]
                key = self._keys.get(topic)
                if key is None:
                    continue  # it was forgotten since
                changed.add(key)
                if message[start + TOPIC_BYTES]:
                    self._registered.pop(key, None)
                    self._keys.pop(topic, None)
        if changed and self._folder.has_overflown(self._box):
            self._registered.clear()  # nobody knows which are used up
            return None
        return changed

    def _messages(self) -> list[bytes]:
        messages: list[bytes] = []
        with suppress(BlockingIOError):
            while self._socket is not None:
                messages.append(self._socket.recv(_MESSAGE_TOPICS * _ENTRY_BYTES))
        return messages

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def ring(self) -> None:
        receiver = self._socket
        if receiver is not None:
            with suppress(OSError), self._folder.address(self._box) as address:  # a full queue is readable already
                receiver.sendto(b"", address)

    def _is_open(self) -> bool:
        """Return whether there is a socket; make it, if that is possible."""
        if self._socket is None and not self._is_impossible:
            try:
                self._socket = self._folder.bind(self._box)
            except OSError:
                self._is_impossible = True  # of no permission, no folder, no such sockets: one can still look again
            else:
                self._finalizer = weakref.finalize(self, _abandon, self._folder, self._box, os.getpid(), self._socket)
        return self._socket is not None

    def close(self) -> None:
        receiver, self._socket = self._socket, None
        if receiver is not None:
            try:
                with suppress(StoreClosed):
                    self.forget(list(self._registered))
            finally:
                self._finalizer()


def _abandon(folder: WakeFolder, box: bytes, owner: int, receiver: socket.socket) -> None:
    """Remove what a mailbox leaves behind, unless this is a child of the process that made it."""
    receiver.close()
    if os.getpid() == owner:
        folder.unbind(box)


def _unbound() -> socket.socket:
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    return sender


def _fits(sender: socket.socket, message: bytes, address: str) -> bool:
    """Send a message, if the buffer of the sender and the queue at the address have room for it."""
    try:
        sender.sendto(message, address)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.ENOBUFS):
            return False
        raise
    return True


def _box_of(name: str) -> bytes | None:
    try:
        box = bytes.fromhex(name)
    except ValueError:
        return None
    return box if len(box) == BOX_BYTES else None


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
