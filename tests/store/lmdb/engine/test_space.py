"""No space: `StoreFull` is the only error, nothing is lost, and reading, deleting and sweeping still work."""

import os
import random
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest

from lmdbresults import LMDBStore, StoreFull, open_store
from lmdbresults.store.lmdb import store as store_module
from lmdbresults.store.lmdb.records.hand import HAND_KEY
from lmdbresults.store.lmdb.records.layout import pack
from tests.support.processes import FORKS_WITH_THREADS, PATIENCE, child, in_child, in_children

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)

MIB = 1 << 20
DISK_SIZE = 6 * MIB
VALUE = os.urandom(1500)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def mounted(kind: str, folder: Path) -> None:
    """Mount a small file system, or skip the test."""
    folder.mkdir()
    if kind == "tmpfs":
        steps = [["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", folder]]
    else:
        image = folder.parent / "image"
        image.touch()
        os.truncate(image, DISK_SIZE)
        steps = [["mkfs.ext4", "-q", "-F", "-m", "0", image], ["mount", "-o", "loop", image, folder]]
    for step in steps:
        try:
            subprocess.run(step, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no small file system here: {error}")


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A real file system of a few MiB."""
    folder = tmp_path / "disk"
    mounted(request.param, folder)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(params=["max_size=1MiB", "max_size=2MiB", "tmpfs", "ext4"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., LMDBStore]]:
    """Opens a store that has little room: by its options, or because the disk is small."""
    if request.param.startswith("max_size"):
        yield lambda **options: open_store(f"lmdb://{tmp_path}/r.lmdb?{request.param}", durability="none", **options)
        return
    mounted(request.param, tmp_path / "disk")
    yield lambda **options: open_store(tmp_path / "disk" / "r.lmdb", durability="none", **options)
    subprocess.run(["umount", tmp_path / "disk"], check=True)


def fill(store: LMDBStore, ttl: float | None = None, prefix: bytes = b"") -> int:
    """Write values under new keys until there is no room; return how many went in."""
    count = 0
    with suppress(StoreFull):
        while True:
            store.set(prefix + b"%d" % count, VALUE, ttl)
            count += 1
    return count


def fill_disk(folder: Path) -> Path:
    """Have another file take whatever space the disk has left."""
    path = folder / "another file"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))
    return path


def room(store: LMDBStore) -> int:
    """How many values a store should take at the least."""
    return min(store.stats().max_size, DISK_SIZE) // 6 // len(VALUE)


# -- filled by itself --------------------------------------------------------------------------------------------


def test_a_full_store_says_so_and_keeps_what_it_has(small: Callable[..., LMDBStore]) -> None:
    with small() as store:
        count = fill(store)
        assert count > room(store)
        with pytest.raises(StoreFull) as caught:
            store.set(b"one more", VALUE)
        assert store.options.path in str(caught.value)
        assert "no more expired records" in str(caught.value)
        assert store.get(b"one more") is None
        assert all(store.get(b"%d" % number) == VALUE for number in range(count))
        assert store.check() == []


def test_a_full_store_is_still_full_after_it_was_closed(small: Callable[..., LMDBStore]) -> None:
    with small() as store:
        count = fill(store)
    with small() as store:
        assert fill(store, prefix=b"more") < count / 10
        assert all(store.get(b"%d" % number) == VALUE for number in range(count))
        assert all(store.delete(b"%d" % number) for number in range(count))


def test_deleting_from_a_full_store_makes_room_for_as_much_again(small: Callable[..., LMDBStore]) -> None:
    with small() as store:
        count = fill(store)
        for _ in range(3):
            assert all(store.delete(b"%d" % number) for number in range(count))
            assert [key for key, _ in store.scan() if key.isdigit()] == []
            again = fill(store)
            assert again > 0.9 * count
            count = again
        assert store.check() == []


def test_expired_records_make_way_without_a_call_of_sweep(small: Callable[..., LMDBStore]) -> None:
    clock = Clock()
    with small(clock=clock) as store:
        count = fill(store, ttl=10)
        clock.now += 11
        for number in range(int(count * 0.9)):
            store.set(b"new %d" % number, VALUE)
        assert store.check() == []


def test_a_full_store_can_be_swept(small: Callable[..., LMDBStore]) -> None:
    clock = Clock()
    with small(clock=clock) as store:
        count = fill(store, ttl=10)
        clock.now += 11
        assert store.sweep() == count
        assert store.stats().records == 0
        assert store.check() == []


def test_records_of_a_full_store_can_be_given_another_deadline(small: Callable[..., LMDBStore]) -> None:
    clock = Clock()
    with small(clock=clock) as store:
        count = fill(store, ttl=10)
        assert all(store.expire(b"%d" % number, 5) for number in range(count))
        clock.now += 6
        assert store.get(b"0") is None
        assert fill(store) > 0.9 * count


def test_a_value_that_does_not_fit_leaves_everything_as_it_was(small: Callable[..., LMDBStore]) -> None:
    with small() as store:
        store.set(b"large", b"former value")
        while True:
            try:
                store.set(b"filling %d" % store.stats().records, bytes(100_000))
            except StoreFull:
                break
        before = dict(store.scan())
        for size in (150_000, 1 << 20, 20 << 20):
            with pytest.raises(StoreFull):
                store.set(b"large", os.urandom(size))
        assert dict(store.scan()) == before
        assert store.check() == []


def overfill_block(store: LMDBStore) -> None:
    with store.write() as txn:
        txn.delete(b"kept")
        for number in range(DISK_SIZE // len(VALUE)):
            txn.set(b"%d" % number, VALUE)


def test_a_block_that_does_not_fit_is_undone_as_a_whole(small: Callable[..., LMDBStore]) -> None:
    with small() as store:
        store.set(b"kept", b"value")
        for _ in range(3):
            with pytest.raises(StoreFull):
                overfill_block(store)
            assert dict(store.scan()) == {b"kept": b"value"}
        with store.write() as txn:
            txn.set(b"small", b"enough")
        assert store.check() == []


def test_blocks_can_delete_from_a_full_store(small: Callable[..., LMDBStore]) -> None:
    with small() as store:
        count = fill(store)
        for first in range(0, count, 10):
            with store.write() as txn:
                for number in range(first, min(first + 10, count)):
                    assert txn.delete(b"%d" % number)
        assert list(store.scan()) == []
        assert fill(store) > 0.9 * count


def test_a_full_store_says_how_far_it_has_looked_for_expired_records_and_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmdbresults.store.lmdb.store._RECLAIM_LOOKS", 200)
    clock = Clock()
    with open_store(f"lmdb://{tmp_path}/r.lmdb?max_size=2MiB", durability="none", clock=clock) as store:
        count = fill(store)
        for number in range(count - 10, count):
            store.expire(b"%d" % number, 10)
        fill(store)  # the hand rests, and the file has no free page
        clock.now += 11
        store._environment.write(lambda raw: raw.put(HAND_KEY, pack(HAND_KEY, 0.0, 0, b"k")))
        failures = []
        while not failures or len(failures) < count:
            try:
                store.set(b"one more", VALUE)
                break
            except StoreFull as full:
                failures.append(str(full))
        assert all("200 records were looked at for expired ones; sweep() looks at all" in text for text in failures)
        assert len(failures) == (count - 10) // 200
        assert store.check() == []


def test_a_large_value_that_has_expired_makes_way_for_another(small: Callable[..., LMDBStore]) -> None:
    clock = Clock()
    with small(clock=clock) as store:
        large = bytes(min(store.stats().max_size, DISK_SIZE) // 2)
        for number in range(5):
            store.set(b"%d" % number, large, ttl=10)
            with pytest.raises(StoreFull):
                store.set(b"one more", large)
            clock.now += 11
        store.set(b"new", large)
        assert store.check() == []


@pytest.mark.parametrize("seed", range(3))
def test_at_the_brim_the_store_holds_exactly_what_was_acknowledged(small: Callable[..., LMDBStore], seed: int) -> None:
    chance, model, refused = random.Random(seed), {}, 0
    with small() as store:
        keys = room(store) // 4
        for _ in range(1500):
            key = b"%d" % chance.randrange(keys)
            if chance.random() < 0.3:
                assert store.delete(key) == (model.pop(key, None) is not None)
                continue
            value = chance.randbytes(int(10 ** chance.uniform(0, 5.7)))
            try:
                store.set(key, value)
                model[key] = value
            except StoreFull:
                refused += 1
        assert refused
        assert dict(store.scan()) == model
        assert store.check() == []


# -- processes ---------------------------------------------------------------------------------------------------


def fill_part(number: int, opened: Callable[..., LMDBStore]) -> int:
    with opened() as store:
        count = fill(store, prefix=b"%d:" % number)
        for odd in range(1, count, 2):
            store.delete(b"%d:%d" % (number, odd))
        return count


def test_several_processes_can_fill_a_store_at_once(small: Callable[..., LMDBStore]) -> None:
    small().close()
    counts = in_children(4, fill_part, small)
    with small() as store:
        kept = {b"%d:%d" % (number, even) for number, count in enumerate(counts) for even in range(0, count, 2)}
        assert {key for key, _ in store.scan()} == kept
        assert store.check() == []
        assert sum(counts) > room(store)


def read_until_told(store: LMDBStore, ready: int, end: int) -> None:
    with store.read() as txn:
        txn.get(b"0")
        os.write(ready, b"!")
        os.read(end, 1)


def overwrite(store: LMDBStore, count: int, times: int) -> None:
    for number in range(times * count):
        store.set(b"%d" % (number % count), VALUE)


@pytest.mark.parametrize("how", ["ended", "was killed"])
def test_a_reader_takes_room_only_until_it_has(small: Callable[..., LMDBStore], how: str) -> None:
    (ready, is_ready), (end, do_end) = os.pipe(), os.pipe()
    with small() as store:
        count = room(store)
        with child(read_until_told, store, is_ready, end) as reader:
            os.read(ready, 1)
            with pytest.raises(StoreFull):  # what its snapshot sees cannot be overwritten
                overwrite(store, count, 100)
            os.write(do_end, b"!") if how == "ended" else reader.kill()
            reader.wait()
        overwrite(store, count, 3)
        assert store.check() == []
    for descriptor in (ready, is_ready, end, do_end):
        os.close(descriptor)


def test_a_reader_that_ends_soon_is_waited_for(
    small: Callable[..., LMDBStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_READERS_PATIENCE", PATIENCE)
    (ready, is_ready), (end, do_end) = os.pipe(), os.pipe()
    with small() as store:
        count = fill(store)
        with child(read_until_told, store, is_ready, end) as reader:
            os.read(ready, 1)
            with suppress(StoreFull), monkeypatch.context() as impatient:
                impatient.setattr(store_module, "_READERS_PATIENCE", 0.0)
                overwrite(store, count, 100)
            soon = threading.Timer(0.05, os.write, (do_end, b"!"))
            soon.start()
            for number in range(count):  # more than there is room for beside what is being read
                assert store.delete(b"%d" % number)
            soon.join()
            reader.wait()
        assert store.check() == []
    for descriptor in (ready, is_ready, end, do_end):
        os.close(descriptor)


# -- disks -------------------------------------------------------------------------------------------------------


def test_another_file_that_takes_the_rest_of_the_disk_stops_writing_only(disk: Path) -> None:
    clock = Clock()
    with open_store(disk / "r.lmdb", durability="none", clock=clock) as store:
        for number in range(500):
            store.set(b"%d" % number, VALUE, ttl=10 if number % 2 else None)
        other = fill_disk(disk)
        fill(store, prefix=b"more ")
        with pytest.raises(StoreFull, match="disk"):
            store.set(b"one more", VALUE)
        assert all(store.get(b"%d" % number) == VALUE for number in range(500))
        assert all(store.delete(b"%d" % number) for number in range(0, 250, 2))
        clock.now += 11
        assert store.sweep() == 250
        other.unlink()
        for number in range(250):
            store.set(b"%d" % number, VALUE)
        assert store.check() == []


def test_a_file_that_was_filled_to_the_end_of_the_disk_can_be_opened_again(disk: Path) -> None:
    for round_ in range(3):
        with open_store(disk / "r.lmdb", durability="none") as store:
            count = fill(store, prefix=b"%d:" % round_)
        other = fill_disk(disk)
        with open_store(disk / "r.lmdb", durability="none") as store:
            assert sum(1 for _ in store.scan()) == count
            assert all(store.delete(key) for key, _ in list(store.scan()))
        other.unlink()


def open_and_read(path: Path, readers: int) -> int:
    """Have many snapshots at once, so that the whole reader table is used."""
    with open_store(path, durability="none") as store:
        environment = store._environment.file.handle
        snapshots = [environment.begin() for _ in range(readers)]
        return len(snapshots)


def test_a_store_that_is_opened_on_a_full_disk_can_be_read(disk: Path) -> None:
    with open_store(disk / "r.lmdb", durability="none") as store:
        store.set(b"key", b"value")
    other = fill_disk(disk)
    assert in_child(open_and_read, disk / "r.lmdb", 1000) == 1000
    other.unlink()


def test_a_store_whose_lock_file_is_missing_on_a_full_disk_is_refused_or_works(disk: Path) -> None:
    with open_store(disk / "r.lmdb", durability="none") as store:
        store.set(b"key", b"value")
    Path(f"{disk}/r.lmdb-lock").unlink()
    other = fill_disk(disk)
    with suppress(StoreFull):
        in_child(open_and_read, disk / "r.lmdb", 1000)
    other.unlink()
    with open_store(disk / "r.lmdb", durability="none") as store:
        assert store.get(b"key") == b"value"


def create(path: Path) -> None:
    open_store(path, durability="none").close()


def test_a_new_store_for_which_the_disk_has_no_room_says_so(disk: Path) -> None:
    for pages in range(24):
        path = disk / f"{pages}.lmdb"
        (disk / "reserve").write_bytes(bytes(pages * 4096))
        other = fill_disk(disk)
        (disk / "reserve").unlink()
        with suppress(StoreFull):
            in_child(create, path)
        other.unlink()
        with open_store(path, durability="none") as store:
            store.set(b"key", b"value")
            assert store.get(b"key") == b"value"
        shutil.rmtree(f"{path}-wake")
        for file in disk.glob("*.lmdb*"):
            file.unlink()


def fill_below_file_limit(path: Path) -> tuple[int, int]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, 2 * MIB))
    with open_store(path, durability="none") as store:
        count = fill(store)
        return count, sum(store.delete(b"%d" % number) for number in range(count))


def test_a_limit_on_the_size_of_files_is_like_a_full_disk(tmp_path: Path) -> None:
    count, deleted = in_child(fill_below_file_limit, tmp_path / "r.lmdb")
    assert deleted == count > MIB // 6 // len(VALUE)


def test_errors_of_lmdb_are_translated_when_a_commit_meets_a_full_disk(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The space that is kept ahead of the data is taken away, so that LMDB itself finds none."""
    with open_store(disk / "r.lmdb", durability="none") as store:
        monkeypatch.setattr(store._environment.file._parts.space, "_allocate", lambda *args, **options: None)
        count = fill(store)
        other = fill_disk(disk)
        with pytest.raises(StoreFull) as caught:
            store.set(b"large", os.urandom(DISK_SIZE))
        assert isinstance(caught.value.__cause__, lmdb.Error)
        assert all(store.get(b"%d" % number) == VALUE for number in range(count))
        other.unlink()
