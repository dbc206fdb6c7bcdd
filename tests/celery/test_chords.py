"""Chords as Celery's Redis backend has them, or better: what it promises, asked of the backend as Celery asks it."""

from typing import Any

import pytest
from celery import group, states
from celery.exceptions import ChordError
from celery.result import GroupResult
from celery.utils.functional import regen

from tests.support.celery_needed import needs_5_7, needs_group_errors
from tests.support.celery_parts import Chord, failed, gather, note_failure, ran
from tests.support.celery_tasks import OwnError
from tests.support.chord_keys import leftovers
from tests.support.processes import FORKS_WITH_THREADS

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.any_engine]

# -- rows 1 to 5: parts --------------------------------------------------------------------------------------------


@pytest.mark.of_a_file
def test_a_part_and_its_result_are_one_transaction(eager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chord, store, steps = Chord(eager, "a", "b"), eager.backend.store, []
    for name in ("update", "set"):
        verb = getattr(store, name)
        monkeypatch.setattr(store, name, lambda *args, verb=verb, **more: (steps.append(1), verb(*args, **more))[1])
    chord.part("a", 1, 0)
    assert len(steps) == 1
    assert eager.AsyncResult("a").get(timeout=0) == 1


@pytest.mark.of_a_file
def test_a_part_that_cannot_be_counted_stores_no_result(eager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chord = Chord(eager, "a")
    with monkeypatch.context() as patch:
        patch.setattr("lmdbresults.store.chord_steps._store_part", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            chord.part("a", 1, 0)
    assert eager.AsyncResult("a").state == "PENDING"
    chord.part("a", 1, 0)
    assert ran == [[1]]


def test_parts_are_identified_by_place_and_id_and_the_first_value_counts(eager: Any) -> None:
    chord = Chord(eager, "a", "a", "b")
    for index, id_, value in [(0, "a", 1), (0, "a", 2), (1, "a", 3), (1, "a", 4)]:
        chord.part(id_, value, index)
    assert ran == []
    chord.part("b", 5, 2)
    assert ran == [[1, 3, 5]]


def test_a_part_that_has_failed_and_comes_again_may_succeed(eager: Any) -> None:
    chord = Chord(eager, "a", "b")
    chord.part("a", OwnError("at first"), 0)
    chord.part("a", 1, 0)
    chord.part("a", OwnError("too late"), 0)
    chord.part("b", 2, 1)
    assert (ran, failed) == ([[1, 2]], [])


def test_an_added_part_is_waited_for(eager: Any) -> None:
    chord = Chord(eager, "a")
    eager.backend.add_to_chord("group", eager.AsyncResult("added"))
    chord.part("a", 1, 0)
    assert ran == []
    chord.part("added", 2, None)
    assert ran == [[1, 2]]


def test_a_size_that_is_set_after_the_end_starts_a_new_run(eager: Any) -> None:
    chord = Chord(eager, "a", "b")
    for value in (1, 2):
        eager.backend.set_chord_size("group", 2)
        chord.part("a", value, 0)
        chord.part("b", value, 1)
    assert ran == [[1, 1], [2, 2]]
    assert leftovers(eager.backend.store) == []


def test_parts_that_come_before_the_size_are_kept(eager: Any) -> None:
    chord = Chord(eager)
    chord.results = regen(eager.AsyncResult(id_) for id_ in "ab")
    chord.apply()
    chord.part("b", 2, 1)
    chord.part("a", 1, 0)
    assert ran == []
    eager.backend.set_chord_size("group", 2)
    assert ran == [[1, 2]]
    assert leftovers(eager.backend.store) == []


def test_values_come_in_the_order_of_places_and_those_without_one_last(eager: Any) -> None:
    chord = Chord(eager, *"abcd")
    for id_, value, index in [("c", 3, None), ("b", 2, 10), ("d", 4, None), ("a", 1, 9)]:
        chord.part(id_, value, index)
    assert ran == [[1, 2, 3, 4]]


def test_a_frozen_chord_that_is_applied_again_is_a_new_run(eager: Any) -> None:
    chord = Chord(eager, "a", "b")
    chord.part("a", 1, 0)
    chord.apply()
    chord.part("b", 2, 1)
    assert ran == []
    chord.part("a", 3, 0)
    assert ran == [[3, 2]]
    assert leftovers(eager.backend.store) == []


# -- rows 6 to 8: the claim ----------------------------------------------------------------------------------------


@needs_5_7
def test_a_body_is_published_with_celerys_retries(eager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(eager.amqp, "_retry_publish", lambda publish, values: tried.append(values) or publish(values))
    Chord(eager, "a").part("a", 1, 0)
    assert (tried, ran) == ([[1]], [[1]])


def test_late_duplicates_do_nothing_and_the_end_marker_stays_for_minutes(eager: Any) -> None:
    chord = Chord(eager, "a", "b")
    for id_, index in [("a", 0), ("b", 1)] * 3:
        chord.part(id_, id_, index)
    assert ran == [["a", "b"]]
    assert leftovers(eager.backend.store) == []
    assert eager.backend.store.ttl(chord.key) > 290


# -- rows 9 to 12: what fails, and shapes --------------------------------------------------------------------------


def with_errback() -> Any:
    return gather.s().set(task_id="body").on_error(note_failure.s())


def test_a_failed_part_fails_the_body_once_with_its_cause(eager: Any) -> None:
    chord = Chord(eager, *"abc", body=with_errback())
    for id_, value, index in [("b", OwnError("why"), 1), ("a", OwnError("first"), 0), ("c", 3, 2)] * 2:
        chord.part(id_, value, index)
    [(id_, error)] = failed
    assert (id_, type(error), str(error)) == ("body", ChordError, "Dependency a raised OwnError('first')")
    assert isinstance(error.__cause__, OwnError)
    assert (ran, str(chord.error)) == ([], str(error))
    assert leftovers(eager.backend.store) == []


def test_a_body_that_cannot_be_published_fails_with_callback_error(eager: Any, monkeypatch: Any) -> None:
    chord = Chord(eager, "a", body=with_errback())
    monkeypatch.setattr(eager.backend.chords.bodies, "send", lambda *args: 1 / 0)
    chord.part("a", 1, 0)
    assert str(chord.error) == "Callback error: ZeroDivisionError('division by zero')"
    assert len(failed) == 1
    assert leftovers(eager.backend.store) == []


def test_a_part_that_cannot_be_read_fails_the_body_with_join_error(eager: Any, monkeypatch: Any) -> None:
    chord = Chord(eager, "a", body=with_errback())
    monkeypatch.setattr(eager.backend, "decode_result", lambda value: 1 / 0)
    chord.part("a", 1, 0)
    assert str(chord.error) == "Join error: ZeroDivisionError('division by zero')"
    assert len(failed) == 1


def nested_in(outer: Chord, id_: str, index: int, *errbacks: Any) -> Any:
    """Return the body of a chord that is a part of another one."""
    options = {"group_id": outer.group_id, "group_index": index, "chord": dict(outer.body)}
    return gather.s().set(task_id=id_, link_error=[dict(errback) for errback in errbacks], **options)


@pytest.mark.parametrize("extended", [False, True])
def test_an_errback_of_nested_chords_is_called_once_a_failure(application: Any, extended: bool) -> None:
    """Celery links it to the bodies of all chords in the header as well."""
    failed.clear()
    app = application(task_always_eager=True, task_store_eager_result=True, result_extended=extended)
    outer = Chord(app, "a", "middle", body=with_errback())
    outer.part("a", 1, 0)
    middle = Chord(app, "b", "inner", body=nested_in(outer, "middle", 1, note_failure.s()), group_id="middle group")
    middle.part("b", 1, 0)
    innermost = Chord(app, "c", body=nested_in(middle, "inner", 1, note_failure.s()), group_id="inner group")
    innermost.part("c", OwnError("why"), 0)
    assert [id_ for id_, _ in failed] == ["inner"]
    for id_, text in [("inner", "Dependency c raised"), ("middle", "Dependency inner raised"), ("body", "Dependency")]:
        assert app.AsyncResult(id_).state == states.FAILURE
        assert text in str(app.AsyncResult(id_).result)
    assert leftovers(app.backend.store) == []


def test_an_errback_that_only_the_outer_chord_has_is_called_for_it(eager: Any) -> None:
    outer = Chord(eager, "inner", body=with_errback())
    inner = Chord(eager, "a", body=nested_in(outer, "inner", 0, note_failure.si("other")), group_id="inner group")
    inner.part("a", OwnError("why"), 0)
    assert [id_ for id_, _ in failed][-1:] == ["body"]


@needs_group_errors
def test_a_failed_part_fails_every_task_of_a_group_that_is_the_body(eager: Any) -> None:
    body = group(gather.s().set(task_id="one"), gather.s().set(task_id="two"))
    body.freeze()
    Chord(eager, "a", body=body).part("a", OwnError("why"), 0)
    assert [eager.AsyncResult(id_).state for id_ in ("one", "two")] == ["FAILURE", "FAILURE"]


def test_a_revoked_part_returns_too(eager: Any) -> None:
    chord = Chord(eager, "a", "b")
    chord.part("a", 1, 0)
    eager.backend.mark_as_revoked("b", "terminated", request=chord.request("b", 1))
    assert str(chord.error) == "Dependency b raised TaskRevokedError('terminated')"
    assert eager.AsyncResult("b").state == states.REVOKED


def test_parts_whose_results_are_ignored_bring_their_values(eager: Any) -> None:
    chord = Chord(eager, "a", "b")
    for index, id_ in enumerate("ab"):
        eager.backend.mark_as_done(id_, index, request=chord.request(id_, index), store_result=False)
    assert ran == [[0, 1]]
    assert eager.AsyncResult("a").state == "PENDING"


@pytest.mark.parametrize("stores", [True, False])
def test_groups_in_a_header_give_lists_in_lists(eager: Any, stores: bool) -> None:
    b, c = eager.AsyncResult("b"), eager.AsyncResult("c")
    chord = Chord(eager, "a", GroupResult("inner", [b, c], app=eager), "d")
    for index, id_ in reversed([*enumerate("abcd")]):
        eager.backend.mark_as_done(id_, id_, request=chord.request(id_, index), store_result=stores)
    assert ran == [["a", ["b", "c"], "d"]]
    assert leftovers(eager.backend.store) == []


# -- rows 13 to 16: settings ---------------------------------------------------------------------------------------


@needs_5_7
def test_result_chord_expires_is_for_the_bookkeeping_and_is_extended_by_each_part(application: Any) -> None:
    app = application(result_chord_expires=1000, result_expires=50)
    chord, store = Chord(app, "a", "b"), app.backend.store
    assert 900 < store.ttl(chord.key) <= 1000
    store.expire(chord.key, 10)
    chord.part("a", 1, 0)
    assert 900 < store.ttl(chord.key) <= 1000
    assert 40 < store.ttl(app.backend.get_key_for_task("a")) <= 50


@pytest.mark.of_a_file
@pytest.mark.parametrize("never", [0, None])
def test_chords_of_results_that_never_expire_stay_for_a_year_after_each_part(application: Any, never: Any) -> None:
    app = application(result_expires=never)
    chord = Chord(app, "a", "b")
    chord.part("a", 1, 0)
    year = 365 * 86400.0
    assert app.backend.store.ttl(chord.key) == pytest.approx(year, abs=60)
    others = [key for key, _ in app.backend.store.scan(chord.key + b".")]
    assert len(others) >= 2
    assert all(year < app.backend.store.ttl(key) <= 2 * year for key in others)


@needs_5_7
def test_result_failure_expires_holds_for_the_results_of_parts(application: Any) -> None:
    app = application(result_failure_expires=20, result_expires=1000)
    chord, store = Chord(app, "a", "b", "c"), app.backend.store
    chord.part("a", OwnError("why"), 0)
    chord.part("b", 1, 1)
    assert store.ttl(app.backend.get_key_for_task("a")) <= 20 < store.ttl(app.backend.get_key_for_task("b"))


@needs_5_7
def test_parts_are_compressed_as_results_are_and_carry_the_extended_fields(application: Any) -> None:
    ran.clear()
    settings: dict[str, Any] = {"result_compression": "gzip", "result_extended": True}
    app = application(task_always_eager=True, task_store_eager_result=True, **settings)
    chord, value = Chord(app, "a", "b"), "x" * 100_000
    chord.part("a", value, 0, task="echo", args=[7], kwargs={})
    assert len(app.backend.store.get(app.backend.get_key_for_task("a"))) < 5000
    assert (app.AsyncResult("a").name, app.AsyncResult("a").args) == ("echo", [7])
    chord.part("b", 1, 1)
    assert ran == [[value, 1]]


def test_a_part_is_tried_again_where_celery_is_told_to(application: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran.clear()
    eager: dict[str, Any] = {"task_always_eager": True, "task_store_eager_result": True}
    app = application(result_backend_always_retry=True, result_backend_base_sleep_between_retries_ms=1, **eager)
    monkeypatch.setattr(app.backend, "exception_safe_to_retry", lambda error: isinstance(error, ZeroDivisionError))
    chord, update, failures = Chord(app, "a"), app.backend.store.update, [1, 1]

    def fail_twice(step: Any) -> Any:
        return update(step) if not failures else failures.pop() / 0

    monkeypatch.setattr(app.backend.store, "update", fail_twice)
    chord.part("a", 1, 0)
    assert (ran, app.AsyncResult("a").get(timeout=0)) == ([[1]], 1)
