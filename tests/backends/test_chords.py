"""A chord: parts return in any order, from anywhere; the body is dispatched once, with their results in order."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmdbresults.app import Signature
from lmdbresults.results import AsyncResult, GroupResult
from lmdbresults.testing import FakeClock, sample
from lmdbresults.testing.samples import in_threads
from tests.support.held import HeldApp, opened

KINDS = ["lmdb", "memory", "six operations"]


@pytest.fixture(params=KINDS)
def app(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> Iterator[HeldApp]:
    with opened(request.param, HeldApp(), clock, tmp_path) as app:
        yield app


# -- the list ----------------------------------------------------------------------------------------------------


@pytest.mark.interface("chord: order")
def test_the_body_gets_the_results_in_the_order_of_the_header(app: HeldApp) -> None:
    result = app.chord(app.parts(*range(20)), app.body())
    random.Random(1).shuffle(app.held)
    app.run_held()
    assert app.gathered == [list(range(20))]
    assert result.get(timeout=0) == list(range(20))


@pytest.mark.interface("chord: order")
def test_the_body_is_dispatched_when_the_last_part_returns_and_not_before(app: HeldApp) -> None:
    app.chord(app.parts(1, 2, 3), app.body())
    *first, last = app.take_held()
    for part in first:
        app.run(part)
    assert app.held == []
    app.run(last)
    assert [(task["task"], args) for task, args in app.held] == [("gather", ([1, 2, 3],))]


@pytest.mark.interface("apply_chord, ...")
@pytest.mark.parametrize("header", [[], iter([]), [[], [[]]]], ids=["list", "iterator", "empty groups"])
def test_the_body_of_an_empty_header_is_dispatched_at_once(app: HeldApp, header: Iterable[Any]) -> None:
    header = list(header)
    result = app.chord(iter(header), app.body())
    app.run_held()
    assert app.gathered == [header]
    assert result.get(timeout=0) == header
    assert app.bookkeeping() == set()


def test_the_list_comes_before_the_arguments_that_the_body_has(app: HeldApp) -> None:
    app.task(lambda values, more, *, last: [values, more, last], name="all")
    result = app.chord(app.parts(1, 2), app.signature("all", (3,), {"last": 4}))
    app.run_held()
    assert result.get(timeout=0) == [[1, 2], 3, 4]


@pytest.mark.parametrize(
    "value",
    [None, [], {"none": None}, pytest.param("x" * 3_000_000, id="3 MB"), pytest.param("\0é€" * 9000, id="text")],
)
def test_a_part_may_return_any_value(app: HeldApp, value: Any) -> None:
    app.chord(app.parts(value, 1, value), app.body())
    app.run_held()
    assert app.gathered == [[value, 1, value]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_may_return_an_exception_as_its_value(kind: str, clock: FakeClock, tmp_path: Path) -> None:
    app = HeldApp(result_serializer="pickle", accept_content=("pickle",))
    app.task(lambda: [KeyError("a value"), sample(3_000_000)], name="make")
    with opened(kind, app, clock, tmp_path):
        app.chord([app.signature("make"), *app.parts(1)], app.body())
        app.run_held()
    [[[error, data], one]] = app.gathered
    assert (type(error), error.args, data == sample(3_000_000), one) == (KeyError, ("a value",), True, 1)


def test_parts_that_return_from_many_threads_at_once_dispatch_the_body_once(app: HeldApp) -> None:
    app.chord(app.parts(*range(40)), app.body())
    parts = app.take_held()
    in_threads(4, lambda: [app.run(parts.pop()) for _ in range(10)])
    app.run_held()
    assert app.gathered == [list(range(40))]


# -- shapes ------------------------------------------------------------------------------------------------------


@pytest.mark.interface("nesting")
def test_a_group_inside_the_header_becomes_a_list_inside_the_list(app: HeldApp) -> None:
    one, two, three, four, five = app.parts(1, 2, 3, 4, 5)
    app.chord([one, [two, three], [[four], five], []], app.body())
    assert len({task["options"]["group_id"] for task, _ in app.held}) == 1  # each is a part of the same chord
    random.Random(2).shuffle(app.held)
    app.run_held()
    assert app.gathered == [[1, [2, 3], [[4], 5], []]]
    assert app.bookkeeping() == set()


def test_apply_chord_takes_groups_among_the_results_of_its_header(app: HeldApp) -> None:
    body, parts = app.body(), app.parts(1, 2, 3)
    result = body.freeze()
    handles = [part.freeze(group_id="outer", group_index=n, chord=dict(body)) for n, part in enumerate(parts)]
    app.require_backend().apply_chord(("outer", [handles[0], GroupResult("inner", handles[1:])]), body)
    for part in reversed(parts):
        app.dispatch(part)
    app.run_held()
    assert result.get(timeout=0) == [1, [2, 3]]
    assert app.bookkeeping() == set()


def test_the_body_of_a_chord_may_be_a_part_of_another(app: HeldApp) -> None:
    outer, inner = app.body(), [app.body(), app.body()]
    result = outer.freeze()
    handles = [body.freeze(group_id="outer", group_index=n, chord=dict(outer)) for n, body in enumerate(inner)]
    app.require_backend().apply_chord(("outer", handles), outer)
    app.chord(app.parts(1, 2), inner[0])
    app.chord(app.parts(3, 4), inner[1])
    app.run_held()
    assert app.gathered == [[1, 2], [3, 4], [[1, 2], [3, 4]]]
    assert result.get(timeout=0) == [[1, 2], [3, 4]]
    assert app.bookkeeping() == set()


def test_a_signature_may_occur_several_times_in_a_header_and_in_several_chords(app: HeldApp) -> None:
    body, [part] = app.body(), app.parts(7)
    results = [app.chord([part] * 3, body), app.chord([part, [part]], body)]
    app.run_held()
    assert [result.get(timeout=0) for result in results] == [[7, 7, 7], [7, [7]]]


def test_one_task_at_two_places_of_the_header_is_two_parts(app: HeldApp) -> None:
    [part] = app.parts(7)
    part.freeze("the same")
    result = app.chord([part, part], app.body())
    app.run_held()
    assert result.get(timeout=0) == [7, 7]


def test_a_chord_that_a_task_starts_is_among_its_children(app: HeldApp) -> None:
    app.task(lambda: app.chord(app.parts(1, 2), app.body()).id, name="parent")
    parent = app.send(app.signature("parent"))
    app.run_held()
    [child] = parent.children
    assert child == AsyncResult(parent.get(timeout=0))
    assert child.get(timeout=0) == [1, 2]
    assert app.backend.get_task_meta(child.id)["parent_id"] == parent.id


# -- what comes twice, too late, or too much ---------------------------------------------------------------------


@pytest.mark.interface("on_chord_part_return")
def test_a_part_that_returns_again_does_not_count_again(app: HeldApp, caplog: pytest.LogCaptureFixture) -> None:
    app.chord(app.parts(1, 2, 3), app.body())
    parts = app.take_held()
    for part in [*parts[:2], *parts[:2], *parts[:2]]:
        app.run(part)
    assert app.held == []
    app.run(parts[2])
    app.run_held()
    assert app.gathered == [[1, 2, 3]]
    assert len([record for record in caplog.records if "does not count" in record.message]) == 4


def test_a_part_that_returns_after_the_end_does_nothing(app: HeldApp, caplog: pytest.LogCaptureFixture) -> None:
    app.chord(app.parts(1, 2, 3), app.body())
    parts = app.take_held()
    for part in parts * 2:
        app.run(part)
    app.run_held()
    for part in parts:
        app.run(part)
    assert app.held == []
    assert app.gathered == [[1, 2, 3]]
    assert app.bookkeeping() == set()
    assert "does not count" in caplog.text


def test_a_part_of_a_forgotten_chord_does_not_run_a_body_that_has_run(
    app: HeldApp, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    body = app.body()
    body.link_error(app.signature("new style"))
    result = app.chord(app.parts(1, 2), body)
    part, _ = app.held[0]
    app.run_held()
    # A store with chords remembers them for as long as their results.
    clock.advance(3600.0)
    app.run(part)
    assert (app.held, app.errors) == ([], [])
    assert result.get(timeout=0) == [1, 2]
    assert "after its end" in caplog.text or "the chord has ended" in caplog.text


@pytest.mark.interface("chord: too many parts")
@pytest.mark.parametrize("threads", [1, 4])
def test_more_parts_than_the_header_has_do_not_dispatch_the_body_again(
    app: HeldApp, caplog: pytest.LogCaptureFixture, threads: int
) -> None:
    app.chord(app.parts(1, 2, 3), app.body())
    parts = app.take_held()
    strangers = [{**parts[0], "options": {**parts[0]["options"], "task_id": f"stranger {n}"}} for n in range(8)]
    for part in parts:
        app.run(part)
    in_threads(threads, lambda: app.run(strangers.pop()))
    app.run_held()
    assert app.gathered == [[1, 2, 3]]
    assert "Task stranger 7 returned a part" in caplog.text


def test_an_excess_part_that_returns_while_the_chord_ends_is_logged(
    app: HeldApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend: Any = app.require_backend()
    send = backend.chord_bodies.send

    def send_late(*args: Any) -> None:
        app.run({**part, "options": {**part["options"], "task_id": "stranger"}})
        send(*args)

    monkeypatch.setattr(backend.chord_bodies, "send", send_late)
    app.chord(app.parts(1), app.body())
    [part] = app.take_held()
    app.run(part)
    app.run_held()
    assert app.gathered == [[1]]
    assert "Task stranger returned a part" in caplog.text


def apply(app: HeldApp, body: Signature, parts: list[Signature]) -> None:
    handles = [part.freeze(group_id="again", group_index=n, chord=dict(body)) for n, part in enumerate(parts)]
    app.require_backend().apply_chord(("again", handles), body)


def test_a_frozen_chord_that_is_applied_again_is_a_new_run(app: HeldApp) -> None:
    body, parts = app.body(), app.parts(1, 2)
    body.freeze()
    for _ in range(2):
        apply(app, body, parts)
        for part in parts:
            app.dispatch(part)
        app.run_held()
    assert app.gathered == [[1, 2]] * 2
    assert app.bookkeeping() == set()


def test_parts_must_return_again_after_a_chord_is_applied_again(app: HeldApp) -> None:
    body, parts = app.body(), app.parts(1, 2, 3)
    body.freeze()
    apply(app, body, parts)
    app.run(parts[0])
    app.run(parts[1])
    apply(app, body, parts)
    app.run(parts[2])
    app.run(parts[1])
    assert app.held == []
    app.run(parts[0])
    app.run_held()
    assert app.gathered == [[1, 2, 3]]


# -- its keys ----------------------------------------------------------------------------------------------------


@pytest.mark.interface("chord: keys")
def test_an_ended_chord_leaves_only_a_marker_that_expires(app: HeldApp, clock: FakeClock) -> None:
    app.chord(app.parts(1, 2), app.body())
    app.run_held()
    [mark] = [key for key, _ in app.store.scan(b"chord-unlock-")]
    ttl = app.store.ttl(mark)
    assert ttl is not None
    assert 0 < ttl <= (300 if mark.endswith(b".ended") else 86400)
    assert app.bookkeeping() == set()


@pytest.mark.interface("chord: keys")
def test_the_keys_of_a_chord_that_never_ends_expire(app: HeldApp, clock: FakeClock) -> None:
    app.chord(app.parts(1, [2, 3]), app.body())
    app.run(*app.held.pop())
    assert app.bookkeeping() != set()
    clock.advance(86400.0)
    assert all(b".part." in key or key.endswith((b".body", b".header", b".renewed")) for key, _ in app.store.scan())
    clock.advance(86400.0)  # what belongs to a chord is kept longer than its head
    assert list(app.store.scan()) == []


def test_chords_with_a_common_prefix_do_not_affect_each_other(app: HeldApp) -> None:
    names = ("a", "a.b", "a.", "a" * 600)
    results = []
    for name in names:
        body, parts = app.body(), app.parts(name, name)
        results.append(body.freeze())
        handles = [part.freeze(group_id=name, group_index=n, chord=dict(body)) for n, part in enumerate(parts)]
        app.require_backend().apply_chord((name, handles), body)
        for part in parts:
            app.dispatch(part)
    app.run_held()
    assert [result.get(timeout=0) for result in results] == [[name, name] for name in names]
    assert app.bookkeeping() == set()


def test_the_end_of_a_chord_deletes_no_keys_of_another(app: HeldApp) -> None:
    app.chord(app.parts(1, 2), app.body())
    unfinished = app.take_held()
    app.run(unfinished[0])
    before = app.bookkeeping()
    app.chord(app.parts(3, 4), app.body())
    app.run_held()
    assert app.bookkeeping() == before
    app.run(unfinished[1])
    app.run_held()
    assert app.gathered == [[3, 4], [1, 2]]
