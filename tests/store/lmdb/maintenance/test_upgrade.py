"""A file of format 1 is upgraded as it is opened: in steps, each of which may be the last of a killed process."""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest

from lmdbresults import OpenError, open_store
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from lmdbresults.store.lmdb.file.format import FORMAT_KEY, version_of
from lmdbresults.store.lmdb.file.verify import verify
from lmdbresults.store.lmdb.maintenance.salvage import salvage
from lmdbresults.testing import FakeClock, sample
from tests.support.boots import in_boot, keys_in
from tests.support.format_1 import INDEX, write_file
from tests.support.processes import ChildDied, in_child, in_children

SOON, LATE = 1_800_000_000.0, 1_900_000_000.0  # the clock of the tests is at 1.7e9
RECORDS = {
    **{b"plain %d" % number: (b"value %d" % number, SOON) for number in range(300)},
    **{b"long %d" % number * 100: (b"value", LATE) for number in range(5)},
    b"large": (sample(100_000), SOON),
    b"long and large" * 50: (sample(100_000), LATE),
    b"never": (b"value", 0.0),
}
VALUES = {key: value for key, (value, _) in RECORDS.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_file(tmp_path / "results.lmdb", RECORDS)


def format_of(path: Path) -> tuple[int | None, bool]:
    """The version in the mark of a file, and whether it has an index."""
    with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as environment, environment.begin() as txn:
        return version_of(txn.get(FORMAT_KEY)), txn.cursor().set_range(INDEX)


def test_a_file_of_format_1_has_the_same_records_afterwards_and_no_index(file: Path, clock: FakeClock):
    assert format_of(file) == (1, True)
    with open_store(file, durability="none", clock=clock) as store:
        assert dict(store.scan()) == VALUES
        assert store.mget(VALUES) == list(VALUES.values())
        assert store.ttl(b"plain 1") == SOON - clock()
        assert (store.check(deep=True), store.stats().records) == ([], len(RECORDS))
    assert format_of(file) == (2, False)


def test_records_of_format_1_can_be_changed_and_expire(file: Path, clock: FakeClock):
    with open_store(file, durability="none", clock=clock) as store:
        clock.advance(SOON - clock() - 10)
        assert [store.set(b"plain 1", b"new", 60.0), store.delete(b"plain 2")] == [True, True]
        assert [store.expire(b"plain 3", 60.0), store.expire(b"large", 60.0), store.delete(b"long 1" * 100)] == [
            True
        ] * 3
        clock.advance(10)
        kept = {b"plain 1": b"new", b"plain 3": b"value 3", b"large": VALUES[b"large"]}
        kept |= {key: value for key, value in VALUES.items() if RECORDS[key][1] != SOON and key != b"long 1" * 100}
        assert dict(store.scan()) == kept
        assert store.sweep() == 300 - 3
        assert (store.check(), store.stats().records) == ([], len(kept))


def open_and_be_killed(path: Path, at: int) -> int:
    """Open a store, and be killed at a call of a function; return how many there are."""
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    open_store(path, durability="none")
    sys.setprofile(None)
    return calls


def test_a_process_that_is_killed_at_any_call_loses_nothing(file: Path):
    template = file.rename(f"{file}-template")

    def fresh() -> None:
        for beside in file.parent.glob(f"{file.name}*"):
            if beside != template:
                shutil.rmtree(beside) if beside.is_dir() else beside.unlink()
        shutil.copy(template, file)

    fresh()
    calls = in_child(open_and_be_killed, file, 0)
    seen = set()
    for at in range(1, calls, max(calls // 120, 1)):
        fresh()
        with pytest.raises(ChildDied):
            in_child(open_and_be_killed, file, at)
        seen.add(format_of(file))
        with open_store(file, durability="none") as store:
            assert dict(store.scan()) == VALUES
            assert store.check() == []
        assert format_of(file) == (2, False)
    assert seen == {(1, True), (2, True), (2, False)}


def test_an_upgrade_that_a_power_failure_undoes_is_made_again(file: Path):
    def write() -> None:
        store = open_store(file, checkpoint_interval=3600)  # kept: as garbage it would be closed, with a checkpoint
        store.set(b"new", b"value")

    in_boot("an earlier boot", write)
    assert in_boot("next", keys_in, file) == sorted(VALUES)
    assert format_of(file) == (2, False)


def open_and_count(number: int, path: Path) -> int:
    with open_store(path, durability="none") as store:
        return store.stats().records


def test_processes_that_open_a_file_at_once_upgrade_it_once(file: Path):
    assert in_children(4, open_and_count, file) == [len(RECORDS)] * 4


def test_a_file_that_an_older_program_has_open_is_refused_and_stays_as_it_is(file: Path):
    open_store(f"{file}-other").close()
    shutil.copy(f"{file}-other-checkpoint", f"{file}-checkpoint")
    older = Sidecar(str(file))
    older.lock_shared()
    with pytest.raises(OpenError, match=r"has format 1.*Stop every process"):
        open_store(file, durability="none")
    assert format_of(file) == (1, True)
    older.close()
    with open_store(file, durability="none") as store:
        assert dict(store.scan()) == VALUES


def test_a_file_of_format_1_can_be_verified_and_salvaged(file: Path):
    assert verify(str(file)) == []
    report = salvage(str(file), f"{file}-salvaged", now=1_700_000_000.0)
    assert (report.records, report.is_complete()) == (len(RECORDS), True)
    with open_store(f"{file}-salvaged", durability="none") as store:
        assert dict(store.scan()) == VALUES
        assert store.check() == []


def test_a_second_store_can_be_opened_inside_a_transaction(file: Path):
    with open_store(file, durability="none") as store, store.write() as txn:
        txn.set(b"key", b"value")
        second = open_store(file, durability="none")
    assert second.get(b"key") == b"value"
    second.close()
