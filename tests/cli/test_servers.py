"""The commands that show tasks, on a Redis server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import LMDBStore, Options
from lmdbresults.app import App, Request
from lmdbresults.backends import StoreBackend
from lmdbresults.results import AsyncResult
from tests.support import redis_server


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with redis_server.server(tmp_path) as socket:
        yield f"unix://{socket}"


def test_tasks_and_chords_on_a_server_are_shown_like_those_in_a_file(url: str, run: Any):
    from lmdbresults.store.redis import open_redis

    app = App(result_extended=True)
    backend = StoreBackend(app, store=open_redis(url))
    for number in range(3):
        backend.store_result(f"task-{number}", 42, "SUCCESS", request=Request(f"task-{number}", "proj.add"))
    backend.apply_chord(("header", [AsyncResult("a", backend), AsyncResult("b", backend)]), app.signature("body"))
    chord = {"task": "body", "chord_size": 2}
    backend.mark_as_done("a", 1, request=Request("a", "proj.part", group="header", group_index=0, chord=chord))
    rows = json.loads(run("list", url, "--name", "proj.add", "--json").stdout)["rows"]
    assert [row["id"] for row in rows] == ["task-2", "task-1", "task-0"]
    assert json.loads(run("show", url, "task-1", "--decode", "--json").stdout)["result"] == 42
    (found,) = json.loads(run("chords", url, "--json").stdout)
    assert (found["id"], found["returned"], found["missing"]) == ("header", 1, [1])
    assert json.loads(run("overview", url, "--json").stdout)["total"] == 4
    run("wait", url, "task-1")
    assert json.loads(run("forget", url, "task-1", "--yes", "--json").stdout) == {"deleted": 1}
    backend.process_cleanup()


def test_figures_and_exports_of_a_server_and_of_two_stores_as_one(url: str, run: Any, tmp_path: Path):
    from lmdbresults.store.redis import open_redis

    StoreBackend(App(), store=open_redis(url)).store_result("task", 42, "SUCCESS")
    assert json.loads(run("stats", url, "--json").stdout)
    run("export", url, tmp_path / "results.jsonl")
    assert json.loads((tmp_path / "results.jsonl").read_text())["id"] == "task"
    LMDBStore(Options(path=str(tmp_path / "former.lmdb"), durability="none")).close()
    refused = run("stats", f"{url}?fallback={tmp_path}/former.lmdb", code=2)
    assert "leave `fallback` out of the URL" in refused.stderr
