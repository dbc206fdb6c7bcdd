"""Watching one task: its meta at every change of state, for threads and coroutines alike."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from lmdbresults import states
from lmdbresults.backends.encoding import Meta
from lmdbresults.backends.waiting import Deadline

if TYPE_CHECKING:
    from lmdbresults.backends.asynchronous import AsyncWaiting

__all__ = ["Watch"]


class Watch(Iterator[Meta], AsyncIterator[Meta]):
    """Yields the meta of a task as it is, if anything is known, then whenever it has changed, until it has ended.

    For ``for`` and for ``async for``. Of changes that come at once the last one is yielded. Raises `ResultTimeout` when
    time is up, which begins with the first step.
    """

    def __init__(self, backend: "AsyncWaiting", task_id: str, timeout: float | None) -> None:
        self._backend = backend
        self._id = task_id
        self._timeout = timeout
        self._deadline: Deadline | None = None
        what = f"task {task_id}"
        self._looks = backend._looks({task_id: None}, timeout, backend.look_interval, None, what, every_change=True)
        self._last = ""
        self._has_ended = False

    def __next__(self) -> Meta:
        try:
            for _ in self._looks:
                meta = self._backend._first_look_for([self._id], None).get(self._id)
                if meta is not None and self._is_news(meta):
                    return meta
        except BaseException:
            self.close()
            raise
        raise StopIteration

    async def __anext__(self) -> Meta:
        if not self._has_ended:
            self._deadline = self._deadline or Deadline(self._timeout, f"task {self._id}")
            # Between two steps nothing is registered. If the next one follows at once, nothing has been taken back yet.
            with self._backend._follow([self._id], self._deadline, every_change=True) as follower:
                async for _, meta in follower:
                    if self._is_news(meta):
                        return meta
        raise StopAsyncIteration

    def _is_news(self, meta: Meta) -> bool:
        last, self._last = self._last, repr(meta)  # exceptions are equal to themselves only
        if meta["status"] in states.READY_STATES:
            self.close()
        return last != self._last

    def close(self) -> None:
        """Stop watching. So does dropping the last reference, as ``break`` does in a loop over `watch` itself."""
        self._has_ended = True
        self._looks.close()
