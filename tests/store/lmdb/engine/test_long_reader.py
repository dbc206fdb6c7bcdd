"""A read transaction that stays open: statistics, a warning and the error of a full store name its process and cost."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lmdbresults import LMDBStore, StoreFull, open_store
from lmdbresults.store.lmdb.engine import long_reader
from lmdbresults.store.lmdb.file.btree import freed_before
from lmdbresults.store.lmdb.file.pages import PageDamaged, PageFile
from tests.support.processes import FORKS_WITH_THREADS, PATIENCE, Child, busy_threads, child

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


def read_on(path: str, told: int, options: dict[str, object]) -> None:
    with open_store(path, **options) as store, store.read() as txn:
        txn.get(b"key")
        os.write(told, b".")
        time.sleep(PATIENCE)


@contextmanager
def reader_of(store: LMDBStore) -> Iterator[Child]:
    """Another process that reads meanwhile, in one transaction."""
    ours, theirs = os.pipe()
    options = {name: getattr(store.options, name) for name in ("durability", "max_size", "checkpoint_bytes")}
    with child(read_on, store.options.path, theirs, options) as other:
        os.read(ours, 1)
        yield other
        other.kill()


def fill(store: LMDBStore) -> None:
    for _ in range(5000):
        store.set(b"key", bytes(10_000))


def test_long_read_is_named_with_process_time_and_bytes(path: str) -> None:
    before = time.time()
    with open_store(path, durability="none", max_size=8 << 20) as store:
        store.set(b"key", b"value")
        assert store.stats().oldest_reader is None
        with reader_of(store) as other:
            for _ in range(50):
                store.set(b"key", bytes(10_000))
            reader = store.stats().oldest_reader
            assert reader.pid == other.pid
            assert before - 1 <= reader.since <= time.time()
            assert 50 * 10_000 <= reader.kept <= 50 * 6 * 4096
            assert str(other.pid) in str(reader)
            with pytest.raises(StoreFull, match=rf"process {other.pid} \(.*\) has been reading since .* bytes"):
                fill(store)


def test_what_a_long_read_costs_is_known_while_others_write(path: str) -> None:
    def write(number: int) -> None:
        store.set(b"%d" % (number % 100), bytes(3000))

    with open_store(path, durability="none") as store:
        for number in range(100):
            write(number)
        with reader_of(store):
            write(0)
            with busy_threads(write, write):
                kept = [store.stats().oldest_reader.kept for _ in range(100)]
    assert None not in kept
    assert kept == sorted(kept)
    assert 0 < kept[0] < kept[-1]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_reader, "_PATIENCE", 0.05)


def grow(store: LMDBStore, size: int) -> None:
    """Replace a value until so many bytes were freed."""
    for _ in range(size // 50_000):
        store.set(b"key", bytes(50_000))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("durability", ["checkpoint", "none"])
def test_reader_that_makes_the_file_grow_is_logged_once(
    path: str, durability: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(path, durability=durability, checkpoint_bytes=1 << 20) as store:
        store.set(b"key", b"value")
        with reader_of(store) as other:
            deadline = time.monotonic() + PATIENCE
            while not caplog.messages and time.monotonic() < deadline:
                grow(store, 1 << 20)
            for _ in range(10):
                grow(store, 2 << 20)
                time.sleep(0.02)
        grow(store, 8 << 20)
        with store.read():
            pass
    (message,) = caplog.messages
    pattern = rf"{path} grows: process {other.pid} \(.+\) has been reading since ..:..:.., which keeps (\d+) bytes .*"
    assert int(re.fullmatch(pattern, message)[1]) >= 1 << 20


@pytest.mark.usefixtures("impatient")
def test_each_reader_that_makes_the_file_grow_is_logged(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(path, durability="none", checkpoint_bytes=1 << 20) as store:
        store.set(b"key", b"value")
        for number in range(1, 3):
            with reader_of(store):
                deadline = time.monotonic() + PATIENCE
                while len(caplog.messages) < number and time.monotonic() < deadline:
                    grow(store, 1 << 20)
    assert len(caplog.messages) == 2


def test_short_reads_are_not_logged_while_the_file_grows(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(path, durability="none", checkpoint_bytes=1 << 20) as store:
        store.set(b"key", b"value")
        with busy_threads(lambda _: store.get(b"key"), lambda _: list(store.scan())):
            for number in range(1000):
                store.set(b"%d" % number, bytes(30_000))
    assert caplog.messages == []


@pytest.mark.parametrize("durability", ["checkpoint", "none"])
def test_reader_that_is_killed_keeps_pages_only_until_the_file_has_grown_a_little(path: str, durability: str) -> None:
    with open_store(path, durability=durability, checkpoint_bytes=1 << 20) as store:
        store.set(b"key", b"value")
        with reader_of(store):
            grow(store, 1 << 18)
        for _ in range(40):
            grow(store, 1 << 20)
            time.sleep(0.01)
        assert store.stats().oldest_reader is None
        assert store.stats().file_size < 16 << 20


def test_pin_of_a_checkpoint_is_not_a_long_read(path: str) -> None:
    with open_store(path, checkpoint_interval=3600) as store:
        store.set(b"key", b"value")
        store.set(b"key", b"later")
        assert store.stats().oldest_reader is None


def test_pages_that_change_while_the_list_of_free_pages_is_read_are_damage_and_no_other_error(path: str) -> None:
    with open_store(path, durability="none") as store:
        for number in range(200):  # some pages of leaves below a branch
            store.set(b"%d" % number, bytes(300))
    with PageFile(path) as file:
        state = file.states()[0]
        # The main tree stands in place of that of the free pages.
        confused = state._replace(data=state.data[:24] + state.data[72:120] + state.data[72:])
        with pytest.raises(PageDamaged, match="not a page of the list of free pages"):
            freed_before(file, confused, 1 << 64)
        with pytest.raises(PageDamaged, match="behind the end of the file"):
            freed_before(file, confused._replace(last_page=1), 1 << 64)
