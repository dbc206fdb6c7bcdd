"""``lmdbresults copy``: what it says, and its exit status."""

from pathlib import Path

from lmdbresults import open_backend, open_store
from tests.cli.test_cli import run
from tests.support.redis_server import server


def test_a_copy_is_verified_and_summed_up_and_can_be_repeated(tmp_path: Path):
    one, other = tmp_path / "one.lmdb", tmp_path / "other.lmdb"
    backend = open_backend(one, durability="none")
    for number in range(3):
        backend.store_result(f"task-{number}", number, "SUCCESS")
    backend.apply_chord(("chord", [backend.app.task(print, name="x").s().freeze()]), backend.app.signature("body"))
    assert run("copy", one, other, "--dry-run").stdout.splitlines()[:2] == [
        "results: 3 to copy, 0 already there, 0 newer there.",
        "chords in flight: 1 to copy, 0 already there.",
    ]
    assert "results: 3 copied, 0 already there" in run("copy", one, other).stdout
    done = run("copy", one, other, "--since", "1h")
    assert "results: 0 copied, 3 already there" in done.stdout
    assert "chords in flight: 0 copied, 1 already there." in done.stdout
    with open_store(other, durability="none") as store:
        assert store.check() == []
        store.set(b"celery-task-meta-task-1", b"not a record", 1.0)
    backend.process_cleanup()


def test_sides_that_cannot_be_used_are_refused_before_anything_is_made(tmp_path: Path):
    missing, other = tmp_path / "missing.lmdb", tmp_path / "other.lmdb"
    assert run("copy", missing, other, code=2).stderr == f"{missing} does not exist. Check the spelling of the path.\n"
    assert "can be copied from, but not to" in run("copy", f"file://{tmp_path}", "db+sqlite:///x", code=2).stderr
    assert "soon" in run("copy", missing, other, "--since", "soon", code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_commands_show_what_a_server_has_and_those_for_files_say_so(tmp_path: Path):
    with server(tmp_path) as socket:
        url = f"unix://{socket}"
        backend = open_backend(url)
        backend.store_result("task-1", 1, "SUCCESS")
        backend.apply_chord(("chord", [backend.app.task(print, name="x").s().freeze()]), backend.app.signature("body"))
        backend.process_cleanup()
        assert "SUCCESS  task-1" in run("list", url).stdout
        assert "chord  open   0 of 1" in run("chords", url).stdout
        assert "1 tasks (1 SUCCESS); 1 chords in flight" in run("overview", url).stdout
        assert "used_memory" in run("stats", url).stdout
        assert "for files" in run("check", url, code=2).stderr
        assert "results: 1 copied" in run("copy", url, tmp_path / "copy.lmdb").stdout


def test_a_server_that_does_not_serve_ends_a_copy_to_celerys_layout_with_a_message(tmp_path: Path):
    source, url = tmp_path / "one.lmdb", f"unix://{tmp_path}/redis.sock"
    open_backend(source).store_result("task-1", 1, "SUCCESS")
    for sides in ([source, url, "--layout", "celery"], [url, source, "--source-layout", "celery"]):
        error = run("copy", *sides, code=2).stderr
        assert error.startswith(f"{tmp_path}/redis.sock does not serve: ")
        assert "Traceback" not in error
