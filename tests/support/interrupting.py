"""Signals at chosen instructions: an operation is run again and again, and interrupted a little later each time.

The trace function that makes a signal pending is C's `raise`, whose argument Python converts first. No instruction of
Python follows it, so the signal is handled where one would be that comes by chance before the traced instruction: at
the next place where Python looks for signals.
"""

import ctypes
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interruption", "count_points", "interrupted", "spread"]


class Interruption(Exception):
    """What a signal handler raises, as for a time limit."""


class _Signal:
    """The argument of `raise`: the number of a signal before the chosen instruction, 0 before all others."""

    left = 0

    @classmethod
    def from_param(cls, frame: FrameType) -> int:
        frame.f_trace, frame.f_trace_opcodes, frame.f_trace_lines = _trace, True, False
        cls.left -= 1
        if cls.left:
            return 0
        sys.settrace(None)
        return signal.SIGALRM


_trace = ctypes.PyDLL(None)["raise"]
_trace.argtypes = (_Signal, ctypes.py_object, ctypes.py_object)  # event and argument, which C does not look at
_trace.restype = None


@contextmanager
def interrupted(point: int, handler: Callable[[], object]) -> Iterator[None]:
    """Have the handler called once, for a signal that comes before an instruction of the block, the first being 0."""
    former = signal.signal(signal.SIGALRM, lambda number, frame: handler())
    _Signal.left = point + 1
    sys.settrace(_trace)
    try:
        yield
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGALRM, former)


def count_points(work: Callable[[], object]) -> int:
    """Return before how many instructions of Python a signal may come."""
    never = 1 << 62
    with interrupted(never, lambda: None):
        work()
    return never + 1 - _Signal.left


def spread(points: int, most: int) -> list[int]:
    """Return all numbers below ``points``, or ``most`` of them at equal distances."""
    return [number * points // min(points, most) for number in range(min(points, most))]
