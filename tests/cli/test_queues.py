"""``lmdbresults queues``"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import open_store
from lmdbresults.store.queues import Message
from tests.support.processes import run_script


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "results.lmdb"
    with open_store(path) as store:
        store.queues.declare("tasks")
        store.queues.publish([Message(b"held", "tasks"), Message(b"ready", "tasks", priority=3)])
        store.queues.publish([Message(b"x", "tasks", due=2e9)])
    return path


def test_the_queues_of_a_store_are_listed_with_what_they_hold(file: Path, run: Any):
    with open_store(file) as store:
        store.queues.take(["tasks"], 1)
        titles, row = run("queues", file).stdout.splitlines()
        assert titles.split() == ["queue", "ready", "unacknowledged", "delayed", "bytes", "oldest", "held", "by"]
        assert row.split()[:5] == ["tasks", "1", "1", "1", "4"]
        assert f"process {os.getpid()}" in row or "this process" in row
        (queue,) = json.loads(run("queues", file, "--json").stdout)
        assert (queue["name"], queue["holders"][0]["pid"], queue["holders"][0]["is_alive"]) == (
            "tasks",
            os.getpid(),
            True,
        )


def test_the_messages_of_a_queue_are_listed_without_taking_any(file: Path, run: Any):
    with open_store(file) as store:
        held = store.queues.take(["tasks"], 1).deliveries[0]
        _, first, second, third = run("queues", file, "tasks").stdout.splitlines()
        assert first.split()[:3] == [held.tag, "taken", "by"]
        assert second.split()[1:3] == ["ready", "0"]
        assert "due at 2033-" in third
        assert len(run("queues", file, "tasks", "--limit", 2).stdout.splitlines()) == 3
        assert store.queues.acknowledge(held.tag)
        assert len(store.queues.take(["tasks"], 9).deliveries) == 1


def test_the_holder_of_a_message_may_have_ended(file: Path, run: Any):
    code = "import sys; from lmdbresults import open_store; open_store(sys.argv[1]).queues.take(['tasks'], 1)"
    run_script(code, file)
    assert "which has ended" in run("queues", file, "tasks").stdout


def test_a_waiting_message_is_deleted_by_its_tag(file: Path, run: Any):
    tag = json.loads(run("queues", file, "tasks", "--json").stdout)["messages"][0]["tag"]
    assert run("queues", file, "tasks", "--remove", tag).stdout == "Messages deleted: 1\n"
    assert "may have been delivered" in run("queues", file, "tasks", "--remove", tag, code=1).stderr


def test_an_unknown_queue_is_a_problem(file: Path, run: Any):
    assert "no queue 'other'" in run("queues", file, "other", code=1).stderr
