"""The commands: output, changes, exit status."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from lmdbresults import open_store
from lmdbresults.cli.commands import COMMANDS
from lmdbresults.store.queues import Message
from tests.store.lmdb.file.test_verify import PAGE, leaf_of_records, poke
from tests.store.lmdb.maintenance.test_salvage import break_the_root
from tests.support.boots import left_to_go_back
from tests.support.stores import filled, picture


def run(*arguments: object, code: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command and assert its exit status."""
    command = [sys.executable, "-W", "error", "-m", "lmdbresults", *map(os.fspath, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=240, check=False, **options
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return filled(tmp_path / "results.lmdb")


def test_the_installed_command_does_the_same_as_the_module(file: Path):
    script = Path(sys.executable).with_name("lmdbresults")
    if not script.exists():
        pytest.skip("not installed as a command")
    done = subprocess.run([script, "check", file], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout == run("check", file).stdout == f"{file}: no problems found.\n"


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_dependency_prints_how_to_install_it(tmp_path: Path, missing: str):
    code = f"import sys; sys.modules[{missing!r}] = None; from lmdbresults.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"The command line needs {missing}: pip install 'lmdbresults[cli]'\n"


def test_help_names_every_command_and_the_exit_statuses():
    said = run("--help").stdout
    for word in (*COMMANDS, "Exit status"):
        assert word in said


@pytest.mark.parametrize("command", [["check"], ["queues"], ["stats"], ["backup"], ["rewrite"], ["salvage"]])
def test_a_missing_path_is_an_error_and_nothing_is_created(tmp_path: Path, command: list[str]):
    arguments = [*command, tmp_path / "missing"]
    if command[0] in ("backup", "salvage"):
        arguments.append(tmp_path / "copy")
    done = run(*arguments, code=2)
    assert "does not exist" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_of_a_url_is_an_error(file: Path):
    assert "durabilty" in run("stats", f"lmdb://{file}?durabilty=none", code=2).stderr


def test_check_lists_problems_and_changes_no_file(file: Path):
    poke(file, leaf_of_records(file) * PAGE, bytes(PAGE))
    before = picture(file.parent)
    assert "Page" in run("check", file, code=1).stdout
    after = picture(file.parent)
    lock = f"{file.name}-lock"  # LMDB writes its readers to it
    assert after.pop(lock)[0] == before.pop(lock)[0]
    assert after == before


def test_check_repairs_orphaned_data_only_with_repair(file: Path):
    import lmdb

    with lmdb.open(str(file), subdir=False) as handle, handle.begin(write=True) as txn:
        txn.put(b"p" + bytes(12), b"orphaned")
    assert "belongs to no record" in run("check", file, code=1).stdout
    assert run("check", "--repair", file).stdout.startswith("Repaired: The chunk")
    assert "no problems" in run("check", file).stdout


def test_repair_refuses_a_file_with_damaged_pages(file: Path):
    break_the_root(file)
    assert "salvage" in run("check", "--repair", file, code=1).stderr


def test_check_rolls_a_file_back_to_its_checkpoint_like_opening_it(tmp_path: Path):
    path = tmp_path / "results.lmdb"
    left_to_go_back(path)
    done = run("check", path)
    assert "no problems" in done.stdout
    assert "rolled back to its last checkpoint" in done.stderr
    with open_store(path) as store:
        assert store.get(b"key") == b"durable"


@pytest.mark.parametrize("durability", ["checkpoint", "none"])
def test_commands_work_on_a_store_that_is_in_use(tmp_path: Path, durability: str):
    path = tmp_path / "results.lmdb"
    with open_store(path, durability=durability) as store:
        store.set(b"key", b"value")
        assert "no problems" in run("check", path).stdout
        assert "records" in run("stats", path).stdout
        assert "bytes" in run("backup", path, tmp_path / "copy").stdout
        store.set(b"key", b"other")
    with open_store(tmp_path / "copy") as copy:
        assert copy.get(b"key") == b"value"


def test_backup_replaces_a_file_only_with_overwrite(file: Path, tmp_path: Path):
    run("backup", file, tmp_path / "copy")
    assert "replace it with --overwrite" in " ".join(run("backup", file, tmp_path / "copy", code=2).stderr.split())
    run("backup", "--overwrite", file, tmp_path / "copy")


def test_salvage_of_a_sound_file_reports_that_nothing_was_lost(file: Path, tmp_path: Path):
    done = run("salvage", file, tmp_path / "new")
    assert "2000 records" in done.stdout
    assert "Nothing was lost." in done.stdout
    assert "no problems" in run("check", tmp_path / "new").stdout


def test_salvage_reports_what_was_lost(file: Path, tmp_path: Path):
    poke(file, leaf_of_records(file) * PAGE, bytes(PAGE))
    done = run("salvage", file, tmp_path / "new", code=1)
    assert "Damaged pages" in done.stdout
    assert "Lost entries" in done.stdout
    assert "no problems" in run("check", tmp_path / "new").stdout


def test_file_names_that_are_not_utf_8_are_printed_escaped(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"caf\xe9\nnew line")
    filled(path, 5)
    assert "caf\\udce9" in run("check", path).stdout
    assert "caf\\udce9" in run("check", str(path) + "x", code=2).stderr


def test_a_progress_bar_is_drawn_only_on_a_terminal(file: Path, tmp_path: Path):
    assert run("backup", file, tmp_path / "copy").stderr == ""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        run("backup", file, tmp_path / "other", preexec_fn=lambda: os.dup2(theirs, 2))
        os.close(theirs)
        assert b"copying" in terminal.read(65536)


def test_a_backup_of_results_only_has_no_queues(file: Path, tmp_path: Path):
    with open_store(file) as store:
        store.queues.declare("tasks")
        store.queues.publish([Message(os.urandom(20_000), "tasks"), Message(b"held", "tasks"), Message(b"x", "tasks")])
        store.queues.take(["tasks"], 2)
        records = {key: value for key, value in store.scan() if not key.startswith(b"queue-")}
        (tmp_path / "folder").mkdir()
        run("backup", "--results-only", file, "folder/copy", cwd=tmp_path)
        assert store.queues.state("tasks").ready == 1
    with open_store(tmp_path / "folder" / "copy") as copy:
        assert dict(copy.scan()) == records
        assert copy.check() == []
    run("backup", "--results-only", file, tmp_path / "folder" / "copy", code=2)
    assert {path.name for path in tmp_path.glob("**/copy.*")} == set()
