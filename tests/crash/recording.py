"""What the processes of a test write and sync, in the order in which it happened: the Python side of recorder.c."""

import atexit
import ctypes
import functools
import mmap
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

__all__ = ["Event", "Kind", "Recording", "compiled", "library", "mark", "record_here"]

_SOURCES: Final = ("recorder.c", "calls.c")
#: kind, pid, bytes of path and other path, time, inode, offset, length, bytes of data, result; see recorder.c.
_HEAD: Final = struct.Struct("=IIIIQQQQQq")


class Kind(IntEnum):
    """What has happened."""

    CREATE = 1
    LINK = 2
    UNLINK = 3
    RENAME = 4
    WRITE = 5
    RESIZE = 6
    SYNC_BEGIN = 7
    SYNC_END = 8
    MARK = 9
    ESCAPE = 10


class Event(NamedTuple):
    """Something that has happened, at a place of the log that grows with time."""

    place: int
    kind: Kind
    pid: int
    time: float
    """Seconds on the monotonic clock."""
    inode: int
    offset: int
    """Of a write or of the range that is synced; of the end of a sync: the place of its beginning."""
    length: int
    """The new size, or the length of the range that is synced, 0 for the whole file."""
    path: str
    other: str
    data: memoryview


def library() -> str:
    """Return the path of the compiled recorder. Skips the test without a compiler, except where CI is true."""
    return compiled(*_SOURCES)


@functools.cache
def compiled(*names: str) -> str:
    """Return the path of a library made of some sources beside this file, as `library` does."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        if os.environ.get("CI") == "true":
            raise RuntimeError("Disks are simulated on Linux with a C compiler: install cc.")
        pytest.skip("needs Linux and a C compiler")
    folder = tempfile.mkdtemp(prefix="preloaded-")
    atexit.register(shutil.rmtree, folder)
    target = os.path.join(folder, "library.so")
    sources = [Path(__file__).parent / name for name in names]
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", target, *sources, "-ldl"], check=True
    )
    return target


class Recording:
    """The log of what happens in a folder; both are there already."""

    def __init__(self, log: Path, folder: Path) -> None:
        self.log, self.folder = log, folder
        #: By which the log knows the folder.
        self.inode = folder.stat().st_ino
        #: What lies in it to begin with: inode, name and content.
        self.before = [
            (path.stat().st_ino, path.name, path.read_bytes()) for path in folder.iterdir() if path.is_file()
        ]
        self._recorder = ctypes.CDLL(library())
        self._recorder.power_cut_end.restype = ctypes.c_uint64
        _start(self._recorder, log, folder)

    def environment(self, delay: float = 0.0) -> dict[str, str]:
        """Return the environment of a process that is to be recorded from its beginning to its end.

        ``delay`` is how many seconds a sync takes longer than it does, at most.
        """
        ours = {"LD_PRELOAD": library(), "POWER_CUT_LOG": str(self.log), "POWER_CUT_FOLDER": str(self.folder)}
        return {**os.environ, **ours, "POWER_CUT_DELAY": str(int(delay * 1e6))}

    def mark(self, *what: Any) -> None:
        """Note something among the events, from outside."""
        _start(self._recorder, self.log, self.folder)
        _mark(self._recorder, what)

    def events(self) -> list[Event]:
        """Return everything so far."""
        self.mark("end", "")  # the next event settles what a killed process left undone
        with open(self.log / "log", "rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        events = list(_parse(content[: self._recorder.power_cut_end()]))
        escaped = [event for event in events if event.kind is Kind.ESCAPE]
        assert not escaped, f"written without being recorded: {escaped}"
        return events


def record_here(log: Path, folder: Path) -> None:
    """Record this process, which was started with the library, from now on."""
    _start(ctypes.CDLL(None), log, folder)


def _start(recorder: Any, log: Path, folder: Path) -> None:
    assert recorder.power_cut_start(os.fsencode(log), os.fsencode(folder)) == 0


def mark(*what: Any) -> None:
    """Note something among the events, in a process that is recorded."""
    _mark(ctypes.CDLL(None), what)


def _mark(recorder: Any, what: tuple[Any, ...]) -> None:
    note = pickle.dumps(what)
    recorder.power_cut_mark(note, ctypes.c_uint64(len(note)))


def _parse(content: memoryview) -> Iterator[Event]:
    place = 0
    while place < len(content):
        kind, pid, path_bytes, other_bytes, time, inode, offset, length, data_bytes, result = _HEAD.unpack_from(
            content, place
        )
        path = place + _HEAD.size
        other, data = path + path_bytes, path + path_bytes + other_bytes
        end = data + data_bytes
        written = content[data : data + result] if kind == Kind.WRITE else content[data:end]
        yield Event(
            place,
            Kind(kind),
            pid,
            time / 1e9,
            inode,
            offset,
            length,
            os.fsdecode(bytes(content[path:other])),
            os.fsdecode(bytes(content[other:data])),
            written,
        )
        place = end
