"""A process that reads large values does not look as large as the file, to limits on its memory."""

import os
import sys
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store.lmdb.file import mapped
from lmdbresults.store.lmdb.file.mapped import mapped_memory
from tests.support.processes import busy_threads, run_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")

#: More than a process may have mapped, and room for the interpreter and what it reads.
SIZE, MOST = 256 << 20, 160 << 20

#: Uses a file of `SIZE` bytes and prints the most memory that the process had, in kB.
USES = """
import pathlib, random, sys
from lmdbresults import open_store
store = open_store(sys.argv[1], durability="none")
{}
print(next(line.split()[1] for line in pathlib.Path("/proc/self/status").read_text().splitlines()
           if line.startswith("VmHWM")))
"""
READS = {
    "large values": "for number in range(256): store.get(b'%d' % number)",
    "a scan": "for _ in store.scan(): pass",
    "a scan in a transaction": "store.view(lambda txn: [None for _ in txn.scan()])",
    "the beginnings of values": "for _ in store.scan(head=900_000): pass",
}


@pytest.fixture(scope="module")
def large_values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "results.lmdb"
    with open_store(path, durability="none") as store:
        for number in range(SIZE >> 20):
            store.set(b"%d" % number, os.urandom(1 << 20))
    return path


def most_memory(source: str, path: Path) -> int:
    done = run_script(USES.format(source), path)
    assert done.stderr == ""
    return int(done.stdout) << 10


@pytest.mark.parametrize("source", READS.values(), ids=READS)
def test_reading_a_large_file_takes_little_memory(large_values: Path, source: str) -> None:
    assert most_memory(source, large_values) < MOST


def test_values_are_read_right_while_pages_are_given_back(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_LOOK_EVERY", 1)
    monkeypatch.setattr(mapped, "_MOST", 0)
    values = {b"%d" % number: os.urandom(50_000) for number in range(20)}
    for key, value in values.items():
        store.set(key, value)

    def read(number: int) -> None:
        key = b"%d" % (number % 20)
        assert store.get(key) == values[key]

    def write(number: int) -> None:
        store.set(b"other", bytes(number % 100_000))

    with busy_threads(read, read, write):
        for _ in range(5):
            assert dict(store.scan()).items() >= values.items()
    assert store.check() == []


def test_a_closed_file_is_forgotten(path: str) -> None:
    with open_store(path):
        assert path in mapped_memory.paths
    assert path not in mapped_memory.paths
