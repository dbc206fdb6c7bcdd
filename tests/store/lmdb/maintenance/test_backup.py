"""Backups of a store in use: complete, as of one moment, private; an existing file is not overwritten."""

import itertools
import os
import select
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, errors, open_backend, open_store
from lmdbresults.backends import StoreBackend
from lmdbresults.process.isolated import SubprocessFailed
from lmdbresults.store.lmdb.file.verify import verify
from lmdbresults.store.lmdb.maintenance import backup as backups
from lmdbresults.testing import MemoryStore, sample
from tests.support.covering import wait_until
from tests.support.processes import child
from tests.support.stores import sound_store

WRITERS = 3


def contents(path: Path) -> dict[bytes, bytes]:
    with open_store(path, durability="none") as store:
        return dict(store.scan())


def test_a_copy_holds_every_record_and_can_be_opened(path: str, tmp_path: Path):
    copy = tmp_path / "copy.lmdb"
    with open_store(path, durability="none") as store:
        store.set(b"small", b"value", ttl=60)
        store.set(b"large", sample(100_000))
        store.backup(copy)
        store.set(b"later", b"value")
    assert sorted(entry.name for entry in tmp_path.iterdir() if "copy" in entry.name) == ["copy.lmdb"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert verify(str(copy)) == []
    assert contents(copy) == {b"small": b"value", b"large": sample(100_000)}
    with open_store(copy, durability="none") as restored:
        assert 0 < restored.ttl(b"small") <= 60


def test_a_copy_has_no_free_pages(path: str, tmp_path: Path):
    with open_store(path, durability="none") as store:
        for number in range(100):
            store.set(b"key %d" % number, sample(10_000))
        for number in range(99):
            store.delete(b"key %d" % number)
        store.backup(tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size < 100_000


@pytest.mark.parametrize("shape", ["file", "link", "folder", "the store", "in use"])
def test_an_existing_target_is_not_overwritten(path: str, tmp_path: Path, shape: str):
    target = Path(path) if shape == "the store" else tmp_path / "target"
    if shape == "file":
        target.write_bytes(b"precious")
    elif shape == "link":
        target.symlink_to(path)
    elif shape == "folder":
        target.mkdir()
    elif shape == "in use":
        (tmp_path / "target-lock").touch()
    with sound_store(Path(path)) as store:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(errors.NotAFile if shape == "folder" else errors.TargetExists, match=target.name):
            store.backup(target, overwrite=shape in ("folder", "the store", "in use"))
        assert sorted(tmp_path.iterdir()) == before
    assert shape != "file" or target.read_bytes() == b"precious"


def test_overwrite_replaces_an_older_copy(path: str, tmp_path: Path):
    with open_store(path, durability="none") as store:
        store.backup(tmp_path / "copy")
        store.set(b"key", b"value")
        store.backup(tmp_path / "copy", overwrite=True)
    assert contents(tmp_path / "copy") == {b"key": b"value"}


def test_overwrite_refuses_a_copy_that_is_open(path: str, tmp_path: Path):
    copy = tmp_path / "copy"
    with open_store(path, durability="none") as store:
        store.backup(copy)
        with open_store(copy) as opened:
            with pytest.raises(errors.TargetExists, match=r"copy is open"):
                store.backup(copy, overwrite=True)
            opened.set(b"key", b"of the copy")
        store.set(b"key", b"of the store")
        store.backup(copy, overwrite=True)
    with open_store(copy) as opened:
        assert opened.get(b"key") == b"of the store"
        assert opened.check(deep=True) == []


def test_a_missing_folder_is_an_error(store: LMDBStore, tmp_path: Path):
    with pytest.raises(errors.OpenError, match="No such file"):
        store.backup(tmp_path / "missing" / "copy")


def test_progress_ends_at_the_total(store: LMDBStore, tmp_path: Path):
    calls: list[tuple[int, int]] = []
    store.backup(tmp_path / "copy", progress=lambda done, size: calls.append((done, size)))
    assert calls[-1][0] == calls[-1][1] > 0
    assert all(done <= size for done, size in calls)


def test_a_copy_is_on_the_disk_before_it_has_its_name_and_then_so_is_the_name(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with open_store(path, durability="none") as store:
        store.set(b"key", b"value")
    draft, target = str(tmp_path / "draft"), str(tmp_path / "copy.lmdb")
    steps: list[str] = []
    sync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
    monkeypatch.setattr(os, "rename", lambda *names: (steps.append("rename"), rename(*names)))
    backups._copy(path, draft)
    backups.publish(draft, target)
    assert steps == [draft, "rename", str(tmp_path)]
    assert contents(Path(target)) == {b"key": b"value"}


def test_a_failed_copy_leaves_no_file_behind(store: LMDBStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def die(*args: object, **kwargs: object) -> bytes:
        raise SubprocessFailed("died by SIGBUS")

    monkeypatch.setattr(backups, "run_isolated", die)
    with pytest.raises(errors.FileDamaged, match="died by SIGBUS"):
        store.backup(tmp_path / "copy")
    assert not list(tmp_path.glob("copy*"))


def test_a_store_without_backups_raises_not_implemented_error():
    with pytest.raises(NotImplementedError, match=r"MemoryStore has no backup\(\)"):
        StoreBackend(store=MemoryStore()).backup("copy")


@pytest.mark.interface("backup")
def test_a_backend_makes_backups(path: str, tmp_path: Path):
    backend = open_backend(path, durability="none")
    backend.store_result("task", 42, "SUCCESS")
    backend.backup(tmp_path / "copy.lmdb")
    backend.process_cleanup()
    assert open_backend(tmp_path / "copy.lmdb", durability="none").get_result("task") == 42


def write_forever(path: str, writer: int) -> None:
    """Write ascending numbers with values of different sizes, each over an older one."""
    with open_store(path, durability="none") as store:
        for number in itertools.count():
            with store.write() as txn:
                txn.set(b"%d last" % writer, b"%d" % number)
                txn.set(b"%d at %d" % (writer, number % 200), b"%d " % number + bytes(number * 37 % 20_000))


def require_prefix(found: dict[bytes, bytes]) -> None:
    """Assert that each writer's records are those of its first N transactions."""
    for writer in range(WRITERS):
        last = int(found.get(b"%d last" % writer, b"-1"))
        for number in range(max(last - 199, 0), last + 1):
            value = b"%d " % number + bytes(number * 37 % 20_000)
            assert found[b"%d at %d" % (writer, number % 200)] == value


def test_copies_made_during_writes_are_sound_and_as_of_one_moment(path: str, tmp_path: Path):
    lasts = []
    with open_store(path, durability="none") as store:
        with child(write_forever, path, 0), child(write_forever, path, 1), child(write_forever, path, 2):
            for number in range(5):
                moment = store.moment()
                wait_until(lambda moment=moment: store.moment() > moment + 20)
                store.backup(tmp_path / f"copy {number}")
        assert store.check(deep=True) == []
        store.set(b"still", b"writable")
    for number in range(5):
        assert verify(str(tmp_path / f"copy {number}")) == []
        found = contents(tmp_path / f"copy {number}")
        require_prefix(found)
        lasts.append(sum(int(found.get(b"%d last" % writer, b"0")) for writer in range(WRITERS)))
    assert lasts == sorted(set(lasts))


WRITE = """
import sys
from lmdbresults import open_store

with open_store(sys.argv[1], durability="none") as store:
    print("open", flush=True)
    store.set(b"key", b"theirs")
    print("written", flush=True)
"""


def test_copying_does_not_release_the_locks_of_this_process(path: str, tmp_path: Path):
    """If it did, a second process could open the file as the only one, and both would write at the same time."""
    with open_store(path, durability="none") as store:
        store.backup(tmp_path / "copy")
        with store.write() as txn:
            txn.set(b"key", b"ours")
            with subprocess.Popen([sys.executable, "-c", WRITE, path], stdout=subprocess.PIPE) as other:
                assert other.stdout.readline() == b"open\n"
                ready, _, _ = select.select([other.stdout], [], [], 0.5)
                assert not ready  # it waits for the write lock
                other.kill()
        assert store.get(b"key") == b"ours"
