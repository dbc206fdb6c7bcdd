"""The receiving side of a connection: it takes messages for the channels, and settles them.

One transaction, a *turn*, does both. A queue that a turn has found empty is *followed*: a publisher then wakes one of
the connections that follow it. So a turn takes only from queues that are not followed, or that a publisher has named.

Invariant: no wake-up is lost. A queue is followed, then looked at again. A channel that may take no more messages stops
following, then passes on the wake-ups that have reached it meanwhile.
"""

import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from kombu.utils.compat import detect_environment

from lmdbresults.integrations.kombu.owners import OwnerWatch
from lmdbresults.process.fork_gate import gate
from lmdbresults.store import queues
from lmdbresults.store.lmdb.store import LMDBStore
from lmdbresults.store.queues import Delivery, Settlement, Taken

__all__ = ["LOOK_EVERY", "Receiver", "is_outstanding", "settled"]

#: Seconds after which all queues are looked at even without a wake-up, and owners that died are noticed.
LOOK_EVERY: Final = 1.0
#: Seconds between looks where no wake-ups can arrive.
_POLL_EVERY: Final = 0.05

#: Seconds, the least and the most, of a wait under gevent and eventlet while messages are unsettled.
_LEAST_PATIENCE: Final = 0.01
_MOST_PATIENCE: Final = 0.25
#: Messages that a channel without a prefetch limit takes at once in an event loop, which delivers all of them. Outside
#: one it takes one message at a time, and leaves the rest to other consumers.
_BATCH: Final = 100

#: Deliveries of this process that were settled inside a larger transaction.
_settled_elsewhere: Final[set[str]] = set()
#: What closed connections could not settle, because the store was busy, by path and prefix.
_left_behind: Final[dict[tuple[str, str], deque[Settlement]]] = {}
#: All receivers of this process.
_receivers: Final["weakref.WeakSet[Receiver]"] = weakref.WeakSet()


def settled(tag: str) -> None:
    """Note that the caller has settled a delivery in its own transaction, so that this process need not settle it."""
    if _is_unsettled(tag):
        _settled_elsewhere.add(tag)


def is_outstanding(tag: str) -> bool:
    """Return whether this process holds a delivery, and has not yet committed its settlement."""
    return _is_unsettled(tag) or any(
        tag == settlement[1] for receiver in list(_receivers) for settlement in list(receiver._pending)
    )


def _is_unsettled(tag: str) -> bool:
    return any(tag in channel.qos.unsettled for receiver in list(_receivers) for channel in list(receiver.opened))


def _is_settled(tag: str) -> bool:
    try:
        _settled_elsewhere.remove(tag)
    except KeyError:
        return False
    return True


class Receiver:
    """Takes messages for the channels of one connection. One thread takes; all threads may settle."""

    def __init__(self, store: LMDBStore, opened: list[Any]) -> None:
        self._store = store
        #: All channels of the connection, which adds and removes them.
        self.opened = opened
        self._queues = store.queues
        self._key = (store.options.path, store.options.global_keyprefix)
        self.subscription = store.subscribe()
        self.owners = OwnerWatch(store)
        self._reset()
        _receivers.add(self)
        gate.watch_forks(self)

    def _reset(self) -> None:
        #: The channels that consume, the latest first: that of remote control comes before that of tasks.
        self.channels: list[Any] = []
        #: Messages that were taken and are not delivered yet.
        self._taken: deque[tuple[Any, Delivery]] = deque()
        #: What the next turn settles.
        self._pending: deque[Settlement] = deque()
        self._followed: set[str] = set()
        self._follows_owners = False
        #: Followed queues that must be looked at. None: all of them.
        self._woken: set[str] | None = set()
        #: Whether a publisher has named a queue since the last turn.
        self._is_named = False
        #: Whether a turn may find something to do.
        self.is_due = False
        self._look_at = 0.0
        self._first = 0
        #: When the next delayed message is due, by the clock of the store.
        self.next_due: float | None = None
        #: The thread in which settling waits for the next turn; None: it never does.
        self._deferring_thread: int | None = None
        #: How many messages a channel without a limit takes at once.
        self._batch = 1
        self._is_delivering = False
        self._is_green = detect_environment() != "default"
        self._patience = _LEAST_PATIENCE

    def after_fork_in_child(self) -> None:
        """Leave all deliveries to the parent."""
        for channel in self.opened:
            channel.forget()
        self.owners.forget()
        self._reset()

    # -- channels ----------------------------------------------------------------------------------------------------

    def changed(self, channel: Any) -> None:
        """Take note that a channel consumes from other queues than before, or may take more messages."""
        if channel.consumers and channel not in self.channels:
            self._pending.extend(_left_behind.pop(self._key, ()))
            if not self._follows_owners:
                self._follows_owners = True
                self.subscription.add([queues.OWNERS_TOPIC])
                self.owners.refresh()
            self.channels.insert(0, channel)
        elif not channel.consumers and channel in self.channels:
            self.channels.remove(channel)
            self._return_taken(channel)
        self._stop_following(self._followed - self._wanted())
        self.wake()

    def _wanted(self) -> set[str]:
        """Return the queues of the channels that may take messages."""
        return {queue for channel in self.channels if channel.qos.can_consume() for queue in channel.queues()}

    def _return_taken(self, channel: Any) -> None:
        """Return to their queues what a channel has not delivered yet."""
        kept = [pair for pair in self._taken if pair[0] is not channel]
        tags = [delivery.tag for of, delivery in self._taken if of is channel and delivery.tag]
        self._taken = deque(kept)
        channel.give_back(tags)

    def wake(self) -> None:
        """Make the taking thread do a turn. May be called in any thread."""
        self.is_due = True
        if threading.get_ident() != self._deferring_thread:
            self.subscription.ring()

    def defer_in(self, thread: int | None) -> None:
        """Let settlements in the event loop of a thread wait for the next turn, which comes before the loop sleeps."""
        self._deferring_thread = thread
        self._batch = 1 if thread is None else _BATCH

    # -- settling ----------------------------------------------------------------------------------------------------

    def settle(self, settlements: Iterable[Settlement], *, now: bool = False) -> None:
        """Settle deliveries, in an event loop with its next turn, else in a transaction of their own.

        Each round of an event loop ends with a turn. While a message is delivered they do not wait for it, because a
        pool without processes runs the task meanwhile. ``now``: they never wait. If the transaction fails, the next
        turn tries again: no other process may settle them.
        """
        wanted = [settlement for settlement in settlements if not _is_settled(settlement[1])]
        self.is_due = True
        self._patience = _LEAST_PATIENCE
        if self._must_commit(now):
            try:
                if wanted:
                    self._queues.turn(wanted, ())
            except BaseException:
                self._pending.extend(wanted)
                raise
        else:
            self._pending.extend(wanted)

    def _must_commit(self, now: bool) -> bool:
        is_deferring = threading.get_ident() == self._deferring_thread and not self._is_delivering
        return now or not is_deferring or not self.channels

    # -- turns -------------------------------------------------------------------------------------------------------

    def notice(self) -> None:
        """Read the messages of publishers that have arrived."""
        changed = self.subscription.drain()
        if changed is None:
            self._woken = None
        elif self._woken is not None:
            named = {queue for queue in self._followed if queues.topic(queue) in changed}
            self._is_named |= bool(named)
            self._woken |= named
        if changed is None or queues.OWNERS_TOPIC in changed:
            self.owners.refresh()
        self.is_due = True

    def look_again(self) -> None:
        """Have the next turn look at all queues, and return what dead owners hold."""
        self._look_at = time.monotonic() + LOOK_EVERY
        self.owners.recover()
        self._woken = None
        self.is_due = True

    def turn(self) -> None:
        """Settle what is pending, and take what the channels may take. Repeat it until `is_due` is False."""
        self.is_due = False
        woken, self._woken = self._woken, set()
        is_named, self._is_named = self._is_named, False
        asking, wants = [], []
        for channel in self.channels:
            wanted = [queue for queue in channel.queues() if self._must_look_at(queue, woken)]
            limit = channel.qos.limit(self._batch)
            if wanted and limit:
                asking.append((channel, limit, wanted))
                wants.append((self._rotated(wanted, limit), limit))
            elif self._woken is not None:
                self._woken.update(wanted)  # another thread may settle a message before this turn ends
        settlements = self._take_pending()
        if not wants and not settlements:
            return
        try:
            found = self._queues.turn(settlements, wants, self._settled(), is_woken=is_named)
        except BaseException:
            self._pending.extendleft(reversed(settlements))
            self._woken = None
            raise
        for (channel, limit, wanted), taken in zip(asking, found, strict=True):
            self._receive(channel, limit, wanted, taken)
        self._stop_following(self._followed - self._wanted())

    def _settled(self) -> set[str]:
        """Return the queues of which no consumer acknowledges messages."""
        consumers = [consumer for channel in self.channels for consumer in channel.consumers.values()]
        acknowledging = {consumer.queue for consumer in consumers if not consumer.no_ack}
        return {consumer.queue for consumer in consumers if consumer.no_ack} - acknowledging

    def _must_look_at(self, queue: str, woken: set[str] | None) -> bool:
        return woken is None or queue in woken or queue not in self._followed

    def _rotated(self, wanted: list[str], limit: int) -> list[str]:
        """Return the queues, starting with another one each time if the limit is below their number."""
        if limit >= len(wanted):
            return wanted
        self._first += 1
        first = self._first % len(wanted)
        return wanted[first:] + wanted[:first]

    def _receive(self, channel: Any, limit: int, wanted: list[str], taken: Taken) -> None:
        """Keep what was taken for a channel, and follow its queues if they are empty."""
        for delivery in taken.deliveries:
            if delivery.tag:
                channel.qos.unsettled[delivery.tag] = None
            self._taken.append((channel, delivery))
        if taken.next_due is not None:
            self.next_due = taken.next_due if self.next_due is None else min(taken.next_due, self.next_due)
        look_again = set(wanted)  # if there may be more
        if len(taken.deliveries) < limit:
            look_again -= self._followed
            if look_again:
                self._followed |= look_again
                self.subscription.add([queues.topic(queue) for queue in look_again])
        if look_again:
            self.is_due = True
            if self._woken is not None:
                self._woken |= look_again

    def _stop_following(self, left: set[str]) -> None:
        if left:
            self._followed -= left
            self.subscription.remove([queues.topic(queue) for queue in left])
            self.notice()

    # -- delivering --------------------------------------------------------------------------------------------------

    @property
    def has_taken(self) -> bool:
        """Whether there are messages to deliver."""
        return bool(self._taken)

    def deliver(self) -> bool:
        """Deliver one message that was taken; return False if there is none."""
        if not self._taken:
            return False
        channel, delivery = self._taken.popleft()
        self._patience = _LEAST_PATIENCE
        was_delivering, self._is_delivering = self._is_delivering, True
        try:
            channel.deliver(delivery)
        finally:
            self._is_delivering = was_delivering
        return True

    def wait(self, deadline: float | None) -> None:
        """Deliver one message as soon as there is one. Raises TimeoutError at the deadline, a monotonic time.

        Under gevent and eventlet, Celery's worker acknowledges between its waits. So a wait ends sooner while messages
        are unsettled: after 10 ms at first, and after ever longer times while nothing happens.
        """
        if deadline is not None and self._is_green and any(channel.qos.unsettled for channel in self.channels):
            deadline = min(deadline, time.monotonic() + self._patience)
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        while not self.deliver():
            if time.monotonic() >= self._look_at:
                self.look_again()
            self.notice()
            while self.is_due and not self._taken:
                self.turn()
            if self._taken:
                continue
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise TimeoutError("timed out")
            until = self._look_at if deadline is None else min(self._look_at, deadline)
            self._sleep(max(min(until - now, self.seconds_until_due()), 0))

    def seconds_until_due(self) -> float:
        """Return the seconds until a delayed message is due. Once it is, the next turn looks at all queues."""
        if self.next_due is None:
            return LOOK_EVERY
        seconds = self.next_due - time.time()
        if seconds > 0:
            return seconds
        self.look_at_all()
        return 0.0

    def look_at_all(self) -> None:
        """Have the next turn look at all queues: a delayed message is due."""
        self.next_due, self._woken, self.is_due = None, None, True

    def _sleep(self, seconds: float) -> None:
        """Sleep until a message arrives or an owner of messages dies."""
        arrival = self.subscription.fileno()
        if arrival < 0:
            time.sleep(min(seconds, _POLL_EVERY))
            self._woken = None
            return
        if any(descriptor != arrival for descriptor in _readable([arrival, *self.owners.descriptors()], seconds)):
            self.look_again()

    def settle_pending(self) -> None:
        """Settle what waits for the next turn."""
        if pending := self._take_pending():
            self.settle(pending, now=True)

    def _take_pending(self) -> list[Settlement]:
        """Return what is pending, which other threads may add to meanwhile, and forget it."""
        return [self._pending.popleft() for _ in range(len(self._pending))]

    def stop(self) -> None:
        """Follow and watch nothing any more. What is still pending, the next connection that consumes settles."""
        if self._pending:
            _left_behind.setdefault(self._key, deque()).extend(self._pending)
            self._pending.clear()
        self.subscription.close()
        self.owners.close()


def _readable(descriptors: list[int], seconds: float) -> list[int]:
    """Return which descriptors are readable, after up to so many seconds. gevent and eventlet run others meanwhile."""
    if not hasattr(select, "poll"):  # eventlet removes it
        return select.select(descriptors, [], [], seconds)[0]
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(seconds * 1000)]
