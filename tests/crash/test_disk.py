"""What a simulated disk may hold after a power failure."""

from itertools import count
from random import Random

import pytest

from tests.crash.disk import PAGE, SECTOR, Disk
from tests.crash.recording import Event, Kind

FOLDER, INODE = 1, 2


class Scene:
    """A disk with one file, and what happens to it."""

    def __init__(self, *ignored: str) -> None:
        self.disk = Disk(FOLDER, ignores_sync=ignored)
        self._places = count(1)
        self.happens(Kind.CREATE, path="/w/file")

    def happens(self, kind: Kind, **what: object) -> int:
        fields = {"inode": INODE, "offset": 0, "length": 0, "path": "/w/file", "other": "", "data": memoryview(b"")}
        place = next(self._places)
        self.disk.apply(Event(place, kind, 0, 0.0, **{**fields, **what}))
        return place

    def write(self, offset: int, data: bytes) -> None:
        self.happens(Kind.WRITE, offset=offset, data=memoryview(data))

    def sync(self, inode: int = INODE, **rest: int) -> None:
        self.end_sync(self.happens(Kind.SYNC_BEGIN, inode=inode, **rest), inode)

    def end_sync(self, begin: int, inode: int = INODE) -> None:
        self.happens(Kind.SYNC_END, inode=inode, offset=begin)

    def images(self, unit: int = PAGE) -> set[bytes | None]:
        """The file in many images; None where it is missing."""
        return {self.disk.image(Random(seed), unit).get("file") for seed in range(600)}


@pytest.fixture
def scene() -> Scene:
    """A file that is on the disk, with two pages of a's."""
    scene = Scene()
    scene.write(0, b"a" * 2 * PAGE)
    scene.sync()
    scene.sync(FOLDER)
    return scene


def pages(*letters: bytes) -> bytes:
    return b"".join(letter * PAGE for letter in letters)


def test_what_is_synced_is_there(scene: Scene) -> None:
    assert scene.images() == scene.images(SECTOR) == {pages(b"a", b"a")}


def test_what_is_not_synced_may_be_there_page_by_page(scene: Scene) -> None:
    scene.write(0, pages(b"b", b"b"))
    scene.write(0, pages(b"c"))
    assert scene.images() == {pages(first, second) for first in (b"a", b"b", b"c") for second in (b"a", b"b")}


def test_a_page_may_be_torn_between_sectors_only(scene: Scene) -> None:
    scene.write(0, pages(b"b"))
    torn = {image[:PAGE] for image in scene.images(SECTOR)}
    assert len(torn) > 20
    sectors = {page[start : start + SECTOR] for page in torn for start in range(0, PAGE, SECTOR)}
    assert sectors == {b"a" * SECTOR, b"b" * SECTOR}


def test_a_sync_covers_what_was_written_before_it_began(scene: Scene) -> None:
    scene.write(0, pages(b"b"))
    begin = scene.happens(Kind.SYNC_BEGIN)
    scene.write(0, pages(b"c"))
    assert {image[:1] for image in scene.images()} == {b"a", b"b", b"c"}
    scene.end_sync(begin)
    assert {image[:1] for image in scene.images()} == {b"b", b"c"}


def test_a_synced_write_covers_its_own_pages_only(scene: Scene) -> None:
    scene.write(0, pages(b"b", b"b"))
    scene.sync(offset=PAGE + 100, length=136)
    assert scene.images() == {pages(b"a", b"b"), pages(b"b", b"b")}


def test_a_file_may_have_any_size_since_its_last_sync(scene: Scene) -> None:
    scene.happens(Kind.RESIZE, length=4 * PAGE)
    scene.write(4 * PAGE, b"tail")
    assert {len(image) for image in scene.images()} == {2 * PAGE, 4 * PAGE, 4 * PAGE + 4}
    scene.sync()
    assert {len(image) for image in scene.images()} == {4 * PAGE + 4}


def test_what_is_cut_off_may_come_back(scene: Scene) -> None:
    scene.happens(Kind.RESIZE, length=100)
    assert scene.disk.contents() == {"file": b"a" * 100}
    assert {len(image) for image in scene.images()} == {100, 2 * PAGE}


def test_a_new_file_may_be_missing_until_its_folder_is_synced() -> None:
    scene = Scene()
    scene.write(0, b"content")
    scene.sync()
    assert scene.images() == {None, b"content"}
    scene.sync(FOLDER)
    assert scene.images() == {b"content"}


def test_a_name_may_be_as_before_until_its_folder_is_synced(scene: Scene) -> None:
    scene.happens(Kind.RENAME, other="/w/aside")
    assert {tuple(scene.disk.image(Random(seed), PAGE)) for seed in range(50)} == {("file",), ("aside",)}
    scene.sync(FOLDER)
    assert scene.disk.image(Random(0), PAGE) == {"aside": pages(b"a", b"a")}


def test_a_disk_that_ignores_syncs_promises_nothing() -> None:
    scene = Scene("file")
    scene.write(0, pages(b"a"))
    scene.sync()
    scene.sync(FOLDER)
    assert scene.images() >= {b"", pages(b"a")}
