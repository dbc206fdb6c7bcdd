"""Salvage of a damaged file: every readable record, no older versions, and a correct report."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from lmdbresults import errors, open_store
from lmdbresults.store.lmdb.file.btree import LEAF_IN_USE, survey
from lmdbresults.store.lmdb.file.pages import PageDamaged, PageFile, kind_of, nodes_of
from lmdbresults.store.lmdb.file.verify import verify
from lmdbresults.store.lmdb.maintenance.salvage import Salvaged, salvage
from lmdbresults.store.queues import Message
from tests.store.lmdb.file.test_verify import PAGE, leaf_of_records, newest_meta_at, poke
from tests.support.boots import left_to_go_back
from tests.support.queue_audit import audit

COUNT = 600


def written() -> dict[bytes, bytes]:
    """The content of the store of these tests: short, long and hashed keys, small and large values."""
    found = {b"key %04d" % number: b"value %d " % number + bytes(number % 300) for number in range(COUNT)}
    found.update({b"long %d" % number * 100: b"value" for number in range(10)})
    found.update({b"large %d" % number: b"large %d " % number * 2500 for number in range(10)})
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store in which each record had another value before, and one was deleted."""
    path = tmp_path / "results.lmdb"
    with open_store(path, durability="none") as store:
        for key in [*written(), b"deleted"]:
            store.set(key, b"older", ttl=1800)
        for number, (key, value) in enumerate(written().items()):
            store.set(key, value, ttl=None if number % 3 else 3600)
        store.delete(b"deleted")
        store.set(b"short-lived", b"value", ttl=0.001)
    return path


def leaf_with(path: Path, key: bytes) -> int:
    """The page of the tree that holds a record."""
    with PageFile(str(path)) as pages:
        state = pages.states()[0]
        marks = bytearray(state.last_page + 1)
        assert list(survey(pages, state, marks)) == []
        leaves = (number for number, mark in enumerate(marks) if mark == LEAF_IN_USE)
        return next(
            number for number in leaves if b"k" + key in [node.key for node in nodes_of(pages.page(number), number)]
        )


def content_of(path: Path) -> dict[bytes, bytes]:
    assert verify(str(path)) == []
    with open_store(path, durability="none") as store:
        assert store.check(deep=True) == []
        return dict(store.scan())


def salvaged(file: Path, name: str = "salvaged.lmdb") -> tuple[Salvaged, dict[bytes, bytes]]:
    before = file.read_bytes(), file.stat().st_mtime_ns
    target = file.with_name(name)
    report = salvage(str(file), str(target))
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    found = content_of(target)
    assert report.records == len(found)
    return report, found


def test_a_sound_file_is_salvaged_completely_with_its_deadlines(file: Path):
    report, found = salvaged(file)
    assert found == written()
    assert (report.is_complete(), report.problems, report.strays) == (True, [], 0)
    with open_store(file, durability="none") as before, open_store(f"{file.parent}/salvaged.lmdb") as after:
        assert before.ttl(b"key 0003") == pytest.approx(after.ttl(b"key 0003"), abs=5)
        assert after.ttl(b"key 0001") == before.ttl(b"key 0001")


def root_of(path: Path) -> int:
    with PageFile(str(path)) as pages:
        return pages.states()[0].main.page


def break_the_root(path: Path) -> None:
    poke(path, root_of(path) * PAGE, bytes(PAGE))


def break_every_branch(path: Path) -> None:
    data = path.read_bytes()
    for number in range(2, len(data) // PAGE):
        if data[number * PAGE + 10] == 1:
            poke(path, number * PAGE, b"\xff" * PAGE)


@pytest.mark.parametrize("damage", [break_the_root, break_every_branch], ids=lambda f: f.__name__)
def test_a_tree_without_its_branch_pages_is_salvaged_completely(file: Path, damage: Callable[[Path], None]):
    damage(file)
    report, found = salvaged(file)
    assert found == written()
    assert report.problems
    assert report.is_complete()
    assert report.strays == len(found)


def test_a_lost_leaf_loses_only_its_own_records_and_they_are_reported(file: Path):
    poke(file, leaf_with(file, b"key 0300") * PAGE, bytes(PAGE))
    report, found = salvaged(file)
    gone = written().keys() - found.keys()
    assert 0 < len(gone) < 60
    assert found.items() <= written().items()
    assert not report.is_complete()
    assert report.missing == len(gone)


def test_deleted_records_and_former_versions_in_free_pages_are_not_salvaged(file: Path):
    poke(file, leaf_with(file, b"key 0300") * PAGE, bytes(PAGE))
    _, found = salvaged(file)
    assert b"older" not in found.values()
    assert b"deleted" not in found


def test_a_damaged_record_is_left_out_and_reported(file: Path):
    leaf = leaf_with(file, b"key 0300")
    page = file.read_bytes()[leaf * PAGE :][:PAGE]
    poke(file, leaf * PAGE, page.replace(b"value 300 ", b"walue 300 "))  # also what LMDB has left in between
    report, found = salvaged(file)
    (sentence,) = report.damaged
    assert "b'key 0300'" in sentence
    assert written().keys() - found.keys() == {b"key 0300"}
    assert not report.is_complete()


def test_a_large_value_with_a_damaged_chunk_is_left_out_and_reported(file: Path):
    poke(file, file.read_bytes().rindex(b"large 3 large 3"), b"L")
    report, found = salvaged(file)
    (sentence,) = report.damaged
    assert "b'large 3'" in sentence
    assert written().keys() - found.keys() == {b"large 3"}


def test_a_truncated_file_is_salvaged_in_part(file: Path):
    os.truncate(file, 60 * PAGE)
    report, found = salvaged(file)
    assert report.problems
    assert 0 < len(found) < len(written())


@pytest.mark.parametrize("lost", [b"queue-head-", b"queue-ready-"])
def test_queues_count_the_messages_that_are_left(tmp_path: Path, lost: bytes):
    path = tmp_path / "results.lmdb"
    with open_store(path, durability="none", global_keyprefix="app_") as store:
        for name in ("q", "other"):
            store.queues.declare(name)
            store.queues.publish([Message(b"%d " % number + bytes(300), name) for number in range(100)])
        keys = [key for key, _ in store.scan(lost)]
    poke(path, leaf_with(path, b"app_" + keys[len(keys) // 2]) * PAGE, bytes(PAGE))
    report, _ = salvaged(path)
    assert report.recounted
    with open_store(path.with_name("salvaged.lmdb"), durability="none", global_keyprefix="app_") as store:
        assert audit(store) == []
        names = store.queues.names()
        counted = [store.queues.state(name) for name in names]
        store.queues.publish([Message(b"new", names[0])])
        left = [len(store.queues.take([name], 1000).deliveries) for name in names]
        assert 150 < sum(left) == sum(state.ready for state in counted if state) + 1


@pytest.mark.parametrize("metas", ["first", "second", "both"])
def test_a_file_without_meta_pages_is_salvaged(file: Path, metas: str):
    newest = newest_meta_at(file)
    for offset in {"first": [0], "second": [PAGE], "both": [0, PAGE]}[metas]:
        poke(file, offset, bytes(PAGE))
    report, found = salvaged(file)
    assert {key: found.get(key) for key in written()} == written()
    assert report.is_certain is (metas != "both")
    assert newest in (0, PAGE)


@pytest.mark.parametrize("tree", ["free", "main"])
def test_only_a_damaged_list_of_free_pages_makes_what_is_missing_uncertain(file: Path, tree: str):
    with PageFile(str(file)) as pages:
        number = pages.states()[0].free.page if tree == "free" else leaf_with(file, b"key 0300")
    poke(file, number * PAGE + 12, b"\xff" * 4)  # where its free space begins and ends
    report, _ = salvaged(file)
    assert report.problems
    assert report.is_certain is (tree == "main")


def test_a_stored_value_that_looks_like_a_page_is_not_read_as_one(tmp_path: Path):
    path = tmp_path / "results.lmdb"
    forged = tmp_path / "forged.lmdb"
    with open_store(forged, durability="none") as store:
        for number in range(100):
            store.set(b"victim %d" % number, b"forged", ttl=None)
    page = forged.read_bytes()[leaf_of_records(forged) * PAGE :][:PAGE]
    with open_store(path, durability="none") as store:
        for number in range(100):
            store.set(b"key %d" % number, bytes(100))
        number = 60
        for offset in range(0, 16_000, 16):  # at every offset where a page may begin
            value = bytearray(16_000)
            copy = struct.pack("=Q", number) + page[8:]
            value[offset : offset + PAGE] = copy[: 16_000 - offset]
            store.set(b"value", bytes(value))
    break_the_root(path)
    _, found = salvaged(path)
    assert set(found) == {b"value", *(b"key %d" % number for number in range(100))}


def test_a_file_that_will_be_rolled_back_is_salvaged_as_of_its_checkpoint(tmp_path: Path):
    path = tmp_path / "results.lmdb"
    left_to_go_back(path)
    _, found = salvaged(path)
    assert found == {b"key": b"durable"}


def test_a_file_without_records_is_an_error_and_no_file_is_left(tmp_path: Path):
    path = tmp_path / "other"
    for content in (b"", b"text" * 10_000, bytes(100_000)):
        path.write_bytes(content)
        with pytest.raises(errors.NotLMDB, match="nothing to salvage"):
            salvage(str(path), str(tmp_path / "target"))
    with lmdb.open(str(tmp_path / "foreign"), subdir=False, lock=False) as handle, handle.begin(write=True) as txn:
        txn.put(b"key", b"value")
    with pytest.raises(errors.NotLMDB, match="nothing to salvage"):
        salvage(str(tmp_path / "foreign"), str(tmp_path / "target"))
    assert not list(tmp_path.glob("target*"))


def test_a_newer_format_is_refused(tmp_path: Path):
    path = tmp_path / "newer"
    with lmdb.open(str(path), subdir=False, lock=False) as handle, handle.begin(write=True) as txn:
        txn.put(b"\x00lmdbresults", b"\x81\xa6format\x63")
    with pytest.raises(errors.NewerFormat, match="99"):
        salvage(str(path), str(tmp_path / "target"))
    assert not list(tmp_path.glob("target*"))


def test_an_existing_target_is_never_overwritten(file: Path):
    before = file.read_bytes()
    with pytest.raises(errors.TargetExists):
        salvage(str(file), str(file))
    assert file.read_bytes() == before


def test_progress_is_reported(file: Path):
    calls: list[tuple[int, int]] = []
    salvage(str(file), f"{file}.salvaged", progress=lambda done, count: calls.append((done, count)))
    assert calls
    assert all(done <= count for done, count in calls)


def test_a_page_behind_the_end_of_the_file_is_damaged(file: Path):
    with PageFile(str(file)) as pages, pytest.raises(PageDamaged, match="behind the end"):
        kind_of(pages.page(1 << 40), 1 << 40)
