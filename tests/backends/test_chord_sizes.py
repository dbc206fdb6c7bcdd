"""Chords that grow and shrink while they run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import faultpoints
from lmdbresults.app import Signature, current_request
from lmdbresults.backends import chords
from lmdbresults.errors import ChordError
from lmdbresults.results import AsyncResult
from lmdbresults.testing import FakeClock
from lmdbresults.testing.samples import in_threads
from tests.support.held import HeldApp, opened


@pytest.fixture(params=["lmdb", "memory"])
def app(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> Iterator[HeldApp]:
    with opened(request.param, HeldApp(), clock, tmp_path) as app:
        yield app


@pytest.fixture
def begin(app: HeldApp) -> Callable[..., AsyncResult]:
    """Begins the chord "c" of the given values."""

    def begin(*values: Any) -> AsyncResult:
        body, parts = app.body(), app.parts(*values)
        result = body.freeze()
        handles = [part.freeze(group_id="c", group_index=n, chord=dict(body)) for n, part in enumerate(parts)]
        app.require_backend().apply_chord(("c", handles), body)
        for part in parts:
            app.dispatch(part)
        return result

    return begin


def another_part(app: HeldApp, value: Any) -> Signature:
    """A part beside those that are held, of the same chord."""
    options = app.held[0][0]["options"]
    [part] = app.parts(value)
    part.freeze(group_id=options["group_id"], group_index=99, chord=options["chord"])
    return part


@pytest.mark.interface("add_to_chord")
def test_a_chord_waits_for_a_part_that_is_added_while_it_runs(app: HeldApp, begin: Callable[..., AsyncResult]) -> None:
    result = begin(1, 2)
    added = another_part(app, 3)
    app.run(*app.held.pop())
    app.require_backend().add_to_chord("c", AsyncResult(added.id))
    app.run(*app.held.pop())
    assert app.held == []
    app.run(added)
    app.run_held()
    assert result.get(timeout=0) == [1, 2, 3]
    assert app.bookkeeping() == set()


def test_a_part_may_return_before_it_is_added(app: HeldApp, begin: Callable[..., AsyncResult]) -> None:
    result = begin(1, 2)
    added = another_part(app, 3)
    app.run(added)
    app.require_backend().add_to_chord("c", AsyncResult(added.id))
    app.run_held()
    assert result.get(timeout=0) == [1, 2, 3]


def test_a_task_of_the_header_may_add_a_part(app: HeldApp) -> None:
    def add_another(value: str) -> str:
        request = current_request()
        [part] = app.parts(value + " added")
        part.freeze(group_id=request.group, group_index=99, chord=request.chord)
        app.require_backend().add_to_chord(request.group, AsyncResult(part.id))
        app.dispatch(part)
        return value

    app.task(add_another, name="add another")
    result = app.chord([app.signature("add another", (name,)) for name in "abc"], app.body())
    app.run_held()
    assert result.get(timeout=0) == ["a", "b", "c", "a added", "b added", "c added"]


def test_a_part_that_is_added_twice_is_waited_for_once(app: HeldApp, begin: Callable[..., AsyncResult]) -> None:
    result = begin(1)
    added = another_part(app, 2)
    for _ in range(2):
        app.require_backend().add_to_chord("c", AsyncResult(added.id))
    app.dispatch(added)
    app.run_held()
    assert result.get(timeout=0) == [1, 2]


def test_a_chord_lives_for_as_long_as_parts_are_added(
    app: HeldApp, begin: Callable[..., AsyncResult], clock: FakeClock
) -> None:
    result = begin(1, 2)
    added = [another_part(app, value) for value in range(3, 7)]
    app.run(*app.held.pop())
    for part in added:
        clock.advance(0.8 * 86400.0)
        app.require_backend().add_to_chord("c", AsyncResult(part.id))
    for part in added:
        app.run(part)
    app.run_held()
    assert result.get(timeout=0) == [1, 2, 3, 4, 5, 6]


def test_parts_that_are_added_from_many_threads_are_all_waited_for(
    app: HeldApp, begin: Callable[..., AsyncResult]
) -> None:
    result = begin(0)
    added = [another_part(app, 1) for _ in range(20)]
    waiting = list(added)
    in_threads(4, lambda: [app.require_backend().add_to_chord("c", AsyncResult(waiting.pop().id)) for _ in range(5)])
    for part in added:
        app.dispatch(part)
    app.run_held()
    assert result.get(timeout=0) == [0] + [1] * 20


def test_nothing_can_be_added_once_the_last_part_has_returned(
    app: HeldApp, begin: Callable[..., AsyncResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Any = app.require_backend()
    refused, send = [], backend.chord_bodies.send

    def add_then_send(*args: Any) -> None:
        with pytest.raises(ChordError, match="c does not exist or has ended"):
            backend.add_to_chord("c", AsyncResult("too late"))
        refused.append(True)
        send(*args)

    monkeypatch.setattr(backend.chord_bodies, "send", add_then_send)
    result = begin(1, 2)
    app.run_held()
    assert refused == [True]
    assert result.get(timeout=0) == [1, 2]


@pytest.mark.interface("add_to_chord")
def test_nothing_can_be_added_to_a_chord_that_has_ended_or_never_was(
    app: HeldApp, begin: Callable[..., AsyncResult]
) -> None:
    begin(1)
    app.run_held()
    for name in ("c", "never begun"):
        with pytest.raises(ChordError, match=f"{name} does not exist or has ended"):
            app.require_backend().add_to_chord(name, AsyncResult("too late"))
    assert app.bookkeeping() == set()


def test_nothing_can_be_added_to_a_chord_that_has_expired(
    app: HeldApp, begin: Callable[..., AsyncResult], clock: FakeClock
) -> None:
    begin(1)
    clock.advance(86400.0)
    with pytest.raises(ChordError, match="c does not exist or has ended"):
        app.require_backend().add_to_chord("c", AsyncResult("too late"))


def test_add_to_chord_of_a_backend_without_transactions_raises_not_implemented_error(
    clock: FakeClock, tmp_path: Path
) -> None:
    with (
        opened("six operations", HeldApp(), clock, tmp_path) as app,
        pytest.raises(NotImplementedError, match=r"SixOperations .*add_to_chord"),
    ):
        app.require_backend().add_to_chord("c", AsyncResult("another"))


# -- set_chord_size ----------------------------------------------------------------------------------------------


@pytest.mark.interface("apply_chord, ...")
@pytest.mark.parametrize("kind", ["lmdb", "memory", "six operations"])
def test_the_size_that_is_set_is_the_number_of_parts_that_are_waited_for(
    kind: str, clock: FakeClock, tmp_path: Path
) -> None:
    with opened(kind, HeldApp(), clock, tmp_path) as app:
        result = app.chord(app.parts(1, 2), app.body())
        extra = another_part(app, 3)
        app.require_backend().set_chord_size(str(extra.options["group_id"]), 3)
        parts = app.take_held()
        for part in parts:
            app.run(part)
        assert app.held == []
        app.run(extra)
        app.run_held()
        # Without chords in the store, the list is of what stands in the header that was saved.
        assert result.get(timeout=0) == ([1, 2] if kind == "six operations" else [1, 2, 3])


def test_setting_a_size_that_has_been_reached_ends_the_chord(app: HeldApp, begin: Callable[..., AsyncResult]) -> None:
    result = begin(1, 2, 3)
    for _ in range(2):
        app.run(*app.held.pop())
    app.require_backend().set_chord_size("c", 1)
    app.run_held()
    assert app.gathered == [[2, 3]]
    assert result.get(timeout=0) == [2, 3]


def test_a_size_in_the_request_counts_where_none_was_set(app: HeldApp, begin: Callable[..., AsyncResult]) -> None:
    result = begin(1, 2)
    app.store.delete(b"chord-unlock-c.size")
    for task, _ in app.held:
        task["options"]["chord"]["chord_size"] = 2
    app.run_held()
    assert result.get(timeout=0) == [1, 2]


# -- large ones --------------------------------------------------------------------------------------------------


def test_the_records_of_a_large_chord_of_a_killed_process_are_deleted_by_another(
    app: HeldApp, begin: Callable[..., AsyncResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = begin(1, 2, 3, 4, 5)
    app.require_backend().add_to_chord("c", AsyncResult(app.held[0][0]["options"]["task_id"]))
    app.require_backend().set_chord_size("c", 4)
    monkeypatch.setattr(chords, "_BATCH", 2)
    monkeypatch.setattr(faultpoints, "hook", end_at("chord ended"))
    with pytest.raises(SystemExit):
        app.run_held()
    monkeypatch.undo()
    assert app.bookkeeping() != set()
    app.require_backend().cleanup()
    app.run_held()
    assert app.gathered == [result.get(timeout=0)] == [[2, 3, 4, 5, 1]]
    assert app.bookkeeping() == set()


def end_at(end: str) -> Callable[[str], None]:
    """End a process, as a signal does that is handled by raising SystemExit."""

    def pass_by(point: str) -> None:
        if point == end:
            raise SystemExit

    return pass_by
