"""Paths and files: what may be opened as a store, what is refused, and that a refusal changes nothing."""

import os
import random
import resource
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgpack
import pytest

from lmdbresults import errors, open_store
from lmdbresults.store.lmdb.file.format import FORMAT_KEY
from tests.support.processes import FORKS_WITH_THREADS, Barrier, Child, ChildDied, child, in_child
from tests.support.stores import filled, refusal

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


def pages_in_use(path: Path) -> int:
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as raw:
        return raw.info()["last_pgno"] + 1


# -- folders -----------------------------------------------------------------------------------------------------


def test_missing_folders_are_created_for_the_owner_alone_if_the_options_say_so(tmp_path: Path) -> None:
    with open_store(f"lmdb://{tmp_path}/new/newer/results.lmdb?create_folder=1") as store:
        store.set(b"key", b"value")
    for folder in (tmp_path / "new", tmp_path / "new" / "newer"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("path", ["no/results.lmdb", "no/such/results.lmdb"])
def test_missing_folder_is_an_error_that_names_the_first_missing_one_and_the_option(tmp_path: Path, path: str) -> None:
    with pytest.raises(errors.FolderMissing, match="create_folder=1") as caught:
        open_store(tmp_path / path)
    assert f"{tmp_path}/no does not exist" in str(caught.value)
    assert str(tmp_path / path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    refusal(tmp_path / "file" / "results.lmdb", errors.NotAFile, "another path")


def test_a_name_may_be_of_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode("r\u00e9sultats 100%?\n".encode() + b"\xff")
    for _ in range(2):
        with open_store(path, durability="none") as store:
            store.incr(b"n")
    assert {os.fsencode(name) for name in os.listdir(tmp_path)} == {
        os.fsencode(path.name),
        os.fsencode(path.name) + b"-checkpoint",
        os.fsencode(path.name) + b"-lock",
        os.fsencode(path.name) + b"-wake",
    }
    with open_store(path) as store:
        assert store.get(b"n") == b"2"


def test_a_name_too_long_for_the_file_system_is_an_error(tmp_path: Path) -> None:
    refusal(tmp_path / ("x" * 252), errors.OpenError, "too long")


# -- paths that are not files -------------------------------------------------------------------------------------


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    folder = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may have 108 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(folder)


@pytest.mark.parametrize("place", ["results.lmdb", "results.lmdb-lock"])
@pytest.mark.parametrize(
    ("make", "what"), [(make_folder, "a folder"), (make_pipe, "a named pipe"), (make_socket, "a socket")]
)
def test_path_that_is_not_a_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None], what: str, place: str
) -> None:
    make(tmp_path / place)
    refusal(tmp_path / "results.lmdb", errors.NotAFile, "Give the path", str(tmp_path / place))
    with pytest.raises(errors.NotAFile, match=what):
        open_store(tmp_path / "results.lmdb")


@pytest.mark.parametrize("place", ["results.lmdb", "results.lmdb-lock"])
@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_symbolic_link_is_refused(tmp_path: Path, place: str, target: str) -> None:
    filled(tmp_path / "there")
    (tmp_path / place).symlink_to(tmp_path / target)
    refusal(tmp_path / "results.lmdb", errors.SymlinkRefused, str(tmp_path / target), str(tmp_path / place))


def test_a_file_with_two_names_is_refused(tmp_path: Path) -> None:
    os.link(filled(tmp_path / "first"), tmp_path / "second")
    refusal(tmp_path / "second", errors.NotAFile, "remove the other names")


# -- files with other content ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"x", b"some text\n" * 1000, bytes(4096), bytes(1 << 20), os.urandom(4096), os.urandom(1 << 16)],
    ids=["one byte", "text", "4 kB of zeros", "zeros", "4 kB of noise", "noise"],
)
def test_file_that_is_not_lmdbs_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.lmdb").write_bytes(content)
    refusal(tmp_path / "results.lmdb", errors.NotLMDB, "move the file away")


def test_the_first_page_of_a_store_alone_is_refused(tmp_path: Path) -> None:
    os.truncate(filled(tmp_path / "results.lmdb"), 4096)
    refusal(tmp_path / "results.lmdb", errors.NotLMDB, "move the file away")


@pytest.mark.parametrize("lock", [True, False], ids=["with its lock file", "without a lock file"])
@pytest.mark.parametrize("name", [None, b"table"], ids=["plain", "with tables"])
def test_an_lmdb_file_of_another_program_is_refused(tmp_path: Path, name: bytes | None, lock: bool) -> None:
    path = tmp_path / "other.lmdb"
    with lmdb.open(str(path), subdir=False, max_dbs=1) as other, other.begin(write=True) as txn:
        txn.put(b"theirs", b"value", db=other.open_db(name, txn=txn))
    if not lock:
        Path(f"{path}-lock").unlink()
        refusal(path, errors.ForeignFile, "another path")
    else:  # LMDB initializes a lock file that no process holds, so that one does change
        content = path.read_bytes()
        with pytest.raises(errors.ForeignFile, match="another path"):
            open_store(path)
        assert path.read_bytes() == content


def test_a_file_of_the_lmdb_1_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.lmdb"
    with lmdb.open(str(path), subdir=False, lock=False, lib_version=1) as newer, newer.begin(write=True) as txn:
        txn.put(b"key", b"value")
    refusal(path, errors.NotLMDB, "LMDB 0.9")


@pytest.mark.parametrize("lock", [True, False], ids=["with its lock file", "without a lock file"])
def test_a_store_of_a_newer_format_is_refused(tmp_path: Path, lock: bool) -> None:
    path = filled(tmp_path / "results.lmdb")
    with lmdb.open(str(path), subdir=False) as raw, raw.begin(write=True) as txn:
        txn.put(FORMAT_KEY, msgpack.packb({"format": 99}))
    if not lock:
        Path(f"{path}-lock").unlink()
    content = path.read_bytes()
    with pytest.raises(errors.NewerFormat, match="upgrade") as caught:
        open_store(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content
    assert Path(f"{path}-lock").exists() == lock


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, part: float) -> None:
    path = filled(tmp_path / "results.lmdb")
    os.truncate(path, max(int(pages_in_use(path) * part), 2) * 4096)
    refusal(path, errors.FileDamaged, "backup")


def test_a_refused_path_can_be_used_once_the_cause_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "results.lmdb"
    path.write_bytes(b"no store")
    with pytest.raises(errors.NotLMDB):
        open_store(path)
    path.unlink()
    with open_store(path) as store:
        store.set(b"key", b"value")
        assert store.get(b"key") == b"value"


# -- one file, opened several times ------------------------------------------------------------------------------


def create_and_write(path: Path, barrier: Barrier, number: int) -> None:
    barrier.wait()
    with open_store(path, durability="none", create_folder=True) as store:
        store.set(b"%d" % number, b"value")


def test_many_processes_can_create_one_file_at_the_same_moment(tmp_path: Path) -> None:
    for attempt in range(10):
        path, barrier = tmp_path / f"folder {attempt}" / "results.lmdb", Barrier()
        children = [Child(create_and_write, path, barrier, number) for number in range(8)]
        try:
            barrier.open()
            for process in children:
                process.join()
        finally:
            for process in children:
                process.close()
        with open_store(path, durability="none") as store:
            assert sorted(key for key, _ in store.scan()) == [b"%d" % number for number in range(8)]


def test_a_process_that_is_killed_while_it_creates_a_file_leaves_none_or_a_good_one(tmp_path: Path) -> None:
    chance = random.Random(1)
    for attempt in range(100):
        path = tmp_path / f"{attempt}.lmdb"
        with child(filled, path, 3) as process:
            time.sleep(chance.uniform(0, 0.006))
            process.kill()
        with open_store(path, durability="none") as store:
            store.set(b"key", b"value")
            assert store.check() == []


def test_half_a_file_of_a_killed_process_is_removed_and_no_file_of_the_user(tmp_path: Path) -> None:
    path, kept = tmp_path / "results.lmdb", tmp_path / "results.lmdb-log.20260101.1"
    kept.write_text("of the user")
    link = os.link

    def be_killed_at_the_log() -> None:
        os.link = lambda draft, target: os.kill(os.getpid(), 9) if target.endswith("-log") else link(draft, target)
        open_store(path, durability="commit")

    with pytest.raises(ChildDied):
        in_child(be_killed_at_the_log)
    assert len(list(tmp_path.glob("*.draft"))) == 1
    with open_store(path, durability="commit") as store:
        store.set(b"key", b"value")
    assert list(tmp_path.glob("*.draft")) == []
    assert kept.exists()


def test_paths_that_lead_to_one_file_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    paths = [tmp_path / "real" / "r.lmdb", tmp_path / "link" / "r.lmdb", "r.lmdb", "lmdb://./r.lmdb", "../link/r.lmdb"]
    stores = [open_store(path, durability="none") for path in paths]
    for number, store in enumerate(stores):
        store.set(b"%d" % number, b"value")
    for store in stores:
        assert len(list(store.scan())) == len(stores)
        store.close()


@pytest.mark.parametrize(("option", "value"), [("max_size", 1 << 30), ("durability", "commit")])
def test_one_process_cannot_open_a_file_in_two_ways(tmp_path: Path, option: str, value: object) -> None:
    path = tmp_path / "results.lmdb"
    with open_store(path, durability="none") as store:
        with pytest.raises(errors.ConfigurationError, match=f"{option}.*close the other store") as caught:
            open_store(path, **{"durability": "none", option: value})
        assert str(path) in str(caught.value)
        store.set(b"key", b"value")
    with open_store(path, **{"durability": "none", option: value}) as store:
        assert store.get(b"key") == b"value"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_stores_on_one_file_can_be_closed_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    stores = [open_store(tmp_path / "results.lmdb", durability="none") for _ in range(3)]
    stores[0].set(b"key", b"value")
    open_ones = set(order)
    for number in order:
        stores[number].close()
        stores[number].close()
        open_ones.remove(number)
        assert {stores[other].get(b"key") for other in open_ones} <= {b"value"}
        with pytest.raises(errors.StoreClosed, match="open_store"):
            stores[number].get(b"key")
    assert not [entry for entry in os.listdir("/proc/self/fd") if is_same_file(entry, tmp_path)]


def is_same_file(descriptor: str, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(folder))
    except OSError:
        return False


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_that_is_gone_under_an_open_store_is_noticed_by_the_next_open(tmp_path: Path, how: str) -> None:
    path = filled(tmp_path / "results.lmdb")
    other = filled(tmp_path / "other.lmdb", 3)
    with open_store(path, durability="none") as store:
        other.rename(path) if how == "replaced" else path.unlink()
        assert store.get(b"key 1") is not None
        with pytest.raises(errors.FileReplaced, match="close every store") as caught:
            open_store(path, durability="none")
        assert str(path) in str(caught.value)
    with open_store(path, durability="none") as store:
        assert len(list(store.scan())) == (3 if how == "replaced" else 0)


# -- address space -----------------------------------------------------------------------------------------------


def open_with_few_descriptors(path: Path, left: int) -> str:
    lowest = os.dup(0)
    os.close(lowest)
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, former[1]))
    outcome = "opened"
    try:
        open_store(path, durability="none").close()
    except errors.StoreError as error:
        outcome = str(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, former)
    with open_store(path, durability="none") as store:  # nothing was left half open
        store.set(b"key", b"value")
        assert store.get(b"key") == b"value"
    return outcome


@pytest.mark.parametrize("left", range(6))
def test_too_few_descriptors_are_an_error_that_leaves_nothing_half_open(tmp_path: Path, left: int) -> None:
    outcomes = {in_child(open_with_few_descriptors, tmp_path / "new.lmdb", left)}
    outcomes.add(in_child(open_with_few_descriptors, filled(tmp_path / "old.lmdb"), left))
    assert all("open files" in outcome and str(tmp_path) in outcome for outcome in outcomes - {"opened"})


def use_with_little_address_space(path: Path) -> tuple[int, bytes | None, list[str]]:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (1 << 30),) * 2)
    with open_store(path, durability="none") as store:
        store.set(b"key", bytes(1 << 20))
        return store.stats().max_size, store.get(b"key"), store.check()


def test_max_size_is_lowered_where_address_space_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "results.lmdb"
    max_size, value, problems = in_child(use_with_little_address_space, path)
    assert (value, problems) == (bytes(1 << 20), [])
    assert 64 << 20 <= max_size <= 1 << 30
    with open_store(path) as store:
        assert store.stats().max_size == 64 << 30
        assert store.get(b"key") == bytes(1 << 20)
