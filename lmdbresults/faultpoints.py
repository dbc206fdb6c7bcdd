"""Fault points: the steps between which a test ends a process, to see that another one goes on.

In production nothing is set and passing one costs the call of an empty function. `lmdbresults.testing.die_at` sets one.
"""

from collections.abc import Callable

__all__ = ["POINTS", "passing", "reached"]

#: In the order in which the end of a chord passes them.
POINTS = (
    "part returns",  # nothing of it is stored yet
    "part stored",  # and it was not the last one
    "chord claimed",  # the last part is stored, and with it the claim
    "values joined",
    "body sent",
    "chord ended",  # and if it is large, most of its parts are left to delete
)


def _nothing(point: str) -> None:
    """Do nothing, as always but in tests."""


passing: Callable[[str], None] = _nothing


def reached(point: str) -> None:
    """Say that a fault point is reached."""
    passing(point)
