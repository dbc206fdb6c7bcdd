"""Whether a data file is judged rightly: sound ones sound, and each kind of damage as what it is."""

import os
import random
import struct
from pathlib import Path

import lmdb
import pytest

from lmdbresults import errors, open_store
from lmdbresults.process.isolated import SubprocessFailed, run_isolated
from lmdbresults.store.lmdb.file.pages import LEAF, OVERFLOW, PageFile, kind_of, nodes_of
from lmdbresults.store.lmdb.file.verify import verify
from tests.support.processes import busy_threads
from tests.support.stores import filled

PAGE = 4096


def poke(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def last_page_of_kind(path: Path, kind: int) -> int:
    with PageFile(str(path)) as file:
        last = file.states()[0].last_page
        pages = (number for number in range(last, 1, -1) if file.page(number)[8:16] != bytes(8))
        return next(number for number in pages if kind_of(file.page(number), number) == kind)


def leaf_of_records(path: Path) -> int:
    """The page that a walk of the main tree reaches first at the bottom, behind the format."""
    with PageFile(str(path)) as file:
        number = file.states()[0].main.page
        while kind_of(page := file.page(number), number) != LEAF:
            number = list(nodes_of(page, number))[1].below
        return number


def newest_meta_at(path: Path) -> int:
    with PageFile(str(path)) as file:
        return (file.states()[0].txn & 1) * PAGE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return filled(tmp_path / "results.lmdb")


@pytest.mark.parametrize("live", [False, True])
def test_a_sound_file_has_no_problems_and_is_left_as_it_was(file: Path, live: bool):
    before = file.read_bytes()
    assert verify(str(file), live=live) == []
    assert file.read_bytes() == before


def test_a_file_without_lock_gets_none(file: Path):
    os.unlink(f"{file}-lock")
    assert verify(str(file)) == verify(str(file), live=True) == []
    assert not os.path.exists(f"{file}-lock")


@pytest.mark.parametrize("seed", range(3))
def test_leftovers_of_lmdb_are_not_a_problem(tmp_path: Path, seed: int):
    """Large values that one transaction makes smaller, deletes, aborts, pages that readers hold back."""
    path, chance = tmp_path / "any.lmdb", random.Random(seed)
    keys = [b"k%b" % chance.randbytes(chance.choice([4, 60, 300])) for _ in range(100)]
    with lmdb.open(str(path), subdir=False, map_size=1 << 28, sync=False) as handle:
        for round_ in range(100):
            reader = handle.begin()
            with handle.begin(write=True) as txn:
                for key in chance.choices(keys, k=chance.choice([1, 30])):
                    for size in chance.choices([10, 1000, 3000, 20_000, 100_000], k=2):
                        txn.put(key, bytes(size))
                for key in chance.choices(keys, k=10):
                    txn.delete(key)
                if round_ % 7 == 0:
                    txn.abort()
            reader.abort()
    assert [problem for problem in verify(str(path)) if "record" not in problem] == []


def test_a_file_that_is_written_to_is_judged_by_a_snapshot(tmp_path: Path):
    path = tmp_path / "results.lmdb"
    with open_store(path, durability="none") as store:

        def write(number: int) -> None:
            store.set(b"key %d" % (number % 500), os.urandom(40 + number % 20_000), ttl=60)

        with busy_threads(write, write):
            found = [verify(str(path), live=True) for _ in range(5)]
    assert found == [[]] * 5


def test_a_short_file_is_cut_short(file: Path):
    os.truncate(file, last_page_of_kind(file, LEAF) * PAGE)  # the newest of the pages
    (problem,) = verify(str(file))
    assert "truncated" in problem


def test_a_page_of_zeros_is_named(file: Path):
    number = leaf_of_records(file)
    poke(file, number * PAGE, bytes(PAGE))
    first, *_ = verify(str(file))
    assert first.startswith(f"Page {number} says that it is page 0")


def test_keys_out_of_order_are_found(file: Path):
    number = leaf_of_records(file)
    page = file.read_bytes()[number * PAGE :][:PAGE]
    poke(file, number * PAGE + 16, page[18:20] + page[16:18])  # where the first two entries lie
    assert f"Page {number} of the main tree has keys that are out of order." in verify(str(file))


def test_a_page_that_is_reached_twice_is_found(file: Path):
    with PageFile(str(file)) as pages:
        root = pages.states()[0].main.page
    first = root * PAGE + struct.unpack_from("=H", file.read_bytes(), root * PAGE + 16)[0]
    second = root * PAGE + struct.unpack_from("=H", file.read_bytes(), root * PAGE + 18)[0]
    poke(file, second, file.read_bytes()[first : first + 6])
    assert any("in use elsewhere" in problem for problem in verify(str(file)))


def test_a_page_that_is_in_use_and_free_is_found(tmp_path: Path):
    path = tmp_path / "results.lmdb"
    with open_store(path, durability="none") as store:
        for number in range(300):
            store.set(b"key %d" % number, bytes(300))
    with PageFile(str(path)) as pages:
        state = pages.states()[0]
        free, in_use = state.free.page, state.main.page
        first_entry = struct.unpack_from("=H", pages.page(free), 16)[0]
    poke(path, free * PAGE + first_entry + 8 + 8 + 8, struct.pack("=Q", in_use))
    assert f"Page {in_use} is listed as free and in use." in verify(str(path))


def test_a_large_value_whose_pages_are_gone_is_found(tmp_path: Path):
    path = tmp_path / "results.lmdb"
    with open_store(path, durability="none") as store:
        store.set(b"key", bytes(10_000))
    number = last_page_of_kind(path, OVERFLOW)
    poke(path, number * PAGE, bytes(16))
    assert f"Page {number} must begin a large value, but does not." in verify(str(path))


def test_entries_that_are_missing_are_found(file: Path):
    poke(file, newest_meta_at(file) + 88 + 32, struct.pack("=Q", 5))
    assert "but its root says 5." in verify(str(file))[0]


def test_more_pages_than_the_file_has_are_found_also_at_opening(file: Path):
    poke(file, newest_meta_at(file) + 88 + 8, struct.pack("=Q", 1 << 40))
    assert "pages, more than the file" in verify(str(file))[0]
    with pytest.raises(errors.FileDamaged, match="more than the file"):
        open_store(file)


def test_a_depth_that_cannot_be_is_found(file: Path):
    poke(file, newest_meta_at(file) + 88 + 6, struct.pack("=H", 60))
    assert "has 60 levels, which is impossible" in verify(str(file))[0]


def test_a_flipped_bit_in_a_value_is_a_damaged_record(file: Path):
    poke(file, (leaf_of_records(file) + 1) * PAGE - 1, b"w")  # entries lie at the end of a page
    assert "its checksum does not match" in verify(str(file))[0]


@pytest.mark.parametrize("content", [b"", b"text" * 5000, bytes(20_000), b"\xff" * 20_000])
def test_file_that_is_not_lmdbs_is_said_to_be_none(tmp_path: Path, content: bytes):
    path = tmp_path / "other"
    path.write_bytes(content)
    (problem,) = verify(str(path))
    assert "Both meta pages are invalid" in problem


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path):
    (problem,) = verify(str(tmp_path / "missing"))
    assert "No such file" in problem


def test_only_some_of_very_many_problems_are_listed(tmp_path: Path):
    path = tmp_path / "other.lmdb"
    with lmdb.open(str(path), subdir=False) as handle, handle.begin(write=True) as txn:
        for number in range(500):
            txn.put(b"?%d" % number, b"of another program")
    problems = verify(str(path))
    assert len(problems) == 101
    assert "only the first 100" in problems[-1]


def test_a_process_that_takes_too_long_is_a_problem(file: Path):
    (problem,) = verify(str(file), timeout=0.001)
    assert "did not finish within 0.001 seconds" in problem


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import os, signal\ndef main(_): os.kill(os.getpid(), signal.SIGBUS)", "died by SIGBUS"),
        ("import os\ndef main(_): os.abort()", "died by SIGABRT"),
        ("import os\ndef main(_): os.kill(os.getpid(), 50)", "died by signal 50"),
        ("def main(_): raise ValueError('why')", "failed: ValueError: why"),
        ("import os\ndef main(_): os._exit(3)", "failed: exit code 3"),
    ],
)
def test_the_end_of_a_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str):
    (tmp_path / "ends_badly.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SubprocessFailed, match=said):
        run_isolated("ends_badly", [])
