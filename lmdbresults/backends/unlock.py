"""The end of a chord for a store that cannot count: a task that looks whether the header is ready."""

import time
from typing import TYPE_CHECKING, Any, Final

from lmdbresults.results import GroupResult

if TYPE_CHECKING:
    from lmdbresults.backends.keyvalue import KeyValueStoreBackend

__all__ = ["NAME", "register", "signature"]

NAME: Final = "lmdbresults.chord_unlock"


def register(backend: "KeyValueStoreBackend") -> None:
    """Give the app of a backend the task."""
    app = backend.app
    if NAME in app.tasks:
        return

    def unlock(header: Any, body: Any, countdown: float) -> None:
        group = backend.group_from_tuple(header)
        if group.ready():
            backend.finish_chord(group, body)
        else:
            time.sleep(countdown)
            app.dispatch(signature(app, group, body, countdown))

    app.task(unlock, name=NAME)


def signature(app: Any, header: GroupResult, body: Any, countdown: float) -> Any:
    """Return the signature of the task for one chord."""
    unlock = app.signature(NAME, (header.as_tuple(), dict(body), countdown))
    unlock.set(ignore_result=True)
    return unlock
