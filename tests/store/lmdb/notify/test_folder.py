"""The folder beside the data file: where it lies, who may use it, and what else may lie there."""

import os
import stat
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store.base import Subscription
from lmdbresults.store.lmdb.notify.folder import WakeFolder
from lmdbresults.store.thread_hub import ThreadHub
from tests.support.processes import child, in_child
from tests.support.waits import FOREVER, folder_of, registrations, sockets, threads, until, wait_for


@pytest.mark.parametrize(
    ("mode", "folder_mode", "file_mode"), [(0o600, 0o700, 0o600), (0o660, 0o770, 0o660), (0o640, 0o750, 0o640)]
)
def test_everything_in_the_folder_is_as_private_as_the_data_file(
    path: str, mode: int, folder_mode: int, file_mode: int
) -> None:
    with open_store(path, durability="none", mode=mode) as store, closing(store.subscribe()) as subscription:
        subscription.add([b"key"])
        folder = folder_of(store)
        assert stat.S_IMODE(folder.stat().st_mode) == folder_mode
        assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {file_mode}
        assert len(list(folder.iterdir())) == 2


def test_everything_in_the_folder_has_the_group_of_the_data_file(path: str) -> None:
    """As where users share a file by a group that is not their primary one."""
    others = {12345} if os.geteuid() == 0 else set(os.getgroups()) - {os.getegid()}
    if not others:
        pytest.skip("this user has one group")
    group = others.pop()
    open_store(path, durability="none", mode=0o660).close()
    for each in Path(path).parent.iterdir():
        os.chown(each, -1, group)
    with open_store(path, durability="none", mode=0o660) as store, closing(store.subscribe()) as subscription:
        subscription.add([b"key"])
        folder = folder_of(store)
        assert [each.stat().st_gid for each in (folder, *folder.iterdir())] == [group] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two users")
def test_users_of_a_shared_group_wake_each_other() -> None:
    """The group is not the primary one of either, and one has a umask that takes rights from groups."""

    def become(user: int) -> None:
        os.setgroups([54321])
        os.setgid(user)
        os.setuid(user)
        os.umask(0o022)

    def store_one(path: str) -> None:
        become(10_002)
        with open_store(path, durability="none", mode=0o660) as store:
            store.set(b"key", b"done")

    def wait(path: str) -> bool:
        become(10_001)
        with open_store(path, durability="none", mode=0o660) as store, closing(store.subscribe()) as subscription:
            subscription.add([b"key"])
            return set(subscription.receive(10.0) or ()) == {b"key"}

    with tempfile.TemporaryDirectory() as name:
        os.chown(name, -1, 54321)
        os.chmod(name, 0o2770)
        path = f"{name}/results.lmdb"
        with child(wait, path) as waiter:
            until(lambda: registrations(path))
            in_child(store_one, path)
            assert waiter.join()


def test_a_store_that_is_only_read_makes_no_folder(store: LMDBStore) -> None:
    assert store.get(b"key") is None
    assert not folder_of(store).exists()


@pytest.mark.usefixtures("no_second_look")
def test_a_path_may_be_longer_than_an_address(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    with open_store(folder / "results.lmdb", durability="none") as store:
        hub = ThreadHub(store, lambda: None)
        with threads(1, lambda _: wait_for(hub, [b"key"])):
            until(lambda: hub.subscription.fileno() >= 0)
            hub.subscription.ring()
            store.set(b"key", b"done")
        hub.close()
        assert sockets(store.options.path) == []


class TestForeignFiles:
    """What the owner of the folder, or a cleaner, may have done there."""

    @pytest.mark.parametrize("obstacle", ["file", "link"])
    def test_without_a_folder_a_waiter_polls(self, store: LMDBStore, hub: ThreadHub, obstacle: str) -> None:
        folder = folder_of(store)
        elsewhere = folder.with_name("elsewhere")
        elsewhere.mkdir()
        foreign = elsewhere / "0"
        foreign.touch()
        if obstacle == "file":
            folder.touch()
        else:
            folder.symlink_to(elsewhere)
        with threads(1, lambda _: wait_for(hub, [b"key"])):
            until(lambda: hub._followers)
            store.set(b"key", b"done")
        assert hub.subscription.fileno() == -1
        store.sweep()
        assert folder.exists()
        assert list(elsewhere.iterdir()) == [foreign]

    @pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
    def test_without_a_file_of_marks_a_waiter_polls(
        self, store: LMDBStore, subscription: Subscription, tmp_path: Path, kind: str
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_bytes(b"")
        folder_of(store).mkdir(mode=0o700)
        marks = folder_of(store) / "marks-1"
        {"link": lambda: marks.symlink_to(elsewhere), "folder": marks.mkdir, "pipe": lambda: os.mkfifo(marks)}[kind]()
        assert subscription.add([b"key"]) == {b"key": None}
        store.set(b"key", b"done")
        assert subscription.fileno() == -1
        assert elsewhere.read_bytes() == b""

    def test_a_file_of_marks_that_is_too_short_is_completed(self, store: LMDBStore, subscription: Subscription) -> None:
        folder_of(store).mkdir(mode=0o700)
        (folder_of(store) / "marks-1").write_bytes(bytes(100))
        subscription.add([b"key"])
        store.set(b"key", b"done")
        assert subscription.receive(FOREVER)

    @pytest.mark.parametrize("kind", ["file", "link"])
    def test_a_foreign_file_with_the_name_of_a_socket_is_left_alone(
        self, store: LMDBStore, subscription: Subscription, tmp_path: Path, kind: str
    ) -> None:
        folder_of(store).mkdir(mode=0o700)
        foreign = folder_of(store) / "0"
        if kind == "file":
            foreign.touch()
        else:
            foreign.symlink_to(tmp_path / "nothing")
        subscription.add([b"key"])
        assert sockets(store.options.path) == ["0", "1"]
        store.set(b"key", b"done")
        assert subscription.receive(FOREVER)
        subscription.close()
        store.sweep()
        WakeFolder(store.options.path, 0o600).remove(0)
        assert sockets(store.options.path) == ["0"]

    def test_a_folder_of_another_user_is_not_trusted(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = WakeFolder(path, 0o600)
        os.mkdir(folder.path)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(PermissionError):
            folder.open_marks()
        Path(path).touch()
        os.close(WakeFolder(path, 0o660).open_marks())
