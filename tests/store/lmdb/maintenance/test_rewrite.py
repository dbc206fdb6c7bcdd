"""Rewriting a file after an fsync failure: what it fixes, and when it refuses."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from lmdbresults import Options, errors, open_store
from lmdbresults.store.lmdb.maintenance.rewrite import rewrite
from tests.support.boots import in_boot, keys_in, keys_in_next_boot
from tests.support.covering import LONG, covered, last_commit
from tests.support.failing import BOTH, checkpoint_of, damage, environment, fail, fail_next, refuses
from tests.support.processes import FORKS_WITH_THREADS, in_child

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


def run_rewrite(path: str, code: int) -> str:
    command = [sys.executable, "-W", "error", "-m", "lmdbresults", "rewrite", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment(path))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def damage_a_record(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"not on the disk", b"not on the diss"))


@pytest.mark.parametrize("durability", ["checkpoint", "commit", "none"])
def test_a_rewritten_file_is_complete_and_survives_a_reboot(path: str, durability: str) -> None:
    fail(path, durability)
    assert "written and verified" in run_rewrite(path, 0)
    assert keys_in_next_boot(path) == BOTH


def test_writes_are_allowed_after_a_rewrite(path: str) -> None:
    fail(path)
    assert rewrite(Options(path=path)) > 0
    with open_store(path, checkpoint_interval=LONG) as store:
        store.set(b"later", b"value")
        store.flush()
        assert covered(store) == last_commit(store)
    assert keys_in_next_boot(path) == [b"covered", b"later", b"not on the disk"]


def test_a_file_that_is_open_elsewhere_is_not_rewritten(path: str) -> None:
    fail(path)
    with open_store(path) as store:
        assert "stop every process" in run_rewrite(path, 2)
        with pytest.raises(errors.OpenError, match="stop every process"):
            rewrite(Options(path=path))
        assert refuses(store)


def test_a_rewrite_that_fails_can_be_repeated(path: str) -> None:
    fail(path)
    fail_next(path)
    assert "`lmdbresults rewrite`" in run_rewrite(path, 2)
    with open_store(path) as store:
        assert refuses(store)
    assert in_child(keys_in, path) == BOTH
    run_rewrite(path, 0)
    assert keys_in_next_boot(path) == BOTH


def test_an_fsync_failure_during_a_rewrite_raises_disk_failed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_again(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    fail(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_again)
        with pytest.raises(errors.DiskFailed):
            rewrite(Options(path=path))
        patch.setattr(os, "pwrite", lambda *_: fail_again(0))
        with pytest.raises(errors.StoreError, match="Input/output error"):
            rewrite(Options(path=path))
    rewrite(Options(path=path))
    assert keys_in_next_boot(path) == BOTH


def test_an_fsync_failure_while_a_sound_file_is_rewritten_is_recorded(path: str) -> None:
    with open_store(path) as store:
        store.set(b"covered", b"value")
    fail_next(path)
    run_rewrite(path, 2)
    with open_store(path) as store:
        assert refuses(store)
    assert keys_in_next_boot(path) == [b"covered"]


@pytest.mark.parametrize("damage", [damage, damage_a_record])
def test_pages_lost_from_memory_are_reported_as_damage(path: str, damage: Callable[[str], None]) -> None:
    fail(path)
    before, content = checkpoint_of(path), Path(path).read_bytes()
    damage(path)
    assert "no longer in memory" in run_rewrite(path, 1)
    assert checkpoint_of(path) == before
    Path(path).write_bytes(content)  # as it is on the disk
    with open_store(path) as store:
        assert refuses(store)
    assert keys_in_next_boot(path) == [b"covered"]


def test_after_a_reboot_nothing_is_rewritten(path: str) -> None:
    fail(path)
    assert in_boot("next", rewrite, Options(path=path)) == 0
    assert keys_in_next_boot(path) == [b"covered"]


def test_rewriting_a_sound_file_does_not_change_its_content(path: str) -> None:
    with open_store(path) as store:
        for number in range(1000):
            store.set(b"%d" % number, bytes(5000))
    content = Path(path).read_bytes()
    calls: list[tuple[int, int]] = []
    rewrite(Options(path=path), progress=lambda done, total: calls.append((done, total)))
    assert Path(path).read_bytes() == content
    assert calls[-1][0] == calls[-1][1] > 4_000_000
    assert len(in_child(keys_in, path)) == 1000


def test_a_file_without_its_sidecar_is_rewritten(path: str) -> None:
    fail(path)
    os.unlink(f"{path}-checkpoint")
    assert rewrite(Options(path=path)) > 0
    assert keys_in_next_boot(path) == BOTH


def test_a_missing_or_empty_file_needs_no_rewrite(path: str) -> None:
    assert rewrite(Options(path=path)) == 0
    assert not os.path.exists(path)
    Path(path).touch()
    assert rewrite(Options(path=path)) == 0


@pytest.mark.parametrize("has_sidecar", [True, False])
def test_a_file_of_another_program_is_not_changed(path: str, has_sidecar: bool) -> None:
    if has_sidecar:
        open_store(path).close()
        os.unlink(path)
    with lmdb.open(path, subdir=False, lock=False) as handle, handle.begin(write=True) as txn:
        txn.put(b"of", b"others")
    content = Path(path).read_bytes()
    with pytest.raises(errors.ForeignFile):
        rewrite(Options(path=path))
    assert Path(path).read_bytes() == content
    assert os.path.exists(f"{path}-checkpoint") is has_sidecar
