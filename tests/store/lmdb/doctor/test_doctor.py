"""What an examination finds: with real files and processes, or by a text such as the system shows."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmdbresults import open_store
from lmdbresults.options import options_from_url
from lmdbresults.store.findings import ERROR, OK, WARNING, Finding
from lmdbresults.store.lmdb.doctor import examination, examine, machine, place, state
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
from lmdbresults.store.lmdb.file.lmdb_errors import SyncFailure
from tests.support.boots import in_boot, left_to_go_back
from tests.support.stores import filled, picture


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return filled(tmp_path / "results.lmdb", 10)


def found(path: Path | str, subject: str, **options: Any) -> Finding:
    """The one finding, or the worst one, about a subject."""
    findings = [one for one in examine(options_from_url(path, **options)) if one.subject == subject]
    assert findings, f"nothing was said about {subject}"
    return max(findings, key=lambda one: (OK, WARNING, ERROR).index(one.level))


@contextmanager
def held_by_a_process(path: Path, work: str = "store", **options: Any) -> Iterator[int]:
    """Another process that has the store open and has done some work; ended by kill -9."""
    code = f"import sys, lmdbresults; store = lmdbresults.open_store(sys.argv[1], **{options!r}); {work}\n"
    command = [sys.executable, "-c", code + "print(1, flush=True); input()", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"1\n"
            yield process.pid
        finally:
            process.kill()


def test_a_sound_file_in_a_good_place_has_no_finding_that_needs_a_cure(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(place, "cleaners", lambda options: iter(()))  # pytest's folder is in /tmp
    monkeypatch.setattr(place, "file_system", lambda options: iter(()))  # a container's, perhaps
    with open_store(path) as store:
        store.set(b"key", b"value")
    assert [one for one in examine(options_from_url(path)) if one.level != OK] == []


def test_an_examination_changes_nothing(path: Path):
    before = picture(path.parent)
    list(examine(options_from_url(path)))
    after, lock = picture(path.parent), f"{path.name}-lock"  # LMDB writes its readers to it
    assert after.pop(lock)[0] == before.pop(lock)[0]
    assert after == before


# -- the place ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "level"),
    [
        ("ext4", "rw", OK),
        ("nfs4", "rw", ERROR),
        ("fuse.sshfs", "rw", ERROR),
        ("fuse.other", "rw", WARNING),
        ("overlay", "rw", WARNING),
        ("tmpfs", "rw", WARNING),
        ("ext4", "ro,relatime", ERROR),
    ],
)
def test_the_type_of_the_file_system_is_judged(tmp_path: Path, kind: str, options: str, level: str):
    mounts = tmp_path / "mountinfo"
    folder = os.path.realpath(tmp_path).replace(" ", "\\040")
    mounts.write_text(f"1 0 8:1 / / rw - xfs disk rw\n2 1 8:2 / {folder} {options} shared:1 - {kind} disk rw\n")
    (finding,) = place.file_system(options_from_url(tmp_path / "new" / "results.lmdb"), str(mounts))
    assert finding.level == level
    assert kind in finding.text
    assert bool(finding.cure) == (level != OK)


def test_a_file_in_memory_is_right_for_durability_none(tmp_path: Path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text("1 0 8:1 / / rw - tmpfs none rw\n")
    (finding,) = place.file_system(options_from_url(tmp_path / "results.lmdb", durability="none"), str(mounts))
    assert finding.level == OK


def test_folders_that_jobs_clean_are_told(tmp_path: Path):
    (tmp_path / "tmp.conf").write_text("# comment\nq /tmp 1777 root root 10d\nd /var/spool/ours 0700 app app 3d\n")
    (tmp_path / "not.conf").write_text("x /var/spool/ours/kept*\nd /srv 0755 root root -\n")
    levels = {
        path: next(place.cleaners(options_from_url(path), [str(tmp_path)])).level
        for path in ("/tmp/a/b.lmdb", "/var/spool/ours/b.lmdb", "/var/spool/ours/kept/b.lmdb", "/srv/b.lmdb")
    }
    assert list(levels.values()) == [WARNING, WARNING, OK, OK]


def test_permissions_that_are_too_wide_or_too_narrow_are_errors(path: Path):
    path.chmod(0o666)
    assert found(path, "permissions").cure == f"chmod o-rw {path}"
    path.chmod(0o644)
    path.parent.chmod(0o755)
    assert found(path, "permissions").cure == f"chmod o-r {path}"
    path.parent.chmod(0o700)
    assert found(path, "permissions").level == OK  # others do not get as far as the file
    path.chmod(0o660)
    assert "chmod g+s" in found(path, "permissions", mode=0o660).cure
    path.chmod(0o600)
    path.parent.chmod(0o777)
    assert "Every user may replace" in found(path, "permissions").text
    path.parent.chmod(0o700)
    path.with_name("link").symlink_to(path)
    refused = [one.text for one in examine(options_from_url(path.with_name("link"))) if one.level == ERROR]
    assert len(refused) == 1
    assert "symbolic link" in refused[0]


def test_a_missing_file_or_folder_is_told_with_what_to_do(tmp_path: Path):
    assert "Check the spelling" in found(tmp_path / "results.lmdb", "file").cure
    assert "create_folder=1" in found(tmp_path / "missing" / "results.lmdb", "permissions").cure
    assert found(tmp_path / "missing" / "results.lmdb", "permissions", create_folder=True).level == OK
    assert list(tmp_path.iterdir()) == []


def test_little_space_is_a_warning(path: Path, monkeypatch: pytest.MonkeyPatch):
    assert found(filled(path), "space", max_size=1 << 20).cure.startswith("Raise max_size")
    full = SimpleNamespace(f_bavail=100, f_frsize=4096, f_blocks=10_000, f_files=10, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda folder: full)
    findings = list(place.space(options_from_url(path)))
    assert [one.level for one in findings] == [ERROR, WARNING, OK]


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_of_another_kind_is_an_error(tmp_path: Path):
    other = tmp_path / "notes.txt"
    other.write_bytes(b"dear diary " * 1000)
    assert "not an LMDB file" in found(other, "file").text


def test_a_file_without_its_lock_or_checkpoint_is_a_warning_that_names_what_is_missing(path: Path):
    path.with_name("results.lmdb-checkpoint").unlink()
    assert "no -checkpoint" in found(path, "file").text
    path.with_name("results.lmdb-lock").unlink()
    assert "no -lock and no -checkpoint" in found(path, "file").text


def test_a_failed_fsync_is_told_with_the_command_that_repairs_it(path: Path):
    with open_store(path) as store:
        store.set(b"key", b"value")
    sidecar = Sidecar(str(path))
    sidecar.note_failure(SyncFailure(time.time(), "Input/output error"))
    sidecar.close()
    finding = found(path, "disk")
    assert finding.level == ERROR
    assert "Input/output error" in finding.text
    assert "lmdbresults rewrite" in finding.cure


def test_what_a_power_failure_has_left_to_do_is_told(path: Path, tmp_path: Path):
    left_to_go_back(tmp_path / "other.lmdb")
    assert "recovers it" in found(tmp_path / "other.lmdb", "durability").text
    in_boot("an earlier boot", lambda: open_store(path, durability="none").set(b"key", b"value"))
    assert "verifies all of it" in found(path, "durability").cure


def test_a_late_checkpoint_is_a_warning_and_a_recent_one_is_not(tmp_path: Path):
    path = tmp_path / "results.lmdb"
    options = options_from_url(path)
    work = "store.set(b'a', b'b'); store.flush(); store.set(b'a', b'c')"
    with held_by_a_process(path, work, checkpoint_interval=3600):
        seen = state.look(str(path))
        assert [one.level for one in state.durability(options, seen, time.time())] == [OK]
        (finding,) = state.durability(options, seen, time.time() + 3600)
        assert (finding.subject, finding.level) == ("checkpoint", WARNING)
        assert "commits since: 1." in finding.text


def test_with_a_log_a_late_checkpoint_is_no_loss(tmp_path: Path):
    path = tmp_path / "results.lmdb"
    work = "store.set(b'a', b'b'); store.flush(); store.set(b'a', b'c')"
    with held_by_a_process(path, work, checkpoint_interval=3600, durability="commit"):
        (finding,) = state.durability(options_from_url(path), state.look(str(path)), time.time() + 3600)
        assert finding.level == OK


def test_a_checkpoint_of_the_future_says_that_the_clock_is_wrong(path: Path):
    with open_store(path) as store:
        store.set(b"key", b"value")
    seen = state.look(str(path))
    assert any(one.subject == "clock" for one in state.durability(options_from_url(path), seen, time.time() - 3600))


def test_a_file_that_is_open_in_another_pid_namespace_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch):
    with held_by_a_process(path):
        assert not any(one.level == ERROR for one in state.namespace(state.look(str(path))))
        monkeypatch.setattr(state.boot, "pid_namespace", lambda: 7)
        assert found(path, "namespace").level == ERROR


def test_a_file_in_use_without_checkpoints_is_an_error_for_a_process_that_wants_them(path: Path):
    with held_by_a_process(path, "store.set(b'a', b'b')", durability="none"):
        assert found(path, "durability").level == ERROR
        assert found(path, "durability", durability="none").level == OK


# -- processes ---------------------------------------------------------------------------------------------------------


def test_the_processes_that_have_the_file_open_are_named(path: Path):
    assert found(path, "processes").text == "No process has it open."
    with held_by_a_process(path) as pid:
        assert f"process {pid}" in found(path, "processes").text


def test_a_stopped_process_is_a_warning_and_an_error_if_it_holds_the_write_lock(path: Path):
    with held_by_a_process(path, "txn = store.write(); txn.__enter__(); txn") as pid:
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        assert found(path, "processes").level == WARNING
        assert found(path, "write lock").level == ERROR
        assert f"Process {pid}" in found(path, "write lock").text


def test_a_file_that_was_deleted_while_a_process_had_it_open_is_an_error(path: Path):
    with held_by_a_process(path) as pid:
        os.unlink(f"{path}-lock")
        finding = found(path, "processes")
        assert finding.level == ERROR
        assert f"process {pid}" in finding.text


def test_a_long_read_is_a_warning_that_names_its_process(path: Path, monkeypatch: pytest.MonkeyPatch):
    work = "block = store.read(); txn = block.__enter__(); txn.get(b'key 1')"
    with held_by_a_process(path, work) as pid:
        assert found(path, "readers").level == OK
        with_other = "import sys, lmdbresults; lmdbresults.open_store(sys.argv[1]).set(b'a', b'b')"
        subprocess.run([sys.executable, "-c", with_other, path], check=True, timeout=240)
        monkeypatch.setattr(examination, "time", SimpleNamespace(time=lambda: time.time() + 3600))
        finding = found(path, "readers")
        assert finding.level == WARNING
        assert f"process {pid}" in finding.text


def test_sockets_of_killed_processes_are_counted(path: Path):
    with held_by_a_process(path, "waiter = store.subscribe(); waiter.follow([b'key'])"):
        assert "Waiters: 1. Sockets of killed processes: 0" in found(path, "wake-ups").text
    assert "Waiters: 0. Sockets of killed processes: 1" in found(path, "wake-ups").text


# -- the machine -------------------------------------------------------------------------------------------------------


def test_low_limits_are_warnings(monkeypatch: pytest.MonkeyPatch, path: Path):
    low = {resource.RLIMIT_NOFILE: 100, resource.RLIMIT_FSIZE: 1 << 20, resource.RLIMIT_AS: 1 << 30}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (low[which], low[which]))
    findings = list(machine.limits(options_from_url(path)))
    assert [one.level for one in findings] == [WARNING] * 3
    assert [one.cure[:15] for one in findings] == ["Raise ulimit -n", "Raise ulimit -f", "Raise ulimit -v"]


def test_a_version_of_celery_that_is_not_supported_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_version", lambda name: {"celery": "4.4.7"}.get(name))
    assert any("Celery 4.4.7" in one.text for one in machine.versions() if one.level == WARNING)
