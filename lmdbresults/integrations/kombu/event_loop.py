"""A connection in kombu's event loop. Celery's worker runs one, unless its pool is gevent or eventlet."""

import threading
import time
from typing import Any, Final

from lmdbresults.integrations.kombu.receiver import LOOK_EVERY, Receiver

__all__ = ["LoopDriver"]

#: Seconds for which one round of the loop delivers. With the solo pool, delivering a message runs its task.
_ROUND: Final = 0.02


class LoopDriver:
    """Makes the turns of a receiver between the rounds of a loop in which something was settled or arrived.

    A round handles what was called for, then timers, then ticks, then it sleeps. At the tick, in no promised order, a
    pool prepares to send to its processes: a message that is delivered after that reaches its process after the sleep.
    So messages are delivered before. Celery acknowledges in the next round. Where something is left for the next round,
    the loop is kept awake.
    """

    def __init__(self, receiver: Receiver, loop: Any) -> None:
        self._receiver = receiver
        self._loop = loop
        self._is_scheduled = False
        self._arrival = -1
        self._due_timer: Any = None
        self._due = 0.0
        self._is_closed = False
        receiver.defer_in(threading.get_ident(), self._schedule)
        receiver.owners.on_open = self._watch_owner
        receiver.owners.on_close = loop.remove_reader
        loop.on_tick.add(self._tick)
        self._timer = loop.call_repeatedly(LOOK_EVERY, receiver.look_again)
        receiver.look_again()

    def _watch_owner(self, descriptor: int) -> None:
        self._loop.add_reader(descriptor, self._owner_died)

    def _owner_died(self) -> None:
        self._receiver.look_again()
        self._schedule()

    def _arrived(self) -> None:
        self._receiver.notice()
        self._schedule()

    def _schedule(self) -> None:
        """Have the turns made when the loop has handled all that it was woken for."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._make_turns)

    def _tick(self) -> None:
        """Make the turns that timers have called for."""
        if self._receiver.is_due and not self._is_closed and self._make_turns():
            self._receiver.subscription.ring()

    def _make_turns(self) -> bool:
        """Make turns and deliver, until there is nothing more to do or the time of a round is over.

        Return whether a message was delivered.
        """
        self._is_scheduled = has_delivered = False
        receiver, until = self._receiver, time.monotonic() + _ROUND
        while not self._is_closed and (receiver.is_due or receiver.has_taken):
            if time.monotonic() >= until:
                receiver.subscription.ring()  # the loop must not sleep, but do its other work
                receiver.is_due = True
                break
            if receiver.is_due:
                receiver.turn()
            has_delivered |= receiver.deliver()
        if has_delivered and self._loop._ready:  # acknowledgements of a pool that runs tasks as they are delivered
            receiver.subscription.ring()
        if not self._is_closed:  # by a message, such as that of a shutdown
            self._wait_for_arrivals()
            self._wait_for_due()
        return has_delivered

    def _wait_for_arrivals(self) -> None:
        """Have the loop watch the descriptor of the subscription, which may have changed."""
        arrival = self._receiver.subscription.fileno()
        if arrival == self._arrival and (arrival < 0 or arrival in self._loop.readers):
            return
        if self._arrival >= 0:
            self._loop.remove_reader(self._arrival)
        if arrival >= 0:
            self._loop.add_reader(arrival, self._arrived)
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
        self._receiver.defer_in(None, None)
        self._loop.on_tick.discard(self._tick)
        self._timer.cancel()
        if self._due_timer is not None:
            self._due_timer.cancel()
        if self._arrival >= 0:
            self._loop.remove_reader(self._arrival)
