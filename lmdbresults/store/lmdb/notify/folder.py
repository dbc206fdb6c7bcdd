"""The folder of sockets beside a data file, ``<file>-wake``: its permissions, and addresses in it.

Whatever lies there is shared by the users of the data file, so everything takes over mode and group of that.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["FOLDER_SUFFIX", "WakeFolder"]

FOLDER_SUFFIX: Final = "-wake"
#: The file of marks (marks.py). The number is the version of its layout.
_MARKS: Final = "marks-1"
#: An address of a Unix socket has 108 bytes on Linux and 104 elsewhere, with a NUL at the end.
_LONGEST_ADDRESS: Final = 103
_OPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class WakeFolder:
    """The folder of one data file. Its methods raise OSError where something is impossible."""

    def __init__(self, data_path: str, mode: int) -> None:
        self._data_path = data_path
        self._is_shared = bool(mode & 0o077)
        self.path = data_path + FOLDER_SUFFIX

    def open_marks(self) -> int:
        """Return a new descriptor of the file of marks. Create folder and file if they do not exist."""
        self._make()
        path = f"{self.path}/{_MARKS}"
        try:
            return os.open(path, _OPEN)
        except FileNotFoundError:
            descriptor = os.open(path, _OPEN | os.O_CREAT, 0o600)
            self._share(path)
            return descriptor

    def leads_to(self, marks: int) -> bool:
        """Return whether a descriptor is that of the file of marks, which a cleaner may have removed meanwhile."""
        try:
            return os.path.samestat(os.stat(f"{self.path}/{_MARKS}"), os.fstat(marks))
        except FileNotFoundError:
            return False

    def _make(self) -> None:
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            found = os.lstat(self.path)
            # The owner of a folder can replace what is in it.
            is_trusted = found.st_uid == os.geteuid() or self._is_shared
            if not (stat.S_ISDIR(found.st_mode) and is_trusted):
                raise PermissionError(errno.EACCES, "not a folder of this user", self.path) from None
        else:
            self._share(self.path)

    def _share(self, path: str) -> None:
        """Give mode and group of the data file to something new."""
        data = os.stat(self._data_path)
        mode = stat.S_IMODE(data.st_mode) & 0o666
        if stat.S_ISDIR(os.stat(path).st_mode):
            mode |= (mode & 0o444) >> 2  # readers may enter
        with suppress(PermissionError):  # not a member of that group; or another process has just created it
            os.chown(path, -1, data.st_gid)
        with suppress(PermissionError):
            os.chmod(path, mode)

    # -- sockets ---------------------------------------------------------------------------------------------------

    def bind(self, box: int) -> socket.socket:
        """Return the socket of a new box."""
        receiver = _unbound()
        try:
            with self._address(box) as address:
                receiver.bind(address)
            self._share(self._name(box))
        except BaseException:
            receiver.close()
            raise
        return receiver

    def connect(self, box: int) -> socket.socket:
        """Return a socket that is connected to that of a box."""
        line = _unbound()
        try:
            with self._address(box) as address:
                line.connect(address)
        except BaseException:
            line.close()
            raise
        return line

    def inode(self, box: int) -> int | None:
        """Return what identifies the socket that has the name of a box; None if there is none."""
        try:
            found = os.lstat(self._name(box))
        except FileNotFoundError:
            return None
        return found.st_ino if stat.S_ISSOCK(found.st_mode) else None

    def remove(self, box: int) -> None:
        """Remove the socket of a box, but nothing else that has its name."""
        if self.inode(box) is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._name(box))

    def boxes(self) -> list[int]:
        """Return the boxes that have a name."""
        return [int(name) for name in os.listdir(self.path) if name.isascii() and name.isdigit()]

    def _name(self, box: int) -> str:
        return f"{self.path}/{box}"

    @contextmanager
    def _address(self, box: int) -> Iterator[str]:
        """Provide an address that is short enough: the path, or one through an open folder."""
        name = self._name(box)
        if len(os.fsencode(name)) <= _LONGEST_ADDRESS:
            yield name
            return
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{folder}/{box}"
        finally:
            os.close(folder)


class _Socket(socket.socket):
    """A socket that is closed with the last reference: another thread may be sending by it as it is dropped."""

    def __del__(self) -> None:
        with suppress(AttributeError):  # no descriptor was left for it
            self.close()


def _unbound() -> socket.socket:
    unbound = _Socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unbound.setblocking(False)
    return unbound
