"""Waiting in coroutines: those of one event loop share one subscription, whose socket the loop watches.

So there is no thread, and one socket for each loop. Everything here is called by the thread of the loop, unless its
docstring says otherwise. asyncio is imported when a coroutine waits, so that other programs do not pay for it.
"""

import math
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from lmdbresults.process.fork_gate import gate
from lmdbresults.store import following
from lmdbresults.store.following import Follower, Hub, Source, Values, Wait, closed_while_waiting

if TYPE_CHECKING:
    import asyncio

__all__ = ["LoopHub", "LoopHubs", "LoopWait"]


class LoopWait(Wait):
    """The wait of one coroutine, for an ``async for`` loop."""

    _hub: "LoopHub"
    _awake: "asyncio.Future[None] | None" = None

    def __init__(
        self, hub: "LoopHub", keys: Collection[bytes], until: float = math.inf, *, every_change: bool = False
    ) -> None:
        super().__init__(hub, keys, until, every_change, math.inf, None)

    def __aiter__(self) -> "LoopWait":
        return self

    async def __anext__(self) -> Values:
        if self._keys is not None:
            return self._begin(self._keys)
        if self._has_ended:
            raise StopAsyncIteration
        await self._hub.wait(self, self._next_look())
        return self._take()

    async def sleep(self, loop: "asyncio.AbstractEventLoop", until: float) -> None:
        """Sleep until `wake`, or until a time by the monotonic clock."""
        self._awake = loop.create_future()
        timer = loop.call_later(until - time.monotonic(), self.wake) if until < math.inf else None
        try:
            await self._awake
        finally:
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        if self._awake is not None and not self._awake.done():
            self._awake.set_result(None)


class LoopHub(Hub):
    """The waiting coroutines of one event loop. It closes itself at the end of a turn in which the last one leaves."""

    def __init__(
        self,
        store: Source,
        chores: Callable[[], object],
        loop: "asyncio.AbstractEventLoop",
        on_close: Callable[["LoopHub"], object],
    ) -> None:
        super().__init__(store, chores)
        self.loop = loop
        self._on_close = on_close
        #: What the loop watches; -1 for nothing.
        self._descriptor = -1
        self._timer = loop.call_later(following.FIRST_PAUSE, self._tick)
        loop.call_soon(self._close_if_idle)
        self._next_chores = 0.0
        #: What made it impossible to go on.
        self._failure: Exception | None = None

    def follow(self, follower: Follower, keys: Collection[bytes]) -> Values:
        values = super().follow(follower, keys)
        self._watch(self.subscription.fileno())
        return values

    def unfollow(self, follower: Follower, keys: Collection[bytes]) -> None:
        super().unfollow(follower, keys)
        if not self._followers:
            if self.loop.is_closed():  # and now a coroutine is thrown away that was waiting
                self.close()
            else:
                self.loop.call_soon(self._close_if_idle)

    async def wait(self, waiter: LoopWait, until: float) -> None:
        """Sleep until a waiter has news, or ``until``. Raises `StoreClosed` once the hub is closed."""
        if not waiter.news and not self._is_closed:
            await waiter.sleep(self.loop, until)
        if self._failure is not None:
            raise self._failure
        if self._is_closed:
            raise closed_while_waiting()

    # -- called by the loop ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._guard(lambda: self._take(self.subscription.receive(0)))

    def _tick(self) -> None:
        self._timer = self.loop.call_later(max(self._look_at - time.monotonic(), 0.001), self._tick)
        self._guard(self._do_chores)
        self._guard(lambda: self._take({}))

    def _do_chores(self) -> None:
        if time.monotonic() >= self._next_chores:
            self._next_chores = time.monotonic() + following.CHORES_EVERY
            self._chores()

    def _guard(self, step: Callable[[], object]) -> None:
        """Let every coroutine that waits raise what a step raises."""
        try:
            step()
        except Exception as failure:
            self._failure = failure
            self.close()

    def _close_if_idle(self) -> None:
        if not self._followers:
            self.close()

    def _watch(self, descriptor: int) -> None:
        """Let the loop watch the socket of the subscription, which is made when something is followed."""
        if descriptor != self._descriptor:
            if self._descriptor >= 0:
                self.loop.remove_reader(self._descriptor)
            if descriptor >= 0:
                self.loop.add_reader(descriptor, self._read)
            self._descriptor = descriptor

    def is_running_here(self) -> bool:
        """Return whether the present thread runs the loop."""
        import asyncio

        return asyncio._get_running_loop() is self.loop

    def close(self) -> None:
        """Close the subscription, and leave nothing in the loop; every wait raises `StoreClosed`."""
        self._is_closed = True
        self._on_close(self)
        self._timer.cancel()
        if not self.loop.is_closed():
            self._watch(-1)
            self._make_all_look()
        self.subscription.close()


class LoopHubs:
    """The hubs of the event loops of one process, made when a coroutine waits. A child begins without any."""

    def __init__(self) -> None:
        self._hubs: dict[asyncio.AbstractEventLoop, LoopHub] = {}
        gate.watch_forks(self)

    def after_fork_in_child(self) -> None:
        """Forget the coroutines of the parent."""
        self._hubs = {}

    def get(self, store: Source, chores: Callable[[], object]) -> LoopHub:
        """Return the hub of the running loop. Closes those of loops that were closed while a coroutine waited."""
        import asyncio

        loop = asyncio.get_running_loop()
        hub = self._hubs.get(loop)
        if hub is None:
            for other in list(self._hubs.values()):
                if other.loop.is_closed():
                    other.close()
            hub = self._hubs[loop] = LoopHub(store, chores, loop, self._remove)
        return hub

    def _remove(self, hub: LoopHub) -> None:
        if self._hubs.get(hub.loop) is hub:
            del self._hubs[hub.loop]

    def close(self) -> None:
        """Close all hubs. Any thread may call this."""
        for hub in list(self._hubs.values()):
            if hub.loop.is_closed() or hub.is_running_here():
                hub.close()
            else:
                with suppress(RuntimeError):  # the loop was closed just now
                    hub.loop.call_soon_threadsafe(hub.close)
