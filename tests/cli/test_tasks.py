"""The commands that show tasks, wait for them, and delete them."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from lmdbresults import open_backend
from lmdbresults.app import App, Request
from lmdbresults.cli.commands import COMMANDS, commands
from lmdbresults.cli.of_app import lmdb
from lmdbresults.cli.output import inert, rich_table, say_table
from lmdbresults.results import AsyncResult, GroupResult
from lmdbresults.store.queues import Message

#: Sets the title of a terminal, colours, hides, turns text around; and looks like markup.
HOSTILE = "\x1b]0;owned\x07\x1b[31m\x9b5m\u202e[bold red]x[/] \r\n\u2028"


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Any]:
    backend = open_backend(tmp_path / "results.lmdb", App(result_extended=True), durability="none")
    yield backend
    backend.process_cleanup()


@pytest.fixture
def file(backend: Any) -> str:
    return str(backend.store.options.path)


def end(backend: Any, task_id: str, name: str = "proj.add", state: str = "SUCCESS", **request: Any) -> None:
    result = ValueError("no") if state == "FAILURE" else "forty-two"
    traceback = f'Traceback (most recent call last):\n  File "{name}"\nValueError: no' if state == "FAILURE" else None
    backend.store_result(task_id, result, state, traceback, Request(task_id, name, **request))


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the block ends."""
    command = [sys.executable, "-u", "-m", "lmdbresults", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


# -- list and show -----------------------------------------------------------------------------------------------------


def test_tasks_are_listed_newest_first_a_page_at_a_time(backend, file, run):
    for number in range(5):
        end(backend, f"task-{number}")
    lines = run("list", file, "--limit", 2).stdout.splitlines()
    assert lines[0].split() == ["ended", "state", "id", "name"]
    assert [line.split()[3] for line in lines[1:]] == ["task-4", "task-3"]
    page = json.loads(run("list", file, "--limit", 2, "--json").stdout)
    rest = json.loads(run("list", file, "--after", page["next"], "--json").stdout)
    assert [row["id"] for row in rest["rows"]] == ["task-2", "task-1", "task-0"]
    assert rest["next"] is None


def test_tasks_are_listed_by_filters(backend, file, run):
    end(backend, "failed", "proj.mail", "FAILURE", hostname="w1")
    end(backend, "good", "proj.add", group="g")

    def ids(*options: str) -> list[str]:
        return [row["id"] for row in json.loads(run("list", file, "--json", *options).stdout)["rows"]]

    assert ids("--state", "failure") == ids("--worker", "w1") == ids("--text", "MAIL") == ["failed"]
    assert ids("--group", "g") == ids("--name", "proj.add") == ["good"]
    assert ids("--since", "1h") == ["good", "failed"]
    assert ids("--older-than", "1h") == ids("--since", "2099-01-01") == []
    assert run("list", file, "--name", "other").stdout == "No task matches.\n"
    assert "10m" in run("list", file, "--since", "soon", code=2).stderr


def test_a_task_is_shown_with_its_tree_and_decoded_only_if_asked(backend, file, run):
    end(backend, "child", parent_id="root")
    end(backend, "failed", "proj.mail", "FAILURE", parent_id="root")
    end(backend, "root", children=[AsyncResult("child"), AsyncResult("failed")], args=(7,))
    said = run("show", file, "failed").stdout
    assert "ValueError: no" in said
    assert re.search(r"SUCCESS proj.add root\n├── SUCCESS proj.add child\n└── FAILURE proj.mail failed\n", said)
    assert "forty-two" not in run("show", file, "root").stdout
    found = json.loads(run("show", file, "root", "--decode", "--json").stdout)
    assert (found["result"], found["arguments"]["args"]) == ("forty-two", [7])
    assert [child["id"] for child in found["canvas"]["children"]] == ["child", "failed"]
    assert "Nothing is stored" in run("show", file, "unknown", code=1).stderr


def test_pickle_is_not_decoded_unless_it_is_named(tmp_path, run):
    path = tmp_path / "pickled.lmdb"
    backend = open_backend(path, serializer="pickle", accept=["pickle"])
    backend.store_result("one", {1, 2}, "SUCCESS")
    backend.process_cleanup()
    assert "only" in json.loads(run("show", path, "one", "--decode", "--json").stdout)["not_decoded"]
    assert "[1, 2]" in run("show", path, "one", "--decode", "--accept", "json,pickle").stdout


# -- hostile text ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(backend: Any) -> str:
    """A file with hostile text wherever a program can put some."""
    request = {"hostname": HOSTILE, "delivery_info": {"routing_key": HOSTILE}, "group": HOSTILE, "args": [HOSTILE]}
    end(backend, HOSTILE, HOSTILE, "FAILURE", children=[AsyncResult(HOSTILE + "child")], **request)
    end(backend, "x", HOSTILE, HOSTILE, **request)
    GroupResult(HOSTILE, [AsyncResult(HOSTILE)], backend).save()
    backend.apply_chord((HOSTILE + "c", [AsyncResult("x", backend)]), App().signature("body"))
    backend.store.queues.declare(HOSTILE)
    backend.store.queues.publish([Message(b"\x9a\x82\xa2id" + b"\xa1\x1b\xa4task\xa1\x07", HOSTILE)])
    return str(backend.store.options.path)


SHOWING = (
    ["list"], ["show", HOSTILE, "--decode"], ["tail", "--no-follow"], ["groups"], ["chords"], ["queues"],
    ["queues", HOSTILE, "--ended", "5"], ["overview"], ["wait", HOSTILE], ["export"], ["show", "x", "--json"],
)  # fmt: skip


def test_no_command_prints_a_control_character_of_a_store(hostile, run):
    for name, *arguments in SHOWING:
        said = run(name, hostile, *arguments, code=3 if name == "wait" else 0).output
        assert "owned" in said, name
        assert {char for char in said if not char.isprintable()} == {"\n"}, name


@pytest.mark.parametrize("arguments", [["list"], ["show", HOSTILE]], ids=["list", "show"])
def test_hostile_text_does_nothing_on_a_terminal(hostile, arguments):
    ours, theirs = pty.openpty()
    name, *rest = arguments
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "300"}
    command = [sys.executable, "-m", "lmdbresults", name, hostile, *rest]
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        subprocess.run(command, stdout=theirs, env=environment, timeout=240, check=True)
        os.close(theirs)
        said = b""
        try:
            while block := terminal.read(65536):
                said += block
        except OSError:  # how a terminal ends
            pass
    assert b"\\x1b]0;owned" in said
    assert b"[bold red]" in said
    assert re.sub(rb"\x1b\[[\d;]*m", b"", said).count(b"\x1b") == 0


def test_inert_text_keeps_what_is_harmless():
    assert inert("né 漢字 🎉 a\tb\\") == "né 漢字 🎉 a\\tb\\"
    assert inert("a\nb\x00", keep="\n") == "a\nb\\x00"


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_the_exit_status_of_a_wait_tells_the_state(backend, file, run):
    for task_id, state in (("good", "SUCCESS"), ("failed", "FAILURE"), ("revoked", "REVOKED"), ("running", "STARTED")):
        end(backend, task_id, state=state)
    assert "good" in run("wait", file, "good").stdout
    run("wait", file, "good", "failed", code=3)
    run("wait", file, "revoked", "failed", code=4)
    assert "not ended: running" in run("wait", file, "good", "running", "--timeout", 0, code=5).stderr


def test_a_wait_ends_when_the_result_is_stored(backend, file):
    with running("wait", file, "one", "--json") as process:
        end(backend, "one", state="STARTED")
        end(backend, "one")
        assert json.loads(process.stdout.readline())["state"] == "SUCCESS"
        assert process.wait(240) == 0


def test_watched_tasks_are_printed_at_each_change_until_all_have_ended(backend, file):
    end(backend, "one", state="STARTED")
    with running("watch", file, "one", "two", "--json") as process:
        assert json.loads(process.stdout.readline())["state"] == "STARTED"
        end(backend, "one")
        assert json.loads(process.stdout.readline())["state"] == "SUCCESS"
        end(backend, "two", state="FAILURE")
        assert json.loads(process.stdout.readline())["state"] == "FAILURE"
        assert process.wait(240) == 0


def test_failures_are_printed_as_they_happen_until_the_user_stops(backend, file):
    end(backend, "old", state="FAILURE")
    with running("tail", file, "--failures", "--json") as process:
        assert json.loads(process.stdout.readline())["id"] == "old"
        end(backend, "good")
        for number in range(3):
            end(backend, f"new-{number}", state="FAILURE")
            assert json.loads(process.stdout.readline())["id"] == f"new-{number}"
        process.send_signal(signal.SIGINT)
        assert process.wait(240) == 0
        assert process.stdout.read() == ""


# -- deleting ----------------------------------------------------------------------------------------------------------


def test_results_are_forgotten_by_id_or_by_filter_after_asking(backend, file, run):
    for task_id, state in (("a", "SUCCESS"), ("b", "FAILURE"), ("c", "FAILURE"), ("d", "SUCCESS")):
        end(backend, task_id, state=state)
    assert "Give the ids" in run("forget", file, code=2).stderr
    assert "Results to delete: 2. Delete them?" in run("forget", file, "--state", "failure", given="n\n", code=1).stderr
    assert run("forget", file, "--state", "failure", "--older-than", "1h", code=1).stdout == "Results deleted: 0\n"
    assert json.loads(run("forget", file, "--state", "failure", "--yes", "--json").stdout) == {"deleted": 2}
    assert run("forget", file, "a", "unknown", given="y\n").stdout == "Results deleted: 1\n"
    assert [row["id"] for row in json.loads(run("list", file, "--json").stdout)["rows"]] == ["d"]


def test_expired_records_are_swept(tmp_path, run):
    path = tmp_path / "results.lmdb"
    backend = open_backend(path, expires=10, clock=lambda: 1_000_000_000.0)
    backend.store_result("one", 1, "SUCCESS")
    backend.process_cleanup()
    assert run("sweep", path).stdout == "Expired records deleted: 1\n"


# -- export and import -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ndjson", "json", "csv"])
def test_what_is_exported_is_imported_with_the_same_bytes_and_deadlines(backend, file, run, tmp_path, form):
    end(backend, "one", group="g", children=[AsyncResult("x")], args=("=1+1",), retries=2)
    end(backend, "=cmd", "'quoted\n", "FAILURE")
    backend.store_result("large", "x" * 50_000, "SUCCESS")
    backend.store_result("bare", None, "STARTED")
    exported, target = tmp_path / "exported", tmp_path / "target.lmdb"
    run("export", file, exported, "--format", form)
    with open_backend(target, durability="none", expires=None) as other:
        other.store_result("one", "kept", "SUCCESS")
    assert json.loads(run("import", target, exported, "--format", form, "--json").stdout) == {
        "stored": 3, "expired": 0, "kept": 1
    }  # fmt: skip
    with open_backend(target) as other:
        assert other.get_result("one") == "kept"
        for key, value in backend.store.scan(b"celery-task-meta-"):
            if not key.endswith(b"one"):
                assert other.store.get(key) == value
                assert other.store.ttl(key) == pytest.approx(backend.store.ttl(key), abs=5)


def test_an_export_can_be_decoded_and_filtered_for_other_programs(backend, file, run):
    end(backend, "one", args=(7,))
    end(backend, "failed", state="FAILURE")
    (line,) = run("export", file, "--decode", "--state", "SUCCESS").stdout.splitlines()
    assert (json.loads(line)["result"], json.loads(line)["arguments"]["args"]) == ("forty-two", [7])
    assert len(json.loads(run("export", file, "--format", "json").stdout)) == 2
    assert "without --decode" in run("import", file, given=line + "\n", code=2).stderr
    assert "Is --format right?" in run("import", file, "--format", "json", given="id,state\n", code=2).stderr
    (line,) = run("export", file, "--state", "SUCCESS").stdout.splitlines()
    for expires in ("soon", 7):
        wrong = json.dumps({**json.loads(line), "expires": expires})
        assert "Result 1 of the input cannot be read" in run("import", file, given=wrong + "\n", code=2).stderr


# -- all commands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"completion", "copy", "export", "web"}))
def test_every_command_prints_json_for_programs(name):
    assert "--json" in [option for param in commands.get_command(None, name).params for option in param.opts]


def test_shells_complete_commands_and_options(run):
    for shell in ("bash", "zsh", "fish"):
        assert "_LMDBRESULTS_COMPLETE" in run("completion", shell).stdout
    environment = {
        **os.environ,
        "_LMDBRESULTS_COMPLETE": "bash_complete",
        "COMP_WORDS": "lmdbresults sh",
        "COMP_CWORD": "1",
    }
    command: list[str] = [sys.executable, "-m", "lmdbresults"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "plain,show\n"


def test_celery_has_the_commands_for_the_file_of_an_application(backend, file, tmp_path):
    pytest.importorskip("celery")
    end(backend, "one")
    (tmp_path / "proj.py").write_text(f"from celery import Celery\napp = Celery('proj', backend='lmdb://{file}')\n")
    command: list[str] = [sys.executable, "-m", "celery", "-A", "proj", "lmdb", "list", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert [row["id"] for row in json.loads(done.stdout)["rows"]] == ["one"], done.stderr


def test_copy_doctor_and_web_work_on_the_store_of_an_application_too(backend, file, tmp_path):
    celery = pytest.importorskip("celery")
    end(backend, "one")

    def run(app: Any, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(lmdb, arguments, obj=SimpleNamespace(app=app))
        assert done.exit_code == code, done.output
        return done.output

    app = celery.Celery("proj", backend=f"lmdb://{file}", set_as_current=False)
    assert "1 copied" in run(app, "copy", str(tmp_path / "copy.lmdb"))
    assert json.loads(run(app, "doctor", "--json", code=1))["path"] == str(file)
    (tmp_path / "foreign").write_bytes(b"x" * 10_000)
    foreign = celery.Celery("proj", backend=f"lmdb://{tmp_path}/foreign", set_as_current=False)
    assert "is not an LMDB file" in run(foreign, "web", "--allow-actions", code=2)


def test_an_id_that_is_not_utf_8_is_refused(file, run):
    assert "must be UTF-8" in run("show", file, "\udcff", code=2).output


def test_numbers_are_aligned_at_the_right_and_texts_at_the_left(capsys):
    say_table(["name", "tasks", "p50"], [["b", 1, "0.3 ms"], ["ab", 1000, None]], "none")
    assert capsys.readouterr().out == "name  tasks     p50\nb         1  0.3 ms\nab     1000\n"


def test_in_a_narrow_terminal_ids_are_cut_before_states_and_names():
    id_ = "0a1b2c3d-0000-4000-8000-000000000000"
    cells = [["2026-01-31 12:00:00", "SUCCESS", id_, "app.add", "0.3 ms", "w1@host", "celery", id_]]
    console = Console(width=90, file=(printed := io.StringIO()))
    console.print(rich_table(["ended", "state", "id", "name", "run time", "worker", "queue", "group"], cells))
    lines = printed.getvalue().splitlines()
    assert len(lines) == 2
    assert "2026-01-31 12:00:00  SUCCESS  0a1b" in lines[1]
    assert all(cell in lines[1] for cell in ("app.add", "0.3 ms", "w1@host", "celery"))
