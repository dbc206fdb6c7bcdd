"""Waiting for any change of a store, by wake-ups of its writers."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

from lmdbresults.store.base import EVERY_COMMIT, Store

__all__ = ["Changes"]

#: Seconds after which to look whether a wake-up was lost, or where there are none.
_LOOK_EVERY: Final = 0.5


class Changes:
    """Says when a store has changed. A context manager, for one thread or one event loop.

    Leave some time between two waits: what changes meanwhile is said by the next one at once, and nothing is followed
    then, so writers send one message for each wait, whatever their rate.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscription = store.subscribe()
        self._moment = store.moment()

    def wait(self, timeout: float) -> bool:
        """Wait for up to ``timeout`` seconds; return whether the store has changed since the last wait."""
        until = time.monotonic() + timeout
        with self._followed():
            while not self._has_changed():
                left = until - time.monotonic()
                if left <= 0:
                    return False
                if self._subscription.fileno() >= 0:
                    self._subscription.receive(min(left, _LOOK_EVERY))
                else:
                    time.sleep(min(left, _LOOK_EVERY))
        return True

    async def next(self, timeout: float) -> bool:
        """Do `wait` in a coroutine: no thread waits meanwhile."""
        loop, until = asyncio.get_running_loop(), time.monotonic() + timeout
        with self._followed():
            while not self._has_changed():
                left = until - time.monotonic()
                if left <= 0:
                    return False
                await self._readable(loop, min(left, _LOOK_EVERY))
                self._subscription.drain()
        return True

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """Have writers send messages during the block; first of all look at what has changed before it."""
        self._subscription.follow([EVERY_COMMIT])
        try:
            yield
        finally:
            self._subscription.remove([EVERY_COMMIT])
            self._subscription.drain()

    async def _readable(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        descriptor = self._subscription.fileno()
        if descriptor < 0:
            await asyncio.sleep(timeout)
            return
        readable = asyncio.Event()
        loop.add_reader(descriptor, readable.set)
        try:
            await asyncio.wait_for(readable.wait(), timeout)
        except asyncio.TimeoutError:
            return
        finally:
            loop.remove_reader(descriptor)

    def _has_changed(self) -> bool:
        before, self._moment = self._moment, self._store.moment()
        return self._moment is None or before != self._moment

    def close(self) -> None:
        """Stop. Closing twice is harmless."""
        self._subscription.close()

    def __enter__(self) -> "Changes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
