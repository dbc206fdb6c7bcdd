"""A disk with a cache that loses power: what is written, what is synced, and what may be left of it.

What a completed sync covers is on the disk. Of everything else any part may be, in any order: each page of 4 KiB, or
each of its sectors of 512 B, in any of the versions that it has had since; each size of a file; each change of a name.
"""

import os.path
from collections.abc import Callable, Iterable
from random import Random
from typing import Final, NamedTuple

from tests.crash.recording import Event, Kind

__all__ = ["PAGE", "SECTOR", "UNITS", "Disk"]

PAGE: Final = 4096
SECTOR: Final = 512
#: What is written as a whole or not at all.
UNITS: Final = (PAGE, SECTOR)

_ZEROS: Final = bytes(PAGE)


class _Version(NamedTuple):
    """A page or a size as it was from one place in the log on."""

    since: int
    value: bytes | memoryview | int


class _File:
    """The pages and sizes of a file: the synced version, then those that came after it."""

    def __init__(self, content: bytes = b"") -> None:
        self.sizes = [_Version(-1, len(content))]
        self.pages: dict[int, list[_Version]] = {}
        #: Pages with more than one version.
        self.unsynced: set[int] = set()
        #: Pages that the disk has not taken, as the processes see them.
        self.forgotten: dict[int, bytes | memoryview] = {}
        for start in range(0, len(content), PAGE):
            self.pages[start // PAGE] = [_Version(-1, content[start : start + PAGE].ljust(PAGE, b"\0"))]

    def write(self, place: int, offset: int, data: memoryview | bytes) -> None:
        done = 0
        while done < len(data):
            number, start = divmod(offset + done, PAGE)
            part = data[done : done + PAGE - start]
            self._write_page(place, number, start, part)
            done += len(part)
        if offset + len(data) > self.size:
            self.sizes.append(_Version(place, offset + len(data)))

    def _write_page(self, place: int, number: int, start: int, part: memoryview | bytes) -> None:
        versions = self.pages.setdefault(number, [_Version(-1, _ZEROS)])
        former = self.forgotten.pop(number, versions[-1].value)
        if len(part) < PAGE:
            part = bytes(former[:start]) + part + bytes(former[start + len(part) :])
        versions.append(_Version(place, part))
        self.unsynced.add(number)

    def resize(self, place: int, size: int) -> None:
        if size < self.size:
            for number in [number for number in self.pages if (number + 1) * PAGE > size]:
                start = max(size - number * PAGE, 0)
                self._write_page(place, number, start, bytes(PAGE - start))
        if size != self.size:
            self.sizes.append(_Version(place, size))

    @property
    def size(self) -> int:
        return self.sizes[-1].value

    def sync(self, begin: int, offset: int, length: int) -> None:
        """Have everything be on the disk that was written before a sync began; of a range, where there is one."""
        self.sizes = _synced(self.sizes, begin)
        last = (offset + length - 1) // PAGE
        covered = self.unsynced if not length else self.unsynced & set(range(offset // PAGE, last + 1))
        for number in list(covered):
            self.pages[number] = _synced(self.pages[number], begin)
            if len(self.pages[number]) == 1:
                self.unsynced.discard(number)

    def forget(self) -> None:
        """Have what is not synced never get to the disk, unless it is written once more: what a failed sync does."""
        for number in self.unsynced:
            self.forgotten[number] = self.pages[number][-1].value
            self.pages[number] = self.pages[number][:1]
        self.unsynced.clear()

    def seen(self, number: int, versions: list[_Version]) -> bytes | memoryview:
        """Return a page as the processes see it."""
        return self.forgotten.get(number, versions[-1].value)


def _synced(versions: list[_Version], begin: int) -> list[_Version]:
    last = max((number for number, version in enumerate(versions) if version.since < begin), default=0)
    return versions[last:]


class Disk:
    """The disk under the folder with an inode, with what lay there before; events are applied in their order.

    ``ignores_sync`` holds the ends of names of files whose syncs do nothing, as on a disk that does not do as it says.
    """

    def __init__(
        self, inode: int, before: Iterable[tuple[int, str, bytes]] = (), *, ignores_sync: Iterable[str] = ()
    ) -> None:
        self._inode = inode
        self._ignored = tuple(ignores_sync)
        self._files = {inode: _File(content) for inode, _, content in before}
        #: What the names on the disk lead to, and the changes that are not synced.
        self._names = {name: self._files[inode] for inode, name, _ in before}
        self._changes: list[tuple[int, Kind, str, str, _File | None]] = []
        self._begun: dict[int, Event] = {}

    def apply(self, event: Event) -> None:
        """Have one thing happen."""
        name, other = os.path.basename(event.path), os.path.basename(event.other)
        if event.kind is Kind.WRITE:
            self._files[event.inode].write(event.place, event.offset, event.data)
        elif event.kind is Kind.RESIZE:
            self._files[event.inode].resize(event.place, event.length)
        elif event.kind is Kind.SYNC_BEGIN:
            self._begun[event.place] = event
        elif event.kind is Kind.SYNC_END:
            self._sync(self._begun.pop(event.offset))
        elif event.kind is Kind.CREATE:
            file = self._files[event.inode] = _File()
            self._changes.append((event.place, event.kind, name, other, file))
        elif event.kind in (Kind.LINK, Kind.UNLINK, Kind.RENAME):
            self._changes.append((event.place, event.kind, name, other, None))

    def _sync(self, begin: Event) -> None:
        if begin.inode == self._inode:
            done = [change for change in self._changes if change[0] < begin.place]
            _change(self._names, done)
            self._changes = self._changes[len(done) :]
        elif not begin.path.endswith(self._ignored or "\0"):
            self._files[begin.inode].sync(begin.place, begin.offset, begin.length)

    def forget(self, name: str) -> None:
        """Have a sync of a file fail."""
        self._names[name].forget()

    def contents(self) -> dict[str, bytes]:
        """Return the files as the processes see them: with everything that was written."""
        names = dict(self._names)
        _change(names, self._changes)
        return {name: _content(file, file.size, file.seen) for name, file in names.items()}

    def image(self, choose: Random, unit: int) -> dict[str, bytes]:
        """Return the files as they may be after a power cut, torn at a unit of so many bytes."""
        names = dict(self._names)
        _change(names, [change for change in self._changes if choose.random() < 0.7])
        files = {name: _image(file, choose, unit) for name, file in names.items()}
        for name in files:
            if name.endswith("-lock") and choose.random() < 0.5:
                files[name] = choose.randbytes(len(files[name]))  # written through a map, so it may hold anything
        return files


class _Taste:
    """What is kept of a part of an image.

    Losing half of everything is rarely what hurts: losing one page does, or all but one.
    """

    def __init__(self, choose: Random, unit: int) -> None:
        self._choose, self._unit = choose, unit
        #: How likely something is as it was written last; the others have any version.
        self._likely = choose.choice((0.0, 0.02, 0.3, 0.7, 0.98, 1.0))
        #: How likely one of the others has not been written at all.
        self._lost = choose.choice((0.0, 0.5, 1.0))

    def version(self, versions: list[_Version]) -> bytes | memoryview | int:
        if len(versions) == 1 or self._choose.random() < self._likely:
            return versions[-1].value
        return versions[0].value if self._choose.random() < self._lost else self._choose.choice(versions).value

    def page(self, versions: list[_Version]) -> bytes | memoryview:
        if len(versions) == 1 or self._unit == PAGE:
            return self.version(versions)
        if self._choose.random() < 0.5:
            return self.version(versions)  # not each page is torn
        starts = range(0, PAGE, self._unit)
        return b"".join(self.version(versions)[start : start + self._unit] for start in starts)


def _image(file: _File, choose: Random, unit: int) -> bytes:
    first, rest = _Taste(choose, unit), _Taste(choose, unit)  # the first two pages say what the others mean
    size = rest.version(file.sizes)
    return _content(file, size, lambda number, versions: (first if number < 2 else rest).page(versions))


def _content(file: _File, size: int, version_of: Callable[[int, list[_Version]], bytes | memoryview]) -> bytes:
    content = bytearray(size)
    for number, versions in file.pages.items():
        start = number * PAGE
        if start < size:
            content[start : start + PAGE] = version_of(number, versions)[: size - start]
    return bytes(content)


def _change(names: dict[str, _File], changes: Iterable[tuple[int, Kind, str, str, _File | None]]) -> None:
    """Change names; what cannot be done because something before it was not is not done either."""
    for _, kind, name, other, file in changes:
        if kind is Kind.CREATE:
            names[name] = file
        elif kind is Kind.LINK and name in names:
            names[other] = names[name]
        elif kind is Kind.UNLINK:
            names.pop(name, None)
        elif kind is Kind.RENAME and name in names:
            names[other] = names.pop(name)
