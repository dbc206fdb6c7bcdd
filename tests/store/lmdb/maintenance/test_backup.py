"""Copies of a store that is in use: complete, of one moment, private, and never over something else."""

import itertools
import select
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, errors, open_backend, open_store
from lmdbresults.backends import StoreBackend
from lmdbresults.process.isolated import SubprocessFailed
from lmdbresults.store.lmdb.file.verify import verify
from lmdbresults.store.lmdb.maintenance import backup as backups
from lmdbresults.testing import MemoryStore, sample
from tests.support.processes import child
from tests.support.stores import sound_store

WRITERS = 3


def contents(path: Path) -> dict[bytes, bytes]:
    with open_store(path, durability="none") as store:
        return dict(store.scan())


def test_a_copy_holds_everything_and_opens_in_place_of_the_store(path: str, tmp_path: Path):
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


def test_a_copy_leaves_out_what_is_free(path: str, tmp_path: Path):
    with open_store(path, durability="none") as store:
        for number in range(100):
            store.set(b"key %d" % number, sample(10_000))
        for number in range(99):
            store.delete(b"key %d" % number)
        store.backup(tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size < 100_000


@pytest.mark.parametrize("shape", ["file", "link", "folder", "the store", "in use"])
def test_a_copy_is_never_written_over_something(path: str, tmp_path: Path, shape: str):
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


def test_a_copy_may_replace_a_former_one_if_that_is_said(path: str, tmp_path: Path):
    with open_store(path, durability="none") as store:
        store.backup(tmp_path / "copy")
        store.set(b"key", b"value")
        store.backup(tmp_path / "copy", overwrite=True)
    assert contents(tmp_path / "copy") == {b"key": b"value"}


def test_a_copy_that_is_open_is_not_replaced_and_one_that_was_opened_is(path: str, tmp_path: Path):
    copy = tmp_path / "copy"
    with open_store(path, durability="none") as store:
        store.backup(copy)
        with open_store(copy) as opened:
            with pytest.raises(errors.TargetExists, match=r"have .*copy open"):
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


def test_progress_is_told_and_ends_with_all(store: LMDBStore, tmp_path: Path):
    told: list[tuple[int, int]] = []
    store.backup(tmp_path / "copy", progress=lambda done, size: told.append((done, size)))
    assert told[-1][0] == told[-1][1] > 0
    assert all(done <= size for done, size in told)


def test_a_copy_that_fails_leaves_nothing_behind(store: LMDBStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def die(*args: object, **kwargs: object) -> bytes:
        raise SubprocessFailed("died by SIGBUS")

    monkeypatch.setattr(backups, "run_isolated", die)
    with pytest.raises(errors.FileDamaged, match="died by SIGBUS"):
        store.backup(tmp_path / "copy")
    assert not list(tmp_path.glob("copy*"))


def test_a_backend_over_a_store_without_backups_says_so():
    with pytest.raises(NotImplementedError, match=r"MemoryStore has no backup\(\)"):
        StoreBackend(store=MemoryStore()).backup("copy")


@pytest.mark.interface("backup")
def test_a_backend_makes_copies(path: str, tmp_path: Path):
    backend = open_backend(path, durability="none")
    backend.store_result("task", 42, "SUCCESS")
    backend.backup(tmp_path / "copy.lmdb")
    backend.process_cleanup()
    assert open_backend(tmp_path / "copy.lmdb", durability="none").get_result("task") == 42


def write_for_ever(path: str, writer: int) -> None:
    """Write numbers one after the other, each with a value of another size, and delete older ones."""
    with open_store(path, durability="none") as store:
        for number in itertools.count():
            with store.write() as txn:
                txn.set(b"%d last" % writer, b"%d" % number)
                txn.set(b"%d at %d" % (writer, number % 200), b"%d " % number + bytes(number * 37 % 20_000))


def require_prefix(found: dict[bytes, bytes]) -> None:
    """See that each writer's records are exactly those of its first so many transactions."""
    for writer in range(WRITERS):
        last = int(found.get(b"%d last" % writer, b"-1"))
        for number in range(max(last - 199, 0), last + 1):
            value = b"%d " % number + bytes(number * 37 % 20_000)
            assert found[b"%d at %d" % (writer, number % 200)] == value


@pytest.mark.timeout(300)
def test_copies_made_while_others_write_are_sound_and_of_one_moment(path: str, tmp_path: Path):
    lasts = []
    with open_store(path, durability="none") as store:
        with child(write_for_ever, path, 0), child(write_for_ever, path, 1), child(write_for_ever, path, 2):
            for number in range(5):
                time.sleep(0.2)
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


def test_copying_does_not_give_the_locks_of_the_process_up(path: str, tmp_path: Path):
    """If it did, a second process could open the file as if nobody had it, and both would write at once."""
    with open_store(path, durability="none") as store:
        store.backup(tmp_path / "copy")
        with store.write() as txn:
            txn.set(b"key", b"ours")
            with subprocess.Popen([sys.executable, "-c", WRITE, path], stdout=subprocess.PIPE) as other:
                assert other.stdout.readline() == b"open\n"
                ready, _, _ = select.select([other.stdout], [], [], 0.5)
                assert not ready  # it waits for its turn
                other.kill()
        assert store.get(b"key") == b"ours"
