"""Signals at chosen instructions: an operation is run again and again, and interrupted a little later each time.

The trace function that makes a signal pending is C's `raise`, whose argument Python converts first. No instruction of
Python follows it, so the signal is handled where one would be that comes by chance before the traced instruction: at
the next place where Python looks for signals.
"""

import ctypes
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

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


class interrupted:  # noqa: N801
    """Has the handler called once, for a signal that comes before an instruction of the block, the first being 0.

    Not a generator: if the signal comes as the block ends, that would be closed as garbage, in the midst of another
    test, and perhaps in another thread.
    """

    def __init__(self, point: int, handler: Callable[[], object]) -> None:
        self._point, self._handler = point, handler
        self._former: Any = None
        self._hook = sys.unraisablehook

    def __enter__(self) -> None:
        sys.unraisablehook = self._forget
        self._former = signal.signal(signal.SIGALRM, self._handle)
        _Signal.left = self._point + 1
        sys.settrace(_trace)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, self._former)  # the end of the block does not, if the exception comes out of it
        self._handler()

    def _forget(self, unraisable: Any) -> None:
        """Ignore what is raised in the callback of a weak reference, as Python does.

        pytest would keep it, and with it the variables of the interrupted frames: a store that was dropped would live.
        """
        if unraisable.exc_type is not Interruption:
            self._hook(unraisable)

    def __exit__(self, *_: object) -> None:
        try:
            sys.settrace(None)
            signal.signal(signal.SIGALRM, self._former)
        finally:
            sys.unraisablehook = self._hook


def count_points(work: Callable[[], object]) -> int:
    """Return before how many instructions of Python a signal may come."""
    never = 1 << 62
    with interrupted(never, lambda: None):
        work()
    return never + 1 - _Signal.left


def spread(points: int, most: int) -> list[int]:
    """Return all numbers below ``points``, or ``most`` of them at equal distances."""
    return [number * points // min(points, most) for number in range(min(points, most))]
