"""A read transaction that stays open: statistics and the error of a full store name its process and its cost."""

import os
import time

import pytest

from lmdbresults import LMDBStore, StoreFull, open_store
from lmdbresults.store.lmdb.file.btree import freed_pages
from lmdbresults.store.lmdb.file.pages import PageDamaged, PageFile
from tests.support.processes import FORKS_WITH_THREADS, PATIENCE, child

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


def read_on(path: str, told: int) -> None:
    with open_store(path, durability="none", max_size=8 << 20) as store, store.read() as txn:
        txn.get(b"key")
        os.write(told, b".")
        time.sleep(PATIENCE)


def fill(store: LMDBStore) -> None:
    for _ in range(5000):
        store.set(b"key", bytes(10_000))


def test_long_read_is_named_with_process_time_and_bytes(path: str) -> None:
    before = time.time()
    ours, theirs = os.pipe()
    with open_store(path, durability="none", max_size=8 << 20) as store:
        store.set(b"key", b"value")
        assert store.stats().oldest_reader is None
        with child(read_on, path, theirs) as other:
            os.read(ours, 1)
            for _ in range(50):
                store.set(b"key", bytes(10_000))
            reader = store.stats().oldest_reader
            assert reader.pid == other.pid
            assert before - 1 <= reader.since <= time.time()
            assert 50 * 10_000 <= reader.kept <= store.stats().file_size
            assert str(other.pid) in str(reader)
            with pytest.raises(StoreFull, match=rf"process {other.pid} \(.*\) has been reading since .* bytes"):
                fill(store)
            other.kill()


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
            list(freed_pages(file, confused))
        with pytest.raises(PageDamaged, match="behind the end of the file"):
            list(freed_pages(file, confused._replace(last_page=1)))
