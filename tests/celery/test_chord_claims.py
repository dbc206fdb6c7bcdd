"""The claim on a chord: released, taken over, or left to others, at any death or interruption."""

import signal
import threading
from typing import Any

import pytest
from celery import chain, group
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_ready, worker_shutdown

from lmdbresults import faultpoints
from lmdbresults.integrations.celery import chord_recovery
from lmdbresults.testing import die_at
from tests.support.celery_parts import Chord, gather, ran
from tests.support.celery_workers import wait_for
from tests.support.chord_keys import leftovers
from tests.support.processes import FORKS_WITH_THREADS, child, run_script

pytestmark = [pytest.mark.filterwarnings(FORKS_WITH_THREADS), pytest.mark.any_engine]


class Stop(BaseException):
    """What a signal handler raises."""


def interrupt_at(point: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def passing(reached: str) -> None:
        if reached == point:
            monkeypatch.undo()
            raise error

    monkeypatch.setattr(faultpoints, "hook", passing)


@pytest.mark.parametrize("point", faultpoints.POINTS)
def test_a_soft_time_limit_while_a_part_returns_does_not_lose_the_part(
    eager: Any, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    chord = Chord(eager, "a", "b")
    interrupt_at(point, SoftTimeLimitExceeded, monkeypatch)
    chord.part("a", 1, 0)
    chord.part("b", 2, 1)
    eager.backend.cleanup()
    assert (ran, eager.AsyncResult("b").get(timeout=0)) == ([[1, 2]], 2)
    assert leftovers(eager.backend.store) == []


@pytest.mark.parametrize("point", ["chord claimed", "values joined"])
def test_an_exception_of_a_signal_handler_releases_the_claim_and_fails_no_body(
    eager: Any, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    chord = Chord(eager, "a")
    interrupt_at(point, Stop, monkeypatch)
    with pytest.raises(Stop):
        chord.part("a", 1, 0)
    assert ran == []
    eager.backend.cleanup()
    assert ran == [[1]]
    assert leftovers(eager.backend.store) == []


def test_a_released_claim_is_taken_over_by_a_duplicate_of_a_part(eager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chord = Chord(eager, "a")
    with monkeypatch.context() as patch:
        patch.setattr(eager.backend.chords, "finish", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            chord.part("a", 1, 0)
    chord.part("a", 1, 0)
    assert ran == [[1]]


def claim_and_die(app: Any, chord: Chord, flag: Any) -> None:
    die_at("chord claimed", flag)
    chord.part("a", 1, 0)


def claim_in_another_process(app: Any, flag: Any, *, chord: Chord | None = None) -> Chord:
    """Return a chord whose only part has returned in a process that has died before it has run the body."""
    chord = chord or Chord(app, "a")
    with child(claim_and_die, app, chord, flag) as process:
        process.wait()
        assert process.status == -signal.SIGKILL
    return chord


def test_a_waiter_takes_over_the_chord_of_a_dead_process(eager: Any, tmp_path: Any) -> None:
    claim_in_another_process(eager, tmp_path / "flag")
    eager.conf.task_always_eager = False  # or one must not wait
    eager.backend.chords.bodies.send = lambda body, values: eager.backend.mark_as_done("body", values)
    assert eager.AsyncResult("body").get(timeout=240) == [1]
    assert leftovers(eager.backend.store) == []


def test_a_new_run_is_not_disturbed_by_the_claim_on_the_old_one(eager: Any, tmp_path: Any) -> None:
    chord = claim_in_another_process(eager, tmp_path / "flag")
    chord.apply()
    eager.backend.cleanup()
    assert ran == []
    chord.part("a", 2, 0)
    assert ran == [[2]]
    assert leftovers(eager.backend.store) == []


def test_a_chord_that_is_applied_again_while_its_body_is_sent_leaves_nothing_of_its_old_run(
    eager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chord, send = Chord(eager, "a"), eager.backend.chords.bodies.send

    def send_late(body: Any, values: Any) -> None:
        chord.apply()
        send(body, values)

    with monkeypatch.context() as patch:
        patch.setattr(eager.backend.chords.bodies, "send", send_late)
        chord.part("a", 1, 0)
    chord.part("a", 2, 0)
    eager.backend.cleanup()
    assert ran == [[1], [2]]
    assert leftovers(eager.backend.store) == []


def test_a_body_that_cannot_be_read_is_left_to_other_processes(application: Any, eager: Any, tmp_path: Any) -> None:
    first = Chord(eager, "a", body=gather.s().set(task_id="first"), group_id="1")
    eager.conf.task_serializer = "pickle"
    claim_in_another_process(eager, tmp_path / "1", chord=Chord(eager, "a", group_id="0"))
    claim_in_another_process(eager, tmp_path / "2", chord=first)
    eager.backend.cleanup()
    eager.backend.cleanup()
    assert eager.AsyncResult("first").get(timeout=0) == [1]
    assert eager.AsyncResult("body").state == "PENDING"
    eager.conf.accept_content = ["json", "pickle"]
    eager.backend.chords._left_alone.clear()
    eager.backend.cleanup()
    assert ran == [[1], [1]]


BODIES = {
    "task": lambda: gather.s().set(task_id="last"),
    "chain": lambda: chain(gather.s(), gather.s().set(task_id="last")),
    "group": lambda: group(gather.s(), gather.s().set(task_id="last")),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_has_run_when_its_chord_is_taken_over_does_not_run_again(
    eager: Any, tmp_path: Any, kind: str
) -> None:
    body = BODIES[kind]()
    body.freeze()
    chord = Chord(eager, "a", body=body)
    eager.backend.mark_as_done("last", "it has run")
    claim_in_another_process(eager, tmp_path / "flag", chord=chord)
    eager.backend.cleanup()
    assert ran == []
    assert leftovers(eager.backend.store) == []


def test_an_idle_worker_takes_over(eager: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chord_recovery, "_PAUSE", 0.01)
    claim_in_another_process(eager, tmp_path / "flag")
    worker_ready.send(sender=type("Worker", (), {"app": eager})())
    try:
        wait_for(lambda: ran == [[1]] and not leftovers(eager.backend.store))
    finally:
        worker_shutdown.send(sender=None)
    assert "lmdbresults-chords" not in {thread.name for thread in threading.enumerate()}


WORKER = """
import sys, threading
from celery import Celery
from celery.signals import worker_ready

app = Celery(broker="memory://", backend="lmdb://" + sys.argv[1])
app.backend
worker_ready.send(sender=type("Worker", (), {"app": app})())
print({thread.name for thread in threading.enumerate()} & {"lmdbresults-chords"})
"""


def test_a_worker_looks_for_chords_of_dead_workers_by_itself(path: str) -> None:
    done = run_script(WORKER, path)
    assert (done.stdout, done.stderr) == ("{'lmdbresults-chords'}\n", "")
