"""A connection in kombu's event loop. Celery's worker runs one, unless its pool is gevent or eventlet."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from lmdbresults.integrations.kombu.receiver import LOOK_EVERY, Receiver

__all__ = ["LoopDriver"]

#: Seconds for which one round of the loop delivers. With the solo pool, delivering a message runs its task.
_ROUND: Final = 0.02


class _FirstCallback:
    """Calls a function. In a set of callbacks it is the first, if it was added first: its place is the first of all."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return self is other

    def __call__(self) -> None:
        self._function()


class LoopDriver:
    """Makes the turns of a receiver at the tick of a loop, after all that was settled or arrived in a round.

    A round of the loop handles what was called for and timers, then ticks, then it sleeps. At the tick, a pool prepares
    to send to its processes. Ticks are in a set: if this one is not the first of them, or if Celery has called for an
    acknowledgement in the next round, the loop is kept awake after a delivery. It is also kept awake if a tick has
    started a timer that is the next one, such as that of a task with an ETA: how long the loop sleeps was decided
    before the tick.
    """

    def __init__(self, receiver: Receiver, loop: Any) -> None:
        self._receiver = receiver
        self._loop = loop
        self._arrival = -1
        self._due_timer: Any = None
        self._due = 0.0
        self._is_closed = False
        receiver.defer_in(threading.get_ident())
        receiver.owners.on_open = self._watch_owner
        receiver.owners.on_close = loop.remove_reader
        self._on_tick = _FirstCallback(self._tick)
        loop.on_tick.add(self._on_tick)
        self._timer = loop.call_repeatedly(LOOK_EVERY, receiver.look_again)
        receiver.look_again()

    def _watch_owner(self, descriptor: int) -> None:
        self._loop.add_reader(descriptor, self._receiver.look_again)

    def _tick(self) -> None:
        """Make turns and deliver, until there is nothing more to do or the time of a round is over."""
        receiver = self._receiver
        if not receiver.is_due or self._is_closed:
            return
        until, has_delivered, timer = time.monotonic() + _ROUND, False, self._next_timer()
        while receiver.is_due and not self._is_closed:
            receiver.turn()
            while receiver.has_taken and not self._is_closed:
                has_delivered |= receiver.deliver()
                if time.monotonic() >= until:
                    break
            else:
                continue
            break
        if self._is_closed:  # by a message, such as that of a shutdown
            return
        is_first = next(iter(self._loop.on_tick)) is self._on_tick
        if receiver.has_taken or (has_delivered and (self._loop._ready or not is_first)):
            receiver.is_due = True
        self._wait_for_arrivals()
        self._wait_for_due()
        if receiver.is_due or self._next_timer() is not timer:
            receiver.subscription.ring()

    def _next_timer(self) -> Any:
        return self._loop.timer._queue[0] if self._loop.timer._queue else None

    def _wait_for_arrivals(self) -> None:
        """Have the loop watch the descriptor of the subscription, which may have changed."""
        arrival = self._receiver.subscription.fileno()
        if arrival == self._arrival and (arrival < 0 or arrival in self._loop.readers):
            return
        if self._arrival >= 0:
            self._loop.remove_reader(self._arrival)
        if arrival >= 0:
            self._loop.add_reader(arrival, self._receiver.notice)
        self._arrival = arrival

    def _wait_for_due(self) -> None:
        """Have the loop wake when the next delayed message is due."""
        due = self._receiver.next_due
        if due is None or (self._due_timer is not None and self._due == due):
            return
        if self._due_timer is not None:
            self._due_timer.cancel()
        self._due = due
        self._due_timer = self._loop.call_later(max(self._receiver.seconds_until_due(), 0), self._on_due)

    def _on_due(self) -> None:
        self._due_timer = None
        self._receiver.look_at_all()

    def close(self) -> None:
        """Leave the loop."""
        self._is_closed = True
        self._receiver.defer_in(None)
        self._loop.on_tick.discard(self._on_tick)
        self._timer.cancel()
        if self._due_timer is not None:
            self._due_timer.cancel()
        if self._arrival >= 0:
            self._loop.remove_reader(self._arrival)
