"""Files that lost power before anything was committed to them: only those are recreated."""

from pathlib import Path

import lmdb
import pytest

from lmdbresults import open_store
from lmdbresults.errors import FileDamaged, NotLMDB
from lmdbresults.process import boot
from lmdbresults.store.lmdb.file import paths
from lmdbresults.store.lmdb.file.meta import IDENTITY_PLACE
from tests.support.stores import filled, refusal

PAGE = 4096


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What LMDB begins a file with, and an empty sidecar."""
    path = tmp_path / "results.lmdb"
    lmdb.open(str(path), subdir=False, mode=0o600).close()
    Path(f"{path}-lock").unlink()
    assert path.stat().st_size == 2 * PAGE
    sidecar = Path(f"{path}-checkpoint")
    sidecar.touch(0o600)
    sidecar.write_bytes(bytes(4 * PAGE))
    return path


def reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "boot_id", lambda: "the next boot")


def lose(path: Path, start: int, end: int) -> None:
    content = bytearray(path.read_bytes())
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, PAGE), (PAGE, 2 * PAGE), (0, 2 * PAGE)])
def test_half_a_beginning_is_recreated(file: Path, start: int, end: int) -> None:
    lose(file, start, end)
    with file.open("r+b") as data:
        data.seek(IDENTITY_PLACE)
        data.write(b"which file it is")
    with open_store(file) as store:
        store.set(b"key", b"value")
    with open_store(file) as store:
        assert (store.get(b"key"), store.check()) == (b"value", [])


def test_half_a_beginning_of_a_file_that_had_more_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "results.lmdb", 10)
    path.write_bytes(bytes(2 * PAGE))
    refusal(path, FileDamaged, "from a backup")


def test_anything_else_of_that_size_is_refused(file: Path) -> None:
    lose(file, 0, PAGE)
    with file.open("r+b") as data:
        data.seek(PAGE - 1)
        data.write(b"x")
    refusal(file, NotLMDB, "move the file away")


def test_file_without_its_beginning_is_renamed_if_the_options_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path / "results.lmdb", 10)
    lose(path, 0, PAGE)
    content = path.read_bytes()
    reboot(monkeypatch)
    refusal(path, FileDamaged, "on_damage")
    with open_store(path, on_damage="fresh") as store:
        assert (store.get(b"key 1"), store.check()) == (None, [])
    (aside,) = tmp_path.glob("results.lmdb-damaged-*[0-9]")
    assert aside.read_bytes() == content


def test_names_are_synced_before_there_is_content_whichever_process_has_created_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sizes = tmp_path / "results.lmdb", []
    sync_folder = paths.sync_folder

    def note(folder: str) -> None:
        sizes.append(path.stat().st_size)
        sync_folder(folder)

    monkeypatch.setattr(paths, "sync_folder", note)
    path.touch(mode=0o600)  # by another process, which has not come to syncing the folder yet
    open_store(path).close()
    assert sizes[0] == 0
