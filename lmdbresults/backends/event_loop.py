"""Desks: where the coroutines of an event loop wait, and which looks for all of them at once.

A desk has one subscription, hence one socket, and no thread. What coroutines begin and cease to wait for within one
turn of the loop is added and removed together, in the thread of the loop.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from lmdbresults import states
from lmdbresults.backends.encoding import Meta
from lmdbresults.backends.task_changes import is_pending
from lmdbresults.errors import StoreClosed
from lmdbresults.process.fork_gate import gate

if TYPE_CHECKING:
    from lmdbresults.backends.asynchronous import AsyncWaiting, Follower
    from lmdbresults.backends.store import StoreBackend

__all__ = ["Desk", "Desks", "StoreDesk"]

Item = TypeVar("Item")

#: Seconds between two looks where no messages can arrive: at first, and at most.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
#: Looking again in case that a message was lost may take this part of the time.
_SHARE_OF_LOOKING: Final = 0.005
#: Registrations made, and taken back, in one turn of the loop: a few milliseconds.
_BATCH: Final = 500


class Desk:
    """Where the coroutines of one event loop wait. This one looks every so often, where no messages can arrive."""

    def __init__(self, backend: "AsyncWaiting", loop: asyncio.AbstractEventLoop) -> None:
        self._backend = backend
        self.loop = loop
        #: Who follows a task, by its id. Somebody does.
        self._followers: dict[str, set[Follower]] = {}
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: How long to wait until the next look, and how soon there may be one.
        self._pause = _FIRST_PAUSE
        self._look_again_at = -math.inf

    # -- followers -------------------------------------------------------------------------------------------------

    def add(self, follower: "Follower", ids: Iterable[str]) -> None:
        """Tell a follower of tasks from now on."""
        self._pause = _FIRST_PAUSE
        for id_ in ids:
            self._followers.setdefault(id_, set()).add(follower)
        self._listen(ids)

    def remove(self, follower: "Follower", ids: Iterable[str]) -> None:
        """Tell a follower nothing more about tasks."""
        for id_ in ids:
            those = self._followers.get(id_)
            if those is not None:
                those.discard(follower)
                if not those:
                    self._drop(id_)

    def _listen(self, ids: Iterable[str]) -> None:
        """Have the change of tasks noticed."""
        self._take_turn()

    def _drop(self, id_: str) -> None:
        del self._followers[id_]
        self._take_turn()

    def _wants_every_change(self, id_: str) -> bool:
        return any(follower.every_change for follower in self._followers[id_])

    # -- turns -----------------------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        """Call `_work` once for all that coroutines ask for in this turn of the loop."""
        if self.loop.is_closed():  # in the midst of waiting, and now a coroutine is thrown away
            if not self._followers:
                self.close()
        elif self._turn is None:
            self._turn = self.loop.call_soon(self._have_turn)

    def _have_turn(self) -> None:
        self._turn = None
        self._work()
        if not self._followers:
            self.close()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._next_pause(), self._tick)

    def _work(self) -> None:
        """Do what was asked for."""

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self._next_pause(), self._tick)
        started = time.monotonic()
        try:
            self._backend._while_waiting()
            if started >= self._look_again_at and self._has_to_look():
                self._look(list(self._followers))
                self._look_again_at = time.monotonic() + (time.monotonic() - started) / _SHARE_OF_LOOKING
        except Exception as error:
            self._fail(self._followers, error)

    def _next_pause(self) -> float:
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return pause

    # -- looking ---------------------------------------------------------------------------------------------------

    def _has_to_look(self) -> bool:
        return True

    def _look(self, ids: Sequence[str]) -> None:
        """See what has become of tasks, and tell those who follow them."""
        every, others = _parted(ids, self._wants_every_change)
        for id_, meta in {**self._found(every, None), **self._found(others, states.READY_STATES)}.items():
            is_ready = meta["status"] in states.READY_STATES
            for follower in self._followers[id_]:
                if is_ready or follower.every_change:
                    follower.tell(id_, meta)
            if is_ready:
                self._drop(id_)

    def _found(self, ids: list[str], wanted: frozenset[str] | None) -> Mapping[str, Meta]:
        try:
            return self._backend._look_for(ids, wanted) if ids else {}
        except Exception as error:
            if len(ids) > 1:  # a record that is damaged is nothing to those who wait for others
                return {id_: meta for one in ids for id_, meta in self._found([one], wanted).items()}
            self._fail(ids, error)
            return {}

    def _fail(self, ids: Iterable[str], failure: Exception) -> None:
        for id_ in ids:
            for follower in self._followers[id_]:
                follower.fail(failure)

    # -- the end ---------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Have everybody who waits raise `StoreClosed`. For the thread of the loop."""
        self._fail(self._followers, StoreClosed("The backend was closed while a result was waited for."))
        self.close()

    def close(self) -> None:
        """Leave nothing in the loop. Whoever comes next finds another desk."""
        self._followers.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._backend._desks.remove(self)


class StoreDesk(Desk):
    """A desk that gets messages, by a subscription of its own. It looks where it is told to, and seldom elsewhere."""

    def __init__(self, backend: "StoreBackend", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(backend, loop)
        self._store = backend.store
        self._key_of = backend.get_key_for_task
        self._subscription = self._store.subscribe()
        #: What the loop reads; -1 if there is nothing.
        self._descriptor = -1
        #: The ids that are followed, by key.
        self._ids: dict[bytes, str] = {}
        #: Keys to register, and to take back, in the next turn.
        self._unheard: dict[bytes, None] = {}
        self._unneeded: dict[bytes, None] = {}
        #: The moment before the last look at everything.
        self._moment = -1

    def _listen(self, ids: Iterable[str]) -> None:
        keys = {self._key_of(id_): id_ for id_ in ids}
        self._ids.update(keys)
        self._unheard.update(dict.fromkeys(keys))
        if keys:  # or every turn would ask for the next one
            self._take_turn()

    def _drop(self, id_: str) -> None:
        super()._drop(id_)
        key = self._key_of(id_)
        self._ids.pop(key, None)
        self._unneeded[key] = None

    def _work(self) -> None:
        unneeded = [key for key in _taken(self._unneeded) if key not in self._ids]
        unheard = [key for key in _taken(self._unheard) if key in self._ids]
        with suppress(StoreClosed):
            self._subscription.remove(unneeded)
        every, others = _parted(unheard, lambda key: self._wants_every_change(self._ids[key]))
        ready = [*self._register(every, every_change=True), *self._register(others, every_change=False)]
        self._attend()
        # What is no end may also have come between the last look and the registration, which was made nevertheless.
        self._look_again({**dict.fromkeys(every), **dict.fromkeys(ready)}, unheard=ready)
        if self._unheard or self._unneeded:
            self._take_turn()

    def _register(self, keys: list[bytes], *, every_change: bool) -> list[bytes]:
        """Register keys; return those that are not pending."""
        try:
            values = self._subscription.add(keys, every_change=every_change) if keys else {}
            return [key for key, value in values.items() if not is_pending(value)]
        except Exception as error:
            if len(keys) > 1:  # as in `_found`
                return [ready for key in keys for ready in self._register([key], every_change=every_change)]
            self._fail([self._ids[key] for key in keys], error)
            return []

    def _attend(self) -> None:
        """Read the subscription, which has a socket once there was something to wait for."""
        descriptor = self._subscription.fileno()
        if descriptor != self._descriptor:
            self._turn_away()
            if descriptor >= 0:
                self.loop.add_reader(descriptor, self._read)
            self._descriptor = descriptor

    def _turn_away(self) -> None:
        if self._descriptor >= 0:
            self.loop.remove_reader(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        changed = self._subscription.drain()
        keys = list(self._ids) if changed is None else [key for key in changed if key in self._ids]
        self._look_again(keys, unheard=keys)

    def _look_again(self, keys: Iterable[bytes], unheard: Iterable[bytes]) -> None:
        """Look for tasks, and listen again to those of the unheard ones that have not ended."""
        self._look([self._ids[key] for key in keys])
        self._listen([self._ids[key] for key in unheard if key in self._ids])

    def _has_to_look(self) -> bool:
        before, moment = self._moment, self._store.moment()
        self._moment = moment or 0
        return moment is None or moment != before

    def _next_pause(self) -> float:
        return super()._next_pause() if self._descriptor < 0 else self._backend.look_interval

    def close(self) -> None:
        super().close()
        self._turn_away()
        self._ids.clear()
        self._subscription.close()


def _parted(items: Iterable[Item], test: Callable[[Item], bool]) -> tuple[list[Item], list[Item]]:
    """Return the items that pass a test, and the others."""
    passed: list[Item] = []
    others: list[Item] = []
    for item in items:
        (passed if test(item) else others).append(item)
    return passed, others


def _taken(keys: dict[bytes, None]) -> list[bytes]:
    """Take a batch of keys out of those that are left to do."""
    return [keys.popitem()[0] for _ in range(min(len(keys), _BATCH))]


class Desks:
    """The desks of a backend, by event loop. A child begins without: the loops are the parent's."""

    def __init__(self) -> None:
        self._desks: dict[asyncio.AbstractEventLoop, Desk] = {}
        gate.watch_forks(self)

    def before_fork(self) -> None:
        """Nothing to do: the desks stay the parent's."""

    def after_fork_in_child(self) -> None:
        """Forget who waits in the parent."""
        self._desks = {}

    def of(self, loop: asyncio.AbstractEventLoop, make: Callable[[asyncio.AbstractEventLoop], Desk]) -> Desk:
        """Return the desk of a loop. Clears away what others have left that were closed in the midst of waiting."""
        desk = self._desks.get(loop)
        if desk is None:
            for other in list(self._desks.values()):
                if other.loop.is_closed():
                    other.close()
            desk = self._desks[loop] = make(loop)
        return desk

    def remove(self, desk: Desk) -> None:
        """Drop a desk."""
        if self._desks.get(desk.loop) is desk:
            del self._desks[desk.loop]

    def close(self) -> None:
        """Have whoever waits give up, in whichever thread."""
        for desk in list(self._desks.values()):
            if asyncio._get_running_loop() is desk.loop:
                desk.give_up()
            elif desk.loop.is_closed():
                desk.close()
            else:
                with suppress(RuntimeError):  # it was closed in this moment
                    desk.loop.call_soon_threadsafe(desk.give_up)
