"""Chords over a store that cannot count: a task looks whether the header is ready, and runs the body when it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmdbresults.backends.counted_chords import UNLOCK, CountedChords
from lmdbresults.errors import ChordError, DecodeError, ResultTimeout
from lmdbresults.results import AsyncResult
from lmdbresults.testing import FakeClock
from tests.support.held import HeldApp, opened


@pytest.fixture(params=["four operations"])
def app(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> Iterator[HeldApp]:
    with opened(request.param, HeldApp(), clock, tmp_path) as app:
        yield app


@pytest.fixture(autouse=True)
def naps(app: HeldApp) -> list[float]:
    """How long the task has slept between its looks; here it does not."""
    naps: list[float] = []
    del app.tasks[UNLOCK]
    backend: Any = app.require_backend()
    CountedChords(backend, backend.chord_bodies, sleep=naps.append)
    return naps


def names(app: HeldApp) -> list[str]:
    return [task["task"] for task, _ in app.held]


@pytest.mark.interface("fallback_chord_unlock")
def test_the_body_gets_the_results_in_order_once_all_are_there(app: HeldApp) -> None:
    result = app.chord(app.parts(1, [2, 3], None), app.body())
    app.held.reverse()
    app.run_held()
    assert app.gathered == [[1, [2, 3], None]]
    assert result.get(timeout=0) == [1, [2, 3], None]
    assert app.bookkeeping() == set()


@pytest.mark.interface("fallback_chord_unlock")
def test_the_task_looks_again_after_a_while_as_long_as_a_part_is_missing(app: HeldApp, naps: list[float]) -> None:
    app.chord(app.parts(1, 2), app.body())
    look, first, second = app.take_held()
    app.run(look)
    assert (names(app), naps) == ([UNLOCK], [1.0])
    app.run(first)
    app.run(*app.held.pop())
    assert (names(app), naps) == ([UNLOCK], [1.0, 1.0])
    app.run(second)
    app.run(*app.held.pop())
    assert (names(app), naps) == (["gather"], [1.0, 1.0])


def test_the_caller_sets_the_seconds_between_looks(app: HeldApp, naps: list[float]) -> None:
    handles = [AsyncResult("never", app.backend)]
    app.require_backend().apply_chord(("c", handles), app.body(), countdown=0.25)
    for _ in range(2):
        app.run(*app.held.pop())
    assert naps == [0.25, 0.25]


def test_the_unlock_task_stores_no_result(app: HeldApp) -> None:
    [part] = app.parts(1)
    results = {part.freeze("part").id, app.chord([part], app.body()).id}
    app.run_held()
    assert {key for key, _ in app.store.scan(b"celery-task-meta-")} == {
        f"celery-task-meta-{id_}".encode() for id_ in results
    }


def test_a_look_that_is_delivered_twice_runs_the_body_once(app: HeldApp) -> None:
    app.chord(app.parts(1), app.body())
    look, part = app.take_held()
    app.run(part)
    for _ in range(2):
        app.run(look)
    app.run_held()
    assert app.gathered == [[1]]


def test_a_frozen_chord_that_is_applied_again_is_a_new_run(app: HeldApp) -> None:
    body, [part] = app.body(), app.parts(1)
    body.freeze()
    handles = [part.freeze(group_id="again", group_index=0, chord=dict(body))]
    for _ in range(2):
        app.require_backend().apply_chord(("again", handles), body)
        app.dispatch(part)
        app.run_held()
    assert app.gathered == [[1], [1]]


@pytest.mark.interface("fallback_chord_unlock")
def test_groups_inside_the_header_and_chords_inside_chords_work(app: HeldApp) -> None:
    outer, inner = app.body(), app.body()
    result = outer.freeze()
    handles = [inner.freeze(group_id="outer", group_index=0, chord=dict(outer))]
    app.require_backend().apply_chord(("outer", handles), outer)
    one, two, three = app.parts(1, 2, 3)
    app.chord([one, [two, [three]]], inner)
    app.run_held()
    assert result.get(timeout=0) == [[1, [2, [3]]]]


def test_an_empty_header_needs_no_look(app: HeldApp) -> None:
    result = app.chord([[]], app.body())
    assert names(app) == ["gather"]
    app.run_held()
    assert result.get(timeout=0) == [[]]


def test_a_part_that_fails_fails_the_body(app: HeldApp) -> None:
    failing, body = app.signature("fail", ("why",)), app.body()
    body.link_error(app.signature("new style"))
    result = app.chord([*app.parts(1), failing], body)
    app.run_held()
    [(request, error, _)] = app.errors
    assert request.id == result.id
    assert type(error.__cause__) is ValueError
    with pytest.raises(ChordError, match=r"raised ValueError\('why'\)"):
        result.get(timeout=0)


def test_a_result_that_cannot_be_read_fails_the_body(app: HeldApp) -> None:
    body = app.body()
    body.link_error(app.signature("new style"))
    app.chord(app.parts(1), body)
    look, part = app.take_held()
    app.store.set(f"celery-task-meta-{part['options']['task_id']}".encode(), b"no record")
    app.run(look)
    [(_, error, _)] = app.errors
    assert type(error.__cause__) is DecodeError


def test_a_part_that_never_ends_fails_the_body_when_results_expire(
    app: HeldApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = app.now()
    monkeypatch.setattr(app, "now", lambda: now)
    body = app.body()
    body.link_error(app.signature("new style"))
    result = app.chord(app.parts(1, 2), body)
    look, part, _lost = app.take_held()
    app.run(part)
    app.run(look)
    now += app.conf.result_expires
    app.run_held()
    [(_, error, _)] = app.errors
    assert type(error.__cause__) is ResultTimeout
    assert result.state == "FAILURE"


def test_the_unlock_task_never_gives_up_if_results_never_expire(clock: FakeClock, tmp_path: Path) -> None:
    with opened("four operations", HeldApp(result_expires=None), clock, tmp_path) as app:
        now = app.now()
        app.require_backend().apply_chord(("c", [AsyncResult("never", app.backend)]), app.body(), countdown=0)
        app.run(*app.held.pop())
        app.now = lambda: now.replace(year=9000)
        app.run(*app.held.pop())
        assert names(app) == [UNLOCK]
