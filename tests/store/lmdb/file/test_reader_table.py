"""LMDB's reader table: labels of transactions, and slots that are freed for processes that do not run."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from lmdbresults.store.lmdb.file.lock_file import LockFile
from lmdbresults.store.lmdb.file.reader_table import PIN, ReaderTable, began_now


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[lmdb.Environment]:
    options = {"subdir": False, "max_spare_txns": 0, "lib_version": 0}
    with lmdb.open(str(tmp_path / "data"), **options) as handle:
        commit(handle)
        yield handle


@pytest.fixture
def table(handle: lmdb.Environment) -> Iterator[ReaderTable]:
    lock_file = LockFile(handle.path())
    yield ReaderTable(handle, lock_file)
    handle.close()
    lock_file.close()


def commit(handle: lmdb.Environment) -> None:
    with handle.begin(write=True) as txn:
        txn.put(b"key", os.urandom(2000))


def pages(handle: lmdb.Environment) -> int:
    return handle.info()["last_pgno"]


def test_labelled_transaction_can_be_told_from_others_until_it_ends(
    handle: lmdb.Environment, table: ReaderTable
) -> None:
    with handle.begin(), table.begin(PIN) as pin, handle.begin():
        (found,) = [reader for reader in table.readers() if reader.label == PIN]
        assert (found.txn, found.pid, found.since) == (pin.id(), os.getpid(), None)
        assert f"{PIN:x} {pin.id()}" in handle.readers()
        assert len(table.readers()) == 3
    assert table.readers() == []
    with handle.begin():
        assert table.readers()[0].label != PIN


def test_long_read_tells_when_it_began(handle: lmdb.Environment, table: ReaderTable) -> None:
    before = time.time()
    with table.begin(began_now()):
        (reader,) = table.readers()
        assert before - 0.001 <= reader.since <= time.time()


def test_threads_that_begin_at_once_label_their_own_transactions(handle: lmdb.Environment, table: ReaderTable) -> None:
    start, done = threading.Barrier(8), threading.Barrier(9)

    def work(label: int) -> None:
        start.wait()
        for _ in range(100):
            table.begin(label).abort()
        with handle.begin(), table.begin(label):
            done.wait()
            done.wait()

    threads = [threading.Thread(target=work, args=(PIN + number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    done.wait()
    labels = sorted(reader.label for reader in table.readers())[8:]
    done.wait()
    for thread in threads:
        thread.join()
    assert labels == [PIN + number for number in range(8)]


def test_freed_transaction_keeps_no_pages_and_can_still_end(handle: lmdb.Environment, table: ReaderTable) -> None:
    with table.begin(PIN) as pin:
        for _ in range(20):
            commit(handle)
        grown = pages(handle)
        with handle.begin(write=True) as txn:
            (reader,) = table.readers()
            table.free(reader, txn.id() - 1)
        for _ in range(20):
            commit(handle)
        assert pages(handle) <= grown + 2
        assert table.readers() == []
        assert pin.id() == reader.txn
    with handle.begin():
        assert len(table.readers()) == 1


def test_reader_that_takes_over_a_slot_as_it_is_freed_stays_protected(
    handle: lmdb.Environment, table: ReaderTable
) -> None:
    pin = table.begin(PIN)
    commit(handle)
    with handle.begin(write=True) as txn:
        (stale,) = table.readers()
        pin.abort()
        del pin  # only now is the slot free
        with handle.begin() as reader:
            taken = table.readers()[0]
            assert taken.place == stale.place
            table.free(stale, txn.id() - 1)
            assert table.readers() == [taken]
            assert taken.txn == reader.id()


def test_on_an_unknown_system_nothing_is_labelled(handle: lmdb.Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmdbresults.store.lmdb.file.lock_file._PLACES", {})
    table = ReaderTable(handle, LockFile(handle.path()))
    with table.begin(PIN) as txn:
        assert txn.id() == 1
        assert table.readers() == []
