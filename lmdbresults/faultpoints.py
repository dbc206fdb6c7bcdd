"""Fault points: steps at which a test kills a process, to see that another process continues its work.

In production `reached` calls an empty function. `lmdbresults.testing.die_at` sets a point.
"""

from collections.abc import Callable

__all__ = ["POINTS", "hook", "reached"]

#: In the order in which the ends of a task and of a chord reach them.
POINTS = (
    "task ends",  # all that its end writes is known, and nothing is written
    "task ended",  # the end is written, but the worker has not settled the message yet
    "part returns",  # nothing is stored yet
    "part stored",  # and it was not the last part
    "chord claimed",  # the last part is stored, together with the claim
    "values joined",
    "body sent",
    "chord ended",  # most parts of a large chord are not deleted yet
)


def _ignore(point: str) -> None:
    """Do nothing, as always outside of tests."""


#: Called at each point; tests replace it.
hook: Callable[[str], None] = _ignore


def reached(point: str) -> None:
    """Mark a fault point in the code."""
    hook(point)
