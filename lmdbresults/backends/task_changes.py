"""News of tasks: what a listener hears of keys, told by the ids of tasks."""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial

from lmdbresults import states
from lmdbresults.record import TaskRecord
from lmdbresults.store.subscriptions import Listener

__all__ = ["News", "is_pending"]


class News:
    """Waits for news of tasks. ``pending`` has the ids that are waited for, and may lose some meanwhile."""

    def __init__(
        self,
        listener: Listener,
        key_of: Callable[[str], bytes],
        pending: Mapping[str, object],
        every_change: bool = False,
        ready_states: frozenset[str] = states.READY_STATES,
    ) -> None:
        self._listener = listener
        self._key_of = key_of
        self._pending = pending
        self._every_change = every_change
        self._is_pending = is_pending if ready_states == states.READY_STATES else partial(_is_outside, ready_states)
        #: Keys for which there may be no registration (any more); None: all.
        self._unheard: Collection[bytes] | None = None

    @cached_property
    def _ids(self) -> dict[bytes, str]:
        """Ids by key; made when it is waited for the first time, as a look that finds everything does without."""
        return {self._key_of(id_): id_ for id_ in self._pending}

    def wait(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> Collection[str] | None:
        """Return the ids of tasks that may have changed, at the latest after so many seconds; None: any may have.

        Ends early when ``is_over()``, see `Listener.wait`.
        """
        self.listen()
        changed: Collection[bytes] | None = self._unheard or self._listener.wait(seconds, is_over)
        self._unheard = changed
        return None if changed is None else [self._ids[key] for key in changed]

    def listen(self) -> None:
        """Have news come from now on, as `wait` would. Whoever is to miss no change does so before the first look."""
        keys = self._ids if self._unheard is None else self._unheard
        unheard = [key for key in keys if self._ids[key] in self._pending]
        self._unheard = self._listener.listen(unheard, self._is_pending, every_change=self._every_change)


def is_pending(record: bytes | None) -> bool:
    """Return whether the record of a task says that it has not ended, or there is none."""
    return _is_outside(states.READY_STATES, record)


def _is_outside(ready_states: frozenset[str], record: bytes | None) -> bool:
    return record is None or TaskRecord.unpack(record).state not in ready_states
