"""The end of a chord for a store that cannot count: a task that looks whether the header is ready."""

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from lmdbresults.app import Task
from lmdbresults.results import GroupResult

__all__ = ["NAME", "register", "signature"]

NAME: Final = "lmdbresults.chord_unlock"


class UnlockedChords(Protocol):
    """The part of `lmdbresults.backends.counted_chords.CountedChords` that the task uses."""

    def has_ended(self, group_id: str) -> bool: ...

    def finish(self, header: GroupResult, body: Any) -> None: ...


class UnlockingBackend(Protocol):
    """The part of a backend that the task uses."""

    app: Any
    expires: Any

    def group_from_tuple(self, tree: Any) -> GroupResult: ...


def register(
    chords: UnlockedChords, backend: UnlockingBackend, *, sleep: Callable[[float], object] = time.sleep
) -> None:
    """Register the task with the app of a backend, unless the app has it."""
    app = backend.app
    if NAME in app.tasks:
        return

    def unlock(header: Any, body: Any, countdown: float, until: float | None = None) -> None:
        group = backend.group_from_tuple(header)
        if chords.has_ended(group.id):
            return  # this look was delivered twice
        now = app.now().timestamp()
        if until is None and backend.expires:
            until = now + backend.expires
        if (until is not None and now >= until) or _is_ready(group):
            chords.finish(group, body)
        else:
            sleep(countdown)
            app.dispatch(signature(app, group, body, countdown, until))

    app.tasks[NAME] = Task(app, NAME, unlock, {})


def _is_ready(group: GroupResult) -> bool:
    try:
        return group.ready()
    except Exception:  # a result that cannot be read never becomes ready: finish() reports it
        return True


def signature(app: Any, header: GroupResult, body: Any, countdown: float, until: float | None = None) -> Any:
    """Return the signature of the task for one chord. It gives up at ``until``, or when a result would expire."""
    unlock = app.signature(NAME, (header.as_tuple(), dict(body), countdown, until))
    unlock.set(ignore_result=True)
    return unlock
