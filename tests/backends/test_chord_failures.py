"""Chords that cannot succeed: the body fails once, with the reason, and no waiter waits for ever."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from lmdbresults.app import App, Request, Signature
from lmdbresults.backends import StoreBackend
from lmdbresults.errors import ChordError, DecodeError, ResultTimeout, TaskRevokedError
from lmdbresults.results import AsyncResult
from lmdbresults.testing import FakeClock
from tests.support.held import HeldApp, SixOperations, opened

KINDS = ["lmdb", "memory", "six operations"]


@pytest.fixture(params=KINDS)
def app(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> Iterator[HeldApp]:
    with opened(request.param, HeldApp(), clock, tmp_path) as app:
        yield app


def body_with_errback(app: HeldApp) -> Signature:
    body = app.body()
    body.link_error(app.signature("new style"))
    return body


def the_error(app: HeldApp, result: AsyncResult) -> ChordError:
    """The failure of a body, as its only errback got it and as it was stored; its chord has left nothing behind."""
    [(request, error, traceback)] = app.errors
    assert (request.id, request.task, traceback) == (result.id, "gather", None)
    assert type(error) is ChordError
    with pytest.raises(ChordError) as stored:
        result.get(timeout=0)
    assert stored.value.args == error.args
    assert "ChordError" in str(result.traceback)
    assert app.gathered == []
    assert app.held == []
    left = app.bookkeeping()
    if isinstance(app.backend, SixOperations):  # it cannot look which parts there are of a header that is gone
        left = {key for key in left if b".part." not in key}
    assert left == set()
    return error


def refuse(app: HeldApp, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tasks of one name not be dispatched."""
    dispatch = app.dispatch

    def refuse_one(signature: Signature, args: Any = ()) -> None:
        if signature.task == task:
            raise ConnectionError("no queue")
        dispatch(signature, args)

    monkeypatch.setattr(app, "dispatch", refuse_one)


# -- a part fails ------------------------------------------------------------------------------------------------


@pytest.mark.interface("chord: failure")
def test_a_failing_part_fails_the_body_with_its_id_and_its_exception(app: HeldApp) -> None:
    failing = app.signature("fail", ("why",))
    part = failing.freeze("the failing one")
    result = app.chord([*app.parts(1, 2), failing], body_with_errback(app))
    app.run_held()
    error = the_error(app, result)
    assert error.args == ("Dependency the failing one raised ValueError('why')",)
    assert type(error.__cause__) is ValueError
    assert part.state == "FAILURE"


def test_the_body_fails_when_all_parts_have_returned(app: HeldApp) -> None:
    result = app.chord([app.signature("fail"), *app.parts(1, 2)], body_with_errback(app))
    app.run(*app.held.pop(0))
    app.run(*app.held.pop(0))
    assert not result.ready()
    app.run_held()
    assert "Dependency" in str(the_error(app, result))


def test_the_first_failing_part_in_the_order_of_the_header_is_named(app: HeldApp) -> None:
    header = [*app.parts(1), app.signature("fail", ("first",)), app.signature("fail", ("second",))]
    result = app.chord(header, body_with_errback(app))
    app.held.reverse()
    app.run_held()
    assert "ValueError('first')" in str(the_error(app, result))


@pytest.mark.interface("chord: failure")
def test_a_failing_part_inside_a_group_is_named(app: HeldApp) -> None:
    failing = app.signature("fail", ("inside",))
    failing.freeze("the inner one")
    result = app.chord([*app.parts(1), [*app.parts(2), [failing]]], body_with_errback(app))
    app.run_held()
    assert str(the_error(app, result)) == "Dependency the inner one raised ValueError('inside')"


def test_a_revoked_part_is_named(app: HeldApp) -> None:
    result = app.chord(app.parts(1, 2), body_with_errback(app))
    revoked, other = app.take_held()
    app.run(other)
    request = Request.of(app.signature(revoked))
    app.require_backend().mark_as_revoked(request.id, "not wanted", request)
    error = the_error(app, result)
    assert error.args == (f"Dependency {request.id} raised TaskRevokedError('not wanted')",)
    assert type(error.__cause__) is TaskRevokedError


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_system_exit_of_a_part_does_not_end_the_worker_that_joins(app: HeldApp, kind: type[BaseException]) -> None:
    result = app.chord(app.parts(1, 2), body_with_errback(app))
    request = Request.of(app.signature(app.held.pop(0)[0]))
    app.require_backend().mark_as_failure(request.id, kind("stop"), None, request)
    app.run_held()
    error = the_error(app, result)
    assert type(error.__cause__) is kind


def test_a_part_that_fails_and_then_succeeds_fails_nothing(app: HeldApp) -> None:
    result = app.chord(app.parts(1, 2), app.body())
    again, other = app.take_held()
    request = Request.of(app.signature(again))
    app.require_backend().mark_as_failure(request.id, ValueError("lost"), None, request)
    app.run(again)  # delivered again: its part has returned, its result gets better
    app.run(other)
    app.run_held()
    assert result.get(timeout=0) == [1, 2]


def test_a_part_that_is_retried_returns_once_it_has_ended(app: HeldApp) -> None:
    result = app.chord(app.parts(1, 2), app.body())
    retried, other = app.take_held()
    app.run(other)
    request = Request.of(app.signature(retried))
    app.require_backend().mark_as_retry(request.id, ValueError("busy"), None, request)
    assert app.held == []
    app.run(retried)
    app.run_held()
    assert result.get(timeout=0) == [1, 2]


# -- errbacks ----------------------------------------------------------------------------------------------------


def test_errbacks_of_a_part_get_its_failure_and_those_of_the_body_the_chord_error(app: HeldApp) -> None:
    failing, body = app.signature("fail", ("why",)), app.body()
    part_id = failing.freeze().id
    for style in ("new style", "old style"):
        failing.link_error(app.signature(style))
        body.link_error(app.signature(style))
    result = app.chord([failing, *app.parts(1)], body)
    app.run_held()
    seen = [(args[0] if len(args) == 1 else (args[0].id, type(args[1]))) for args in app.errors]
    assert sorted(seen, key=str) == sorted(
        [part_id, result.id, (part_id, ValueError), (result.id, ChordError)], key=str
    )


def test_an_errback_of_the_body_that_raises_becomes_its_failure(app: HeldApp) -> None:
    def errback(request: Any, error: Any, traceback: Any) -> None:
        raise LookupError("errback")

    app.task(errback)
    body = app.body()
    body.link_error(app.signature("errback"))
    result = app.chord([app.signature("fail")], body)
    app.run_held()
    with pytest.raises(LookupError, match="errback"):
        result.get(timeout=0)


def test_an_errback_of_the_body_that_cannot_be_dispatched_becomes_its_failure(
    app: HeldApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(app, "old style", monkeypatch)
    body = app.body()
    body.link_error(app.signature("old style"))
    result = app.chord([app.signature("fail")], body)
    app.run_held()
    with pytest.raises(ConnectionError, match="no queue"):
        result.get(timeout=0)


# -- the body ----------------------------------------------------------------------------------------------------


@pytest.mark.interface("chord: body")
@pytest.mark.parametrize("size", [0, 2])
def test_a_body_that_cannot_be_dispatched_fails(app: HeldApp, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    refuse(app, "gather", monkeypatch)
    result = app.chord(app.parts(1, 2)[:size], body_with_errback(app))
    app.run_held()
    error = the_error(app, result)
    assert error.args == ("Callback error: ConnectionError('no queue')",)
    assert type(error.__cause__) is ConnectionError


def test_a_body_that_is_not_registered_fails_where_it_runs(app: HeldApp) -> None:
    result = app.chord(app.parts(1), app.signature("unheard of"))
    app.run_held()
    assert result.state == "FAILURE"
    assert "unheard of" in str(result.result)


def test_a_failing_chord_inside_a_chord_fails_the_outer_one(app: HeldApp) -> None:
    outer, inner = body_with_errback(app), app.body()
    result = outer.freeze()
    handles = [
        part.freeze(group_id="outer", group_index=n, chord=dict(outer)) for n, part in enumerate([inner, *app.parts(1)])
    ]
    app.require_backend().apply_chord(("outer", handles), outer)
    app.chord([app.signature("fail", ("why",))], inner)
    app.run_held()
    assert not result.ready()  # the other part of the outer chord has not returned
    [part] = app.parts(1)
    app.run(part.clone(task_id=handles[1].id, group_id="outer", group_index=1, chord=dict(outer)))
    error = the_error(app, result)
    assert str(error).startswith(f"Dependency {inner.id} raised ChordError(")
    assert type(error.__cause__) is ChordError


# -- the header --------------------------------------------------------------------------------------------------


def forget_first(app: HeldApp, header: list[AsyncResult], clock: FakeClock) -> None:
    header[0].forget()


def let_first_expire(app: HeldApp, header: list[AsyncResult], clock: FakeClock) -> None:
    app.require_backend().expire(f"celery-task-meta-{header[0].id}".encode(), 1.0)
    clock.advance(1.0)


def spoil_first(app: HeldApp, header: list[AsyncResult], clock: FakeClock) -> None:
    app.store.set(f"celery-task-meta-{header[0].id}".encode(), b"no record")


def pickle_first(app: HeldApp, header: list[AsyncResult], clock: FakeClock) -> None:
    header[0].forget()
    StoreBackend(App({"result_serializer": "pickle"}), store=app.store).store_result(header[0].id, 1, "SUCCESS")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (forget_first, "Join error: ResultTimeout("),
        (let_first_expire, "Join error: ResultTimeout("),
        (spoil_first, "Join error: DecodeError("),
        (pickle_first, "Join error: ContentDisallowed("),
    ],
)
def test_a_result_of_the_header_that_is_gone_or_cannot_be_read_fails_the_body(
    app: HeldApp, clock: FakeClock, harm: Callable[..., None], reason: str
) -> None:
    result = app.chord(app.parts(1, 2), body_with_errback(app))
    header = [AsyncResult(task["options"]["task_id"], app.backend) for task, _ in app.held]
    app.run(*app.held.pop(0))
    harm(app, header, clock)
    app.run_held()
    if isinstance(app.backend, StoreBackend):  # the parts have the values, so the results are not needed
        assert app.gathered == [[1, 2]]
        return
    error = the_error(app, result)
    assert str(error).startswith(reason)
    assert error.__cause__ is not None


@pytest.mark.parametrize("app", ["lmdb", "memory"], indirect=True)  # the third store keeps no parts
def test_a_part_that_cannot_be_read_fails_the_body(app: HeldApp) -> None:
    result = app.chord(app.parts(1, 2), body_with_errback(app))
    app.run(*app.held.pop(0))
    [name] = [key for key, _ in app.store.scan(b"chord-unlock-") if b".part." in key]
    number, place, id_, _, has_failed = msgpack.unpackb(app.store.get(name) or b"")
    app.store.set(name, msgpack.packb((number, place, id_, b"no record", has_failed)))
    app.run_held()
    error = the_error(app, result)
    assert str(error).startswith("Join error: DecodeError(")
    assert isinstance(error.__cause__, DecodeError)


def test_a_result_that_was_never_stored_fails_the_body(app: HeldApp) -> None:
    app.task(lambda: 1, name="unstored")
    unstored = app.signature("unstored")
    unstored.set(ignore_result=True)
    result = app.chord([unstored], body_with_errback(app))
    app.run_held()
    if isinstance(app.backend, StoreBackend):  # the part has it
        assert app.gathered == [[1]]
        return
    assert type(the_error(app, result).__cause__) is ResultTimeout


def chord_key(app: HeldApp) -> bytes:
    return f"chord-unlock-{app.held[0][0]['options']['group_id']}".encode()


def group_key(app: HeldApp) -> bytes:
    [key] = [key for key, _ in app.store.scan(b"celery-taskset-meta-")]
    return key


@pytest.mark.interface("chord: header")
def test_a_header_that_is_gone_fails_the_body(app: HeldApp) -> None:
    result = app.chord(app.parts(1, 2), body_with_errback(app))
    in_store = isinstance(app.backend, StoreBackend)
    app.store.delete(chord_key(app) if in_store else group_key(app))
    for key in [key for key, _ in app.store.scan(chord_key(app) + b".")] if in_store else ():
        app.store.delete(key)
    app.run_held()
    assert "no longer exists" in str(the_error(app, result))


@pytest.mark.interface("chord: header")
def test_a_header_that_cannot_be_restored_fails_the_body(app: HeldApp) -> None:
    result = app.chord([*app.parts(1), app.parts(2, 3)], body_with_errback(app))
    in_store = isinstance(app.backend, StoreBackend)
    [name] = [key for key, _ in app.store.scan(b"chord-unlock-") if key.endswith(b".header")] or [group_key(app)]
    app.store.set(name, b"no group")
    app.run_held()
    error = the_error(app, result)
    assert str(error).startswith("Join error" if in_store else "Cannot restore group")
    assert "DecodeError" in repr(error.__cause__)


def test_a_part_that_returns_when_its_chord_has_expired_fails_the_body(app: HeldApp, clock: FakeClock) -> None:
    result = app.chord(app.parts(1, 2, 3), body_with_errback(app))
    app.run(*app.held.pop(0))
    clock.advance(86400.0 * (2 if isinstance(app.backend, StoreBackend) else 1))
    app.run_held()
    assert "no longer exists" in str(the_error(app, result))


def test_a_part_of_a_chord_that_was_never_started_fails_the_body(app: HeldApp) -> None:
    body, [part] = body_with_errback(app), app.parts(1)
    result = body.freeze()
    part.freeze(group_id="never begun", group_index=0, chord=dict(body))
    app.run(part)
    assert str(the_error(app, result)) == "GroupResult never begun no longer exists"
