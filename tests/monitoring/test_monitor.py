"""One task, groups, chords, queues, figures, and the wait for changes."""

import asyncio
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from lmdbresults import states
from lmdbresults.app import App, Request
from lmdbresults.errors import ContentDisallowed
from lmdbresults.monitoring import Monitor, Node
from lmdbresults.record import TaskRecord
from lmdbresults.results import AsyncResult, GroupResult
from lmdbresults.serialization import dumps
from lmdbresults.store.queues import Message
from tests.support.plain import opened


def at(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, timezone.utc)


# -- one task ----------------------------------------------------------------------------------------------------------


def test_a_task_is_shown_with_all_that_is_known_but_its_result(monitor, end, clock):
    end("failed", state=states.FAILURE, children=[AsyncResult("child")])
    task = monitor.task("failed")
    assert (task.row.id, task.row.state, task.exception, task.children) == (
        "failed",
        "FAILURE",
        "ValueError",
        ["child"],
    )
    assert task.expires == at(clock.now + 3600)
    assert (task.content_type, task.compression, task.has_arguments) == ("application/json", None, True)
    assert "ValueError: no" in task.traceback
    assert monitor.task("unknown") is None


def test_a_payload_is_decoded_only_on_demand_and_pickle_only_if_it_is_named(backend, monitor, end):
    end("one", result={"a": 1}, args=(1, 2), kwargs={"x": 3})
    assert monitor.payload("one") == ({"a": 1}, {"args": [1, 2], "kwargs": {"x": 3}})
    with pytest.raises(KeyError):
        monitor.payload("unknown")
    key = b"celery-task-meta-one"
    record = TaskRecord.unpack(backend.store.get(key))
    backend.store.set(key, record._replace(payload=dumps({1}, "pickle")).pack())
    with pytest.raises(ContentDisallowed):
        monitor.payload("one")
    assert monitor.payload("one", ["pickle"]).result == {1}


def test_forgotten_tasks_are_gone(monitor, end):
    end("one")
    assert monitor.forget(["one", "unknown"]) == 1
    assert monitor.task("one") is None


# -- groups and chords -------------------------------------------------------------------------------------------------


def part(task_id: str, place: int, size: int = 3, **request: Any) -> Request:
    chord = {"task": "body", "options": {"task_id": "body"}, "chord_size": size}
    return Request(task_id, "proj.part", group="header", group_index=place, chord=chord, **request)


@pytest.fixture
def chord(backend: Any, clock: Any) -> Any:
    """A chord of three parts, of which the second has failed and the others have not returned."""
    header = [AsyncResult(f"part-{number}", backend) for number in range(3)]
    backend.apply_chord(("header", header), App().signature("body", task_id="body"))
    clock.advance(5)
    backend.mark_as_failure("part-1", ValueError("no"), request=part("part-1", 1))
    return backend


@pytest.mark.usefixtures("chord")
def test_a_chord_in_flight_is_shown_with_what_is_missing(monitor, clock):
    (chord,) = monitor.chords()
    assert (chord.id, chord.state, chord.size, chord.returned, chord.failed) == ("header", "open", 3, 1, 1)
    assert (chord.missing, chord.returned_ids) == ([0, 2], ["part-1"])
    assert (chord.opened, chord.last) == (at(clock.now - 5), at(clock.now))
    assert chord.expires == at(clock.now + 3600)
    assert (chord.owner_pid, chord.owner_alive) == (None, None)


def test_a_claimed_chord_says_whether_its_owner_lives(chord, monitor, monkeypatch):
    claim_was_held = []

    def finish(claim, body=None):
        (found,) = monitor.chords()
        claim_was_held.append((found.state, found.owner_alive))

    monkeypatch.setattr(chord.chords, "finish", finish)
    chord.mark_as_done("part-0", 1, request=part("part-0", 0))
    chord.mark_as_done("part-2", 1, request=part("part-2", 2))
    assert claim_was_held == [("claimed", True)]
    (found,) = monitor.chords()
    assert (found.state, found.owner_alive, found.missing) == ("claimed", False, [])


def test_a_chord_that_has_ended_is_not_in_flight(chord, monitor):
    chord.app.dispatch = lambda signature, args=(): None
    for number in (0, 2):
        chord.mark_as_done(f"part-{number}", 1, request=part(f"part-{number}", number))
    assert monitor.chords() == []
    assert monitor.chord("header").state == "ended"


def test_many_chords_with_many_parts_are_listed_each_once(backend, monitor):
    for name in ("a", "a.b", "b", "a.00000000.part"):
        backend.apply_chord(
            (name, [AsyncResult(str(number), backend) for number in range(30)]), App().signature("body")
        )
        for number in range(20):
            request = Request(str(number), "p", group=name, group_index=number, chord={"task": "b", "chord_size": 30})
            backend.mark_as_done(str(number), 1, request=request)
    assert sorted(chord.id for chord in monitor.chords()) == ["a", "a.00000000.part", "a.b", "b"]
    assert {chord.returned for chord in monitor.chords()} == {20}


def test_groups_are_listed_newest_first_whether_or_not_they_were_saved(backend, monitor, end, clock):
    end("old", group="one")
    end("failed", group="two", state=states.FAILURE)
    end("new", group="two")
    GroupResult("saved", [AsyncResult("x", backend), AsyncResult("y", backend)], backend).save()
    two, one, saved = monitor.groups()
    assert (two.id, two.states, two.last, two.size) == ("two", {"FAILURE": 1, "SUCCESS": 1}, at(clock.now), None)
    assert (one.id, saved.id, saved.size, saved.is_saved) == ("one", "saved", 2, True)
    assert [group.id for group in monitor.groups(limit=1)] == ["two"]
    assert monitor.group("two") == two
    assert monitor.group("unknown") is None


def outline(node: Node) -> Any:
    name = f"{node.kind} {node.id} {node.state}"
    return (name, [outline(child) for child in node.children]) if node.children else name


def test_the_tree_of_a_canvas_is_shown_from_its_root_whichever_task_is_asked_for(backend, monitor, end):
    end("leaf", parent_id="middle")
    end("middle", parent_id="root", children=[AsyncResult("leaf")])
    group = GroupResult("group", [AsyncResult("a"), AsyncResult("b")])
    end("a", group="group", parent_id="root")
    end("root", children=[AsyncResult("middle"), group, AsyncResult("lost")])
    tree = monitor.canvas("leaf")
    assert outline(tree) == (
        "task root SUCCESS",
        [
            ("task middle SUCCESS", ["task leaf SUCCESS"]),
            ("group group None", ["task a SUCCESS", "task b None"]),
            "task lost None",
        ],
    )
    assert (tree.children[1].size, tree.children[1].done, tree.children[1].missing) == (2, 1, 1)
    assert tree.children[0].children[0].is_asked
    assert outline(monitor.canvas("a")) == outline(tree)
    assert monitor.canvas("unknown") is None


def test_a_chord_in_a_tree_has_its_header_and_its_body(monitor, end):
    header = GroupResult("header", [AsyncResult("a"), AsyncResult("b")])
    end("a", group="header", parent_id="root")
    end("root", children=[AsyncResult("body", parent=header)])
    assert outline(monitor.canvas("root")) == (
        "task root SUCCESS",
        [("chord header None", ["task a SUCCESS", "task b None", "task body None"])],
    )


@pytest.mark.usefixtures("chord")
def test_the_tree_of_a_chord_that_a_client_has_sent_shows_what_is_done(monitor):
    tree = monitor.canvas("part-1")
    assert outline(tree) == ("chord header open", ["task part-1 FAILURE"])
    assert (tree.size, tree.done, tree.missing) == (3, 1, 2)


def test_a_tree_with_a_circle_or_too_many_nodes_ends(monitor, end):
    end("a", parent_id="b", children=[AsyncResult("b")])
    end("b", parent_id="a", children=[AsyncResult("a")])
    assert outline(monitor.canvas("a")) in (
        ("task a SUCCESS", ["task b SUCCESS"]),
        ("task b SUCCESS", ["task a SUCCESS"]),
    )
    end("wide", children=[AsyncResult(str(number)) for number in range(50)])
    tree = monitor.canvas("wide", limit=10)
    assert (len(tree.children), tree.is_cut) == (9, True)


# -- queues ------------------------------------------------------------------------------------------------------------


def test_queues_are_shown_with_their_messages_and_the_processes_that_hold_them(backend, monitor):
    queues = backend.store.queues
    queues.declare("tasks")
    queues.publish([Message(b"held", "tasks"), Message(b"ready", "tasks", priority=3), Message(b"x", "tasks", due=2e9)])
    queues.take(["tasks"], 1)
    (queue,) = monitor.queues()
    assert (queue.name, queue.ready, queue.unacknowledged, queue.delayed) == ("tasks", 1, 1, 1)
    assert queue.oldest is not None
    assert [(holder.is_alive, holder.messages) for holder in queue.holders] == [(True, 1)]
    assert [message.state for message in monitor.messages("tasks")] == ["unacknowledged", "ready", "delayed"]
    assert len(monitor.messages("tasks", 2)) == 2
    assert monitor.messages("unknown") is None


# -- figures -----------------------------------------------------------------------------------------------------------


def test_the_overview_counts_tasks_by_state_time_name_worker_and_exception(backend, monitor, end, clock):
    for number in range(10):
        backend.app.zone = timezone(timedelta(hours=number - 5))
        end(f"add-{number}", "proj.add", hostname="w1")
    clock.advance(60)
    end("large", "proj.add", result="x" * 50_000, hostname="w2")
    for number in range(4):
        end(f"long-{number}", "l" * 100 * number + "1", ignore_result=True)
    end("failed", "proj.mail", states.FAILURE, hostname="w2")
    end("running", "proj.mail", states.STARTED)
    found = monitor.overview()
    assert (found.total, dict(found.states)) == (17, {"SUCCESS": 15, "FAILURE": 1, "STARTED": 1})
    assert (len(found.hour), len(found.day)) == (60, 96)
    assert sum(sum(bucket.states.values()) for bucket in found.hour) == 16
    assert sum(sum(bucket.states.values()) for bucket in found.day) == 16
    minutes = {bucket.start: bucket.states for bucket in found.hour if bucket.states}
    assert minutes[at(clock.now // 60 * 60)]["FAILURE"] == 1
    counts = {each.name: (each.count, each.failures) for each in found.names}
    assert counts == {
        "proj.add": (11, 0),
        "proj.mail": (1, 1),
        **{"l" * 100 * number + "1": (1, 0) for number in range(4)},
    }
    assert [(each.name, each.exception, each.count) for each in found.failures] == [("proj.mail", "ValueError", 1)]
    assert [(each.name, each.count) for each in found.workers] == [("w2", 2), ("w1", 10)]
    assert found.workers[0].last == at(clock.now - 1.25)
    clock.advance(3600)
    assert monitor.overview().total == 0


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_run_times_are_shown_of_each_task_by_name_and_of_the_slowest(path, serializer):
    app = App(result_extended=True)
    with opened(path, app=app, serializer=serializer, accept=[serializer]) as backend:
        monitor = Monitor(backend.store)
        for number in range(100):
            request = Request(f"task-{number}", "proj.add", started=time.monotonic() - number)
            backend.store_result(f"task-{number}", 1, "SUCCESS", request=request)
        (figures,) = monitor.overview().names
        assert figures.runtime.count == 100
        assert figures.runtime.p50 == pytest.approx(50, abs=10)
        assert figures.runtime.p90 < figures.runtime.p99 <= figures.runtime.longest == pytest.approx(99, abs=10)
        slowest = monitor.overview().slowest
        assert (len(slowest), slowest[0].id) == (20, "task-99")
        assert monitor.tasks(limit=1).rows[0].runtime == monitor.task("task-99").row.runtime == slowest[0].runtime
        assert "runtime" not in backend.get_task_meta("task-99")
        assert "runtime" not in monitor.payload("task-99").arguments


def test_an_app_notes_how_long_its_tasks_take(backend, monitor):
    backend.app.backend = backend
    result = backend.app.task(lambda: 1, name="quick").delay()
    assert 0 <= monitor.task(result.id).row.runtime < 60


def test_celery_notes_how_long_its_tasks_take(path):
    celery = pytest.importorskip("celery")
    trace = pytest.importorskip("celery.app.trace")
    app = celery.Celery(backend=f"lmdb://{path}?durability=none", set_as_current=False)
    app.conf.result_extended = True

    def quick() -> int:
        return 1

    task = app.task(quick, name="quick")
    app.finalize()
    assert app.backend.store is not None
    trace.build_tracer(task.name, task, app=app, eager=False)("one", (), {}, {"id": "one"})
    assert 0 <= Monitor(app.backend.store).task("one").row.runtime < 60
    assert "runtime" not in app.backend.get_task_meta("one")
    app.backend.close()


def test_the_overview_has_figures_of_the_file_if_there_is_one(backend, monitor):
    file = monitor.overview().file
    assert (file is None) == (type(backend.store).__name__ == "MemoryStore")
    if file is not None:
        assert 0 < file.live_size <= file.file_size
        assert file.free_size == file.file_size - file.live_size


# -- changes -----------------------------------------------------------------------------------------------------------


def test_a_wait_for_changes_ends_with_the_change(backend, monitor: Monitor, end):
    with monitor.changes() as changes:
        assert not changes.wait(0)
        end("before")
        assert changes.wait(240)
        assert not changes.wait(0)
        timer = threading.Timer(0.1, backend.store.set, (b"key", b"value"))
        timer.start()
        assert changes.wait(240)
        timer.join()


def test_a_coroutine_can_wait_for_changes(backend, monitor: Monitor):
    async def wait() -> list[bool]:
        with monitor.changes() as changes:
            nothing = await changes.next(0.01)
            asyncio.get_running_loop().call_later(0.1, backend.store.set, b"key", b"value")
            return [nothing, await changes.next(240)]

    assert asyncio.run(wait()) == [False, True]
