"""Opening a file after a power failure, and all that can have happened to the file and its sidecar meanwhile.

What the disk may have made of the pages is the business of tests/crash; here they are as they were written.
"""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmdbresults import errors, open_store
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from tests.support.boots import in_boot, keys_in, keys_in_next_boot
from tests.support.processes import FORKS_WITH_THREADS, PATIENCE, ChildDied, in_child
from tests.support.stores import picture

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


def left_behind(path: str, durability: str = "checkpoint", count: int = 1000) -> None:
    """A store that was killed: one key is covered by a checkpoint, under ``none`` by its closing, the rest is not."""

    def write() -> None:
        open_store(path, durability=durability).close()
        store = open_store(path, durability=durability, checkpoint_interval=3600)
        store.set(b"covered", b"value")
        if durability == "none":
            store.close()
            store = open_store(path, durability=durability)
        store.flush()
        for number in range(count):
            store.set(b"%d" % number, bytes(300), ttl=1000 + number)

    in_child(write)


def refused_in_next_boot(path: str, kind: type[Exception], **options: object) -> str:
    def try_to_open() -> str:
        with pytest.raises(kind) as caught:
            open_store(path, **options)
        return str(caught.value)

    message: str = in_boot("next", try_to_open)
    return message


def test_same_boot_has_all_that_killed_processes_wrote(path: str) -> None:
    left_behind(path)
    assert len(in_child(keys_in, path)) == 1001


def test_the_next_boot_has_what_the_checkpoint_covers_and_says_so(path: str) -> None:
    left_behind(path)

    def open_and_listen() -> str:
        messages: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: messages.append(record.getMessage())
        logging.getLogger("lmdbresults").addHandler(handler)
        assert keys_in(path) == [b"covered"]
        return "\n".join(messages)

    said = in_boot("next", open_and_listen)
    assert path in said
    assert "rolled back to its last checkpoint" in said
    assert "1000 commits" in said
    assert in_boot("next", open_and_listen) == ""  # once is enough
    assert in_boot("the one after", keys_in, path) == [b"covered"]


def test_boot_after_boot_loses_what_was_not_covered_in_each(path: str) -> None:
    def write(number: int) -> list[bytes]:
        store = open_store(path, checkpoint_interval=3600)
        found = sorted(key for key, _ in store.scan())
        store.set(b"covered %d" % number, b"value")
        store.flush()
        for count in range(100):
            store.set(b"lost %d %d" % (number, count), bytes(300), ttl=10)
        return found

    for number in range(5):
        assert in_boot(f"boot {number}", write, number) == [b"covered %d" % earlier for earlier in range(number)]


def test_recovery_that_was_cut_off_is_done_again(path: str, tmp_path: Path) -> None:
    left_behind(path)
    sidecar = Path(f"{path}-checkpoint").read_bytes()
    assert keys_in_next_boot(path) == [b"covered"]
    Path(f"{path}-checkpoint").write_bytes(sidecar)  # as if it had not reached the disk
    assert in_boot("the one after", keys_in, path) == [b"covered"]


def test_a_closed_store_is_taken_as_it_is(path: str) -> None:
    for durability in ("none", "checkpoint", "commit"):
        with open_store(path, durability=durability) as store:
            store.set(durability.encode(), b"value")
        assert durability.encode() in keys_in_next_boot(path)


# -- copies, backups, other machines -----------------------------------------------------------------------------


def test_a_copy_without_a_sidecar_is_taken_as_it_is(path: str, tmp_path: Path) -> None:
    with open_store(path) as store:
        store.set(b"key", b"value")
    shutil.copy(path, tmp_path / "copy.lmdb")
    assert keys_in_next_boot(str(tmp_path / "copy.lmdb")) == [b"key"]


def test_a_copy_with_its_sidecar_goes_back_to_its_checkpoint_on_another_machine(path: str, tmp_path: Path) -> None:
    left_behind(path)
    (tmp_path / "other").mkdir()
    for suffix in ("", "-checkpoint"):
        shutil.copy(path + suffix, tmp_path / "other" / f"results.lmdb{suffix}")
    assert keys_in_next_boot(str(tmp_path / "other" / "results.lmdb")) == [b"covered"]


@pytest.mark.parametrize("boot", ["", "next"])
@pytest.mark.parametrize("over", [True, False], ids=["over the former file", "in its place"])
def test_a_restored_backup_is_taken_as_it_is_whatever_the_sidecar_says(
    path: str, tmp_path: Path, over: bool, boot: str
) -> None:
    backup = tmp_path / "backup.lmdb"
    with open_store(path) as store:
        store.set(b"in the backup", b"value")
        store.backup(backup)
    left_behind(path)
    if over:
        shutil.copy(backup, path)  # which keeps the inode
    else:
        os.replace(backup, path)
    found = in_boot(boot, keys_in, path) if boot else in_child(keys_in, path)
    assert found == [b"in the backup"]

    def go_on() -> None:
        store = open_store(path, checkpoint_interval=3600)
        store.set(b"after it", b"value")
        store.flush()
        store.set(b"lost", b"value")

    in_child(go_on)
    assert in_boot("the one after", keys_in, path) == [b"after it", b"in the backup"]


def test_a_file_of_another_store_under_the_sidecar_is_not_put_back_to_what_it_never_was(
    path: str, tmp_path: Path
) -> None:
    left_behind(path, count=10)
    other = str(tmp_path / "other.lmdb")
    with open_store(other) as store:
        for number in range(100):
            store.set(b"other %d" % number, b"value")
    shutil.copy(other, path)
    assert len(keys_in_next_boot(path)) == 100


def test_deleted_file_is_recreated_beside_its_sidecar(path: str) -> None:
    for boot in ("", "next"):
        left_behind(path)
        os.unlink(path)
        assert (keys_in_next_boot(path) if boot else in_child(keys_in, path)) == []
        os.unlink(path)


def test_a_sidecar_that_is_gone_leaves_the_file_as_it_is(path: str) -> None:
    left_behind(path, count=10)
    os.unlink(f"{path}-checkpoint")
    assert len(keys_in_next_boot(path)) == 11


# -- PID namespaces ----------------------------------------------------------------------------------------------


def run_in_namespace(path: str) -> "subprocess.CompletedProcess[str]":
    """Open a store, and write to it, in a PID namespace of its own, as in another container."""
    source = "import sys; from lmdbresults import open_store; open_store(sys.argv[1]).set(b'there', b'value')"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", source, path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if "unshare" in done.stderr:
        pytest.skip(f"may not make a PID namespace: {done.stderr}")
    return done


@pytest.mark.parametrize("durability", ["checkpoint", "none"])
def test_file_in_use_in_another_pid_namespace_is_refused_with_the_cure(path: str, durability: str) -> None:
    with open_store(path, durability=durability) as store:
        store.set(b"key", b"value")
        stderr = run_in_namespace(path).stderr
        assert "is open in another PID namespace" in stderr
        assert "shareProcessNamespace" in stderr
        assert store.get(b"there") is None


def test_container_that_is_started_again_goes_on_with_its_file(path: str) -> None:
    for _ in range(2):
        assert run_in_namespace(path).stderr == ""
    left_behind(path, count=10)  # killed, in this namespace
    assert run_in_namespace(path).stderr == ""
    assert len(keys_in(path)) == 12


# -- damage ------------------------------------------------------------------------------------------------------


def garble(path: str) -> None:
    """Overwrite everything behind the meta pages."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(2 * 4096)
        file.write(b"\xa5" * (size - 2 * 4096))


def test_a_file_that_was_emptied_is_damaged_and_left_as_it_is(path: str, tmp_path: Path) -> None:
    left_behind(path)
    os.truncate(path, 0)
    before = picture(tmp_path)
    with pytest.raises(errors.FileDamaged, match="delete both"):
        open_store(path)
    assert "delete both" in refused_in_next_boot(path, errors.FileDamaged)
    assert picture(tmp_path) == before


def test_a_file_shorter_than_at_its_checkpoint_is_damaged(path: str) -> None:
    left_behind(path)
    os.truncate(path, 2 * 4096)
    assert "truncated" in refused_in_next_boot(path, errors.FileDamaged)


def test_a_newer_sidecar_is_refused(path: str) -> None:
    left_behind(path)
    Path(f"{path}-checkpoint").write_bytes(b"lmdbrcp9" + bytes(8000))
    content = Path(path).read_bytes()
    assert "upgrade" in refused_in_next_boot(path, errors.NewerFormat)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("sound", [True, False])
def test_file_is_verified_under_a_garbled_sidecar(path: str, sound: bool) -> None:
    left_behind(path)
    Path(f"{path}-checkpoint").write_bytes(b"\xa5" * 16384)
    if sound:
        assert len(keys_in_next_boot(path)) == 1001
    else:
        garble(path)
        assert "salvage" in refused_in_next_boot(path, errors.FileDamaged)


def test_one_garbled_place_of_the_sidecar_leaves_the_checkpoint_before(path: str) -> None:
    def write() -> None:
        store = open_store(path, checkpoint_interval=3600)
        for number in range(2):
            store.set(b"%d" % number, b"value")
            store.flush()

    in_child(write)
    sidecar = Sidecar(path)
    slot = 1 - sidecar.read().next_slots[0]
    sidecar.close()
    with open(f"{path}-checkpoint", "r+b") as file:
        file.seek(slot * 4096 + 100)
        file.write(b"\xa5")
    assert keys_in_next_boot(path) in ([b"0"], [b"0", b"1"])


def test_under_none_a_file_is_verified_after_a_loss_of_power(path: str) -> None:
    left_behind(path, "none")
    assert len(keys_in_next_boot(path)) == 1001


def test_under_none_a_damaged_file_is_refused_and_left_as_it_is(path: str) -> None:
    left_behind(path, "none")
    garble(path)
    content = Path(path).read_bytes()
    for _ in range(2):
        message = refused_in_next_boot(path, errors.FileDamaged, durability="none")
        assert path in message
        assert "on_damage='fresh'" in message
    assert Path(path).read_bytes() == content


def test_damaged_file_is_renamed_if_the_options_say_so(path: str, tmp_path: Path) -> None:
    left_behind(path, "none")
    garble(path)
    content = Path(path).read_bytes()
    begin_again: Callable[[], list[bytes]] = lambda: keys_in(path, durability="none", on_damage="fresh")  # noqa: E731
    assert in_boot("next", begin_again) == []
    (aside,) = tmp_path.glob("results.lmdb-damaged-*")
    assert aside.read_bytes() == content
    assert time.strftime("%Y") in aside.name
    with open_store(path, durability="none") as store:
        store.set(b"key", b"value")


@pytest.mark.parametrize("is_renamed", [False, True])
def test_kill_while_a_damaged_file_is_renamed_does_not_make_it_count_as_sound(
    path: str, tmp_path: Path, is_renamed: bool
) -> None:
    left_behind(path, "none")
    garble(path)
    content = Path(path).read_bytes()
    rename = os.rename

    def be_killed() -> None:
        os.rename = lambda *names: (is_renamed and rename(*names), os._exit(0))
        open_store(path, durability="none", on_damage="fresh")

    with pytest.raises(ChildDied):
        in_boot("next", be_killed)
    if not is_renamed:
        assert "salvage" in refused_in_next_boot(path, errors.FileDamaged, durability="none")
    assert in_boot("next", lambda: keys_in(path, durability="none", on_damage="fresh")) == []
    (aside,) = tmp_path.glob("results.lmdb-damaged-*")
    assert aside.read_bytes() == content
