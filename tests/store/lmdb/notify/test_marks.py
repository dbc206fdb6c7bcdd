"""The file of marks: which boxes follow a key, and whose box is whose."""

import os
from collections.abc import Iterator
from hashlib import md5
from itertools import count
from pathlib import Path

import pytest

from lmdbresults.store.lmdb.notify.folder import WakeFolder
from lmdbresults.store.lmdb.notify.marks import ALIVE, BOXES, EVERY_CHANGE, FOLLOWED, FREE, ORPHANED, Marks, rows_of


@pytest.fixture
def folder(path: str) -> WakeFolder:
    Path(path).touch(mode=0o600)
    return WakeFolder(path, 0o600)


@pytest.fixture
def marks(folder: WakeFolder) -> Iterator[Marks]:
    marks = Marks(folder.open_marks())
    yield marks
    marks.close()


def follow(marks: Marks, box: int, place: bytes, kind: int = FOLLOWED) -> None:
    marks.allocate(box)
    marks.set_state(box, ALIVE)
    for row in rows_of(place):
        marks.mark(box, row, kind)


def followers(marks: Marks, place: bytes, wanted: int = FOLLOWED) -> list[int]:
    return marks.followers(place, wanted, marks.groups())


def test_all_boxes_that_follow_a_key_are_found(marks: Marks) -> None:
    boxes = [0, 1, 31, 32, 500, BOXES - 1]
    for box in boxes:
        follow(marks, box, b"key")
    follow(marks, 2, b"other")
    assert followers(marks, b"key") == boxes
    assert followers(marks, b"other") == [2]
    assert followers(marks, b"neither") == []


def test_interim_values_are_for_the_boxes_that_asked_for_them(marks: Marks) -> None:
    follow(marks, 0, b"key")
    follow(marks, 1, b"key", FOLLOWED | EVERY_CHANGE)
    assert followers(marks, b"key", EVERY_CHANGE) == [1]


def test_boxes_that_are_not_in_use_are_left_out(marks: Marks) -> None:
    for box in range(3):
        follow(marks, box, b"key")
    marks.set_state(0, FREE)
    marks.set_state(2, ORPHANED)
    assert followers(marks, b"key") == [1]
    marks.set_state(1, FREE)
    assert marks.groups() == []


def test_changes_of_one_process_are_seen_by_another(folder: WakeFolder, marks: Marks) -> None:
    assert followers(marks, b"key") == []
    other = Marks(folder.open_marks())
    follow(other, 40, b"key")
    assert followers(marks, b"key") == [40]
    other.set_lost(40, True)
    assert marks.has_lost(40)


def test_clearing_a_box_leaves_the_others(marks: Marks) -> None:
    for number in range(1000):
        follow(marks, 3, b"%d" % number)
        follow(marks, 4, b"%d" % number)
    marks.clear(3)
    assert {tuple(followers(marks, b"%d" % number)) for number in range(1000)} == {(4,)}


def test_a_lock_belongs_to_one_descriptor_and_ends_with_it(folder: WakeFolder, marks: Marks) -> None:
    other = Marks(folder.open_marks())
    assert marks.lock(7)
    assert not other.lock(7)
    assert other.lock(8)
    marks.unlock(7)
    assert other.lock(7)
    other.close()
    assert marks.lock(7)


def test_writers_send_few_messages_without_reason_to_a_box_that_follows_ten_thousand_keys(marks: Marks) -> None:
    for number in range(10_000):
        follow(marks, 0, b"kcelery-task-meta-%d" % number)
    others = sum(bool(followers(marks, b"kcelery-task-meta-%d" % number)) for number in range(10_000, 20_000))
    assert others < 300


def test_the_file_is_small_until_a_box_is_in_use(folder: WakeFolder, marks: Marks) -> None:
    def allocated() -> int:
        return os.stat(folder.path + "/marks-1").st_blocks * 512

    assert allocated() == 1 << 16
    marks.allocate(31)
    assert allocated() <= (4 << 20) + (1 << 16)


def keys_with_the_same_rows() -> tuple[bytes, bytes]:
    """Return two keys that no writer can tell from each other by their marks."""
    seen: dict[tuple[int, int], bytes] = {}
    for number in count():
        key = md5(b"%d" % number).digest()  # CRC32 tells all short numbers from each other
        other = seen.setdefault(rows_of(b"k" + key), key)
        if other != key:
            return other, key
    raise AssertionError
