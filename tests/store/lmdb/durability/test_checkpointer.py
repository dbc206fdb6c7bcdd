"""The thread that makes checkpoints: how it starts."""

import math
import threading

import pytest

from lmdbresults.store.lmdb.durability.checkpointer import Checkpointer
from tests.support.covering import wait_until
from tests.support.interrupting import Interruption


def test_exception_of_a_signal_handler_as_the_thread_starts_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading._start_new_thread

    def interrupted(*args: object) -> None:
        start(*args)
        wait_until(lambda: not threading._limbo)
        raise Interruption

    calls: list[float] = []
    checkpointer = Checkpointer(lambda: calls.append(1) or math.inf)
    with monkeypatch.context() as patched:
        patched.setattr(threading, "_start_new_thread", interrupted)
        with pytest.raises(Interruption):
            checkpointer.wake()
    wait_until(lambda: bool(calls))
    assert checkpointer.wake()
    checkpointer.stop()


def test_all_threads_end_if_a_second_one_was_started_before_the_first_one_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    others = set(threading.enumerate())
    checkpointer = Checkpointer(lambda: math.inf)
    with monkeypatch.context() as patched:
        patched.setattr(checkpointer, "_is_running", lambda: False)
        checkpointer.wake()
        checkpointer.wake()
    assert len(set(threading.enumerate()) - others) == 2
    checkpointer.stop()
    wait_until(lambda: not set(threading.enumerate()) - others)


def test_without_threads_waking_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    checkpointer = Checkpointer(lambda: math.inf)
    with monkeypatch.context() as patched:
        patched.setattr(threading, "_start_new_thread", refuse)
        assert not checkpointer.wake()
    assert checkpointer.wake()
    checkpointer.stop()
