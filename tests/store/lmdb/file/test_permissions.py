"""Users and permissions: who may open a store, what it is created with, and file systems that cannot be written."""

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmdbresults import errors, open_store
from tests.support.processes import FORKS_WITH_THREADS, in_child
from tests.support.stores import filled, picture, refusal

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(work: Callable[..., object], *args: object) -> object:
    """Run a function as an ordinary user: in a child if the tests run as root."""

    def change_user_and_work() -> object:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return work(*args)

    return in_child(change_user_and_work) if os.geteuid() == 0 else work(*args)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o644])
def test_files_are_created_with_the_permissions_of_the_options(tmp_path: Path, umask: int, mode: int) -> None:
    former = os.umask(umask)
    try:
        open_store(tmp_path / "results.lmdb", mode=mode).close()
    finally:
        os.umask(former)
    for name in ("results.lmdb", "results.lmdb-lock"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def open_refused(path: Path, mode: int) -> tuple[str, str]:
    with pytest.raises(errors.OpenError) as caught:
        open_store(path, mode=mode)
    return type(caught.value).__name__, str(caught.value)


@pytest.mark.parametrize("place", ["results.lmdb", "results.lmdb-lock"])
def test_a_file_without_permission_is_refused(reachable: Path, place: str) -> None:
    path = filled(reachable / "results.lmdb")
    Path(f"{path}-lock").chmod(0o666)
    path.chmod(0o666)
    (reachable / place).chmod(0o400)
    before = picture(reachable)
    kind, message = as_nobody(open_refused, path, 0o660)
    assert kind == "AccessDenied"
    assert str(reachable / place) in message
    assert "mode=0660" in message
    assert picture(reachable) == before


@pytest.mark.parametrize(("folder_mode", "with_file"), [(0o555, False), (0o555, True), (0o444, True), (0o000, False)])
def test_a_folder_without_permission_is_refused(reachable: Path, folder_mode: int, with_file: bool) -> None:
    folder = reachable / "folder"
    folder.mkdir()
    if with_file:
        filled(folder / "results.lmdb").chmod(0o666)
        Path(folder / "results.lmdb-lock").unlink()
    before = picture(folder)
    folder.chmod(folder_mode)
    try:
        kind, message = as_nobody(open_refused, folder / "results.lmdb", 0o660)
    finally:
        folder.chmod(0o755)
    assert kind == "AccessDenied"
    assert re.search(rf"{folder}/results\.lmdb(-lock|-checkpoint)?[ :,]", message)  # a file that will exist
    assert "permission" in message
    assert picture(folder) == before


@needs_root
@pytest.mark.parametrize("place", ["results.lmdb", "results.lmdb-lock"])
def test_a_file_of_another_user_is_refused_unless_sharing_was_asked_for(tmp_path: Path, place: str) -> None:
    path = filled(tmp_path / "results.lmdb")
    os.chown(tmp_path / place, NOBODY, NOBODY)
    refusal(path, errors.WrongOwner, "mode=0660", str(tmp_path / place))
    with open_store(path, mode=0o660) as store:
        assert store.get(b"key 1") is not None


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A small file system, and a function that makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False)
    if mounting.returncode:
        pytest.skip("no permission to mount a file system")
    yield lambda: subprocess.run(["mount", "-o", "remount,ro", folder], check=True) and folder
    subprocess.run(["umount", folder], check=True)


@needs_root
@pytest.mark.parametrize("present", ["nothing", "store", "store without lock file"])
def test_a_read_only_file_system_is_refused(read_only: Callable[[], Path], tmp_path: Path, present: str) -> None:
    if present != "nothing":
        filled(tmp_path / "disk" / "results.lmdb")
    if present == "store without lock file":
        (tmp_path / "disk" / "results.lmdb-lock").unlink()
    path = read_only() / "results.lmdb"
    refusal(path, errors.ReadOnlyPath, "Mount it writable", f"{path} is")


def create_and_use(path: Path) -> bytes | None:
    with open_store(path) as store:
        store.set(b"key", b"value")
    with open_store(path) as store:
        return store.get(b"key")


def test_a_folder_that_may_not_be_listed_will_do(reachable: Path) -> None:
    folder = reachable / "folder"
    folder.mkdir()
    folder.chmod(0o333)
    try:
        assert as_nobody(create_and_use, folder / "results.lmdb") == b"value"
    finally:
        folder.chmod(0o755)
