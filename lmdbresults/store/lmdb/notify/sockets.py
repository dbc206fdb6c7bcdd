"""The folder of sockets beside a file, by which a writer wakes whoever waits.

A datagram of messages (messages.py) is sent after the commit, never waits, and may go to a process that is dead. A
queue that is full, which on Linux takes ten datagrams, belongs to somebody who will wake up anyway; a marker beside the
socket then tells him to look at everything.
"""

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Final

from lmdbresults.store.lmdb.notify.messages import DATAGRAM_BYTES
from lmdbresults.store.lmdb.records.waiters import BOX_BYTES, News

__all__ = ["FOLDER_SUFFIX", "WakeFolder"]

FOLDER_SUFFIX: Final = "-wake"
_FULL_SUFFIX: Final = ".full"

#: An address of a Unix socket has 108 bytes on Linux and 104 elsewhere, with a NUL at the end.
_LONGEST_ADDRESS: Final = 103
#: Sockets that a process keeps connected to those whom it has woken.
_MOST_LINES: Final = 16
#: How often a folder is made that others remove at the same time, because nothing is in it.
_TRIES: Final = 5
#: Seconds between two looks at a socket that seems dead: a name is there for a moment before its socket answers.
_DOUBT: Final = 0.01


class WakeFolder:
    """The folder of the sockets of one file."""

    def __init__(self, path: str, mode: int) -> None:
        self.path = path + FOLDER_SUFFIX
        self._socket_mode = mode
        #: Who may read may enter.
        self._mode = mode | (mode & 0o444) >> 2
        #: Datagrams that a queue takes, or fewer.
        self.queue_length = _queue_length()
        #: Connected sockets of boxes that were written to.
        self._lines: dict[bytes, socket.socket] = {}
        self._is_short = len(os.fsencode(self._name(bytes(BOX_BYTES)))) <= _LONGEST_ADDRESS

    # -- receiving -------------------------------------------------------------------------------------------------

    def bind(self, box: bytes) -> tuple[socket.socket, socket.socket]:
        """Return the socket of a new box, and one that is connected to it. Raises OSError where that is impossible."""
        for _ in range(_TRIES - 1):
            with suppress(FileNotFoundError):  # another process has just removed the folder
                return self._bind(box)
        return self._bind(box)

    def _bind(self, box: bytes) -> tuple[socket.socket, socket.socket]:
        receiver = _unbound()
        try:
            self._make()
            with self.address(box) as address:
                receiver.bind(address)
            os.chmod(self._name(box), self._socket_mode)
            return receiver, self._connect(box)
        except BaseException:
            receiver.close()
            raise

    def _make(self) -> None:
        try:
            os.mkdir(self.path, self._mode)
        except FileExistsError:
            if not self._is_ours():
                raise PermissionError(errno.EACCES, "not a folder of this user", self.path) from None
        else:
            os.chmod(self.path, self._mode)  # whatever the umask

    def _is_ours(self) -> bool:
        """Return whether the folder is one, and this user's: another's would be his to take the sockets from."""
        found = os.lstat(self.path)
        is_trusted = found.st_uid == os.geteuid() or bool(self._socket_mode & 0o077)
        return stat.S_ISDIR(found.st_mode) and is_trusted

    def holds(self, box: bytes) -> bool:
        """Return whether the socket of a box can still be reached by its name."""
        return os.access(self._name(box), os.F_OK)

    def unbind(self, box: bytes) -> None:
        """Remove the socket of a box, and the folder if it was the last one."""
        _remove(self._name(box), stat.S_ISSOCK)
        _remove(self._name(box) + _FULL_SUFFIX, stat.S_ISREG)
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

    def send(self, news: Sequence[News]) -> None:
        """Send messages, without waiting for anybody. Nothing that can go wrong matters: who waits looks again."""
        for box, datagram in news if len(news) == 1 else _bundled(news):
            try:
                (self._lines.get(box) or self._lay(box)).send(datagram)
            except OSError as failure:
                self._send_anyway(box, datagram, failure)
        # Whoever was woken may have been put on our core, behind us: this lets him go first. On two cores with other
        # work it halves the time until he is awake. It costs us 0.5 us; beside busy loops we write as much as before.
        if news:
            _give_way()

    def _send_anyway(self, box: bytes, datagram: bytes, failure: OSError) -> None:
        """Deal with a message that was not sent."""
        try:
            if failure.errno not in _FULL:
                raise failure
            self._insist(box, datagram)
        except (ConnectionRefusedError, FileNotFoundError):  # its process was killed, or has closed it meanwhile
            self._lines.pop(box, None)
            self.unbind(box)
        except OSError:
            self._lines.pop(box, None)

    def _lay(self, box: bytes) -> socket.socket:
        """Return a new line to a box, and keep it: an address is looked up in 15 us after a sleep, a line in none."""
        line = self._lines[box] = self._connect(box)
        while len(self._lines) > _MOST_LINES:
            with suppress(StopIteration, RuntimeError):  # other threads do so as well
                self._lines.pop(next(iter(self._lines)), None)
        return line

    def _insist(self, box: bytes, datagram: bytes) -> None:
        """Send what did not fit, or leave a marker."""
        # It may be the buffer of the sender that is full, with what others have not read: then another will do.
        with self._connect(box) as another:
            if not _fits(another, datagram):
                # First the marker, then the message once more: if there is room by now, whoever reads it sees the
                # marker; if not, the marker is there before the queue is read.
                with suppress(FileExistsError), open(self._name(box) + _FULL_SUFFIX, "xb"):
                    pass
                _fits(another, datagram)

    def _connect(self, box: bytes) -> socket.socket:
        line = _unbound()
        try:
            with self.address(box) as address:
                line.connect(address)
        except BaseException:
            line.close()
            raise
        return line

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
            names = os.listdir(self.path) if self._is_ours() else []
            boxes = {_box_of(name.removesuffix(_FULL_SUFFIX)) for name in names}
            dead = [box for box in boxes if box is not None and not self.is_alive(box)]
            if dead:
                time.sleep(_DOUBT)
            for box in dead:
                if not self.is_alive(box):
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


def _queue_length() -> int:
    try:
        with open("/proc/sys/net/unix/max_dgram_qlen", "rb") as setting:
            return int(setting.read())
    except (OSError, ValueError):  # not Linux, where queues are measured in bytes
        return 1


def _bundled(news: Iterable[News]) -> Iterator[tuple[bytes, bytes]]:
    """Yield boxes and datagrams, with as many messages as fit."""
    rows: dict[bytes, bytes] = {}
    for box, message in news:
        row = rows.get(box, b"")
        if len(row) + len(message) > DATAGRAM_BYTES:
            yield box, row
            row = b""
        rows[box] = row + message
    yield from rows.items()


def _remove(name: str, is_such: Callable[[int], bool]) -> None:
    """Remove what is of the right kind: not what somebody else has put under this name."""
    with suppress(OSError):
        if is_such(os.lstat(name).st_mode):
            os.unlink(name)


#: There is no room in the buffer of the sender, or in the queue at the other end.
_FULL: Final = (errno.EAGAIN, errno.ENOBUFS)
_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


class _Socket(socket.socket):
    """A socket that is closed once nobody holds it: another thread may be sending by it as it is given up."""

    def __del__(self) -> None:
        self.close()


def _unbound() -> socket.socket:
    unbound = _Socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unbound.setblocking(False)
    return unbound


def _fits(line: socket.socket, datagram: bytes) -> bool:
    """Send a datagram, if the buffer of the sender and the queue at the other end have room for it."""
    try:
        line.send(datagram)
    except OSError as error:
        if error.errno in _FULL:
            return False
        raise
    return True


def _box_of(name: str) -> bytes | None:
    try:
        box = bytes.fromhex(name)
    except ValueError:
        return None
    return box if len(box) == BOX_BYTES and box.hex() == name else None
