"""What a step costs does not depend on how much a queue holds."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from lmdbresults import LMDBStore
from lmdbresults.store.queues import ACKNOWLEDGE, Message


def instructions(work: Callable[[], object]) -> int:
    """Return how many instructions of Python a call takes."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def publish(store: LMDBStore) -> None:
    store.queues.publish([Message(b"body", "q")])


def turn(store: LMDBStore) -> None:
    store.queues.turn([], [(["q"], 1)])


def costs(store: LMDBStore, work: Callable[[LMDBStore], None]) -> int:
    work(store)
    return min(instructions(lambda: work(store)) for _ in range(5))


@pytest.mark.parametrize("work", [publish, turn])
def test_a_step_costs_the_same_in_a_queue_of_20_000_messages(store: LMDBStore, work: Callable[[LMDBStore], None]):
    store.queues.declare("q")
    store.queues.publish([Message(b"body", "q")] * 20)
    small = costs(store, work)
    store.queues.publish([Message(b"body", "q")] * 20_000)
    assert costs(store, work) == pytest.approx(small, rel=0.05)


def test_a_queue_that_was_drained_costs_no_more_than_a_new_one(store: LMDBStore):
    store.queues.declare("q")
    store.queues.publish([Message(b"body", "q")] * 20)
    small = costs(store, turn)
    store.queues.publish([Message(b"body", "q")] * 5000)
    settlements: list[Any] = []
    while taken := store.queues.turn(settlements, [(["q"], 100)])[0].deliveries:
        settlements = [(ACKNOWLEDGE, each.tag) for each in taken]
    store.queues.publish([Message(b"body", "q")] * 20)
    assert costs(store, turn) == pytest.approx(small, rel=0.05)
    assert store.queues.turn([], [(["q"], 100)])[0].deliveries != []
