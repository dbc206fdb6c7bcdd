"""Waiting for two stores at once."""

import select
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

from lmdbresults.process.fork_gate import gate
from lmdbresults.store.base import Subscription

__all__ = ["FallbackSubscription"]


class FallbackSubscription(Subscription):
    """Subscriptions to a new and to an old store, as one."""

    def __init__(self, new: Subscription, old: Subscription) -> None:
        self._new = new
        self._old = old
        self._reset()
        gate.watch_forks(self)

    def _reset(self) -> None:
        #: Readable when one of the two is; None where there is no such thing, as under gevent.
        self._both: Any = select.epoll() if hasattr(select, "epoll") else None
        self._watched: tuple[int, ...] = ()

    def after_fork_in_child(self) -> None:
        """Leave what the parent watches to the parent: it would share every change."""
        self._reset()

    def add(self, keys: Iterable[bytes], *, every_change: bool = False) -> dict[bytes, bytes | None]:
        wanted = list(keys)
        values = self._old.add(wanted, every_change=every_change)
        newer = self._new.add(wanted, every_change=every_change)
        return {**values, **{key: value for key, value in newer.items() if value is not None}}

    def follow(self, keys: Collection[bytes], *, every_change: bool = False) -> None:
        self._old.follow(keys, every_change=every_change)
        self._new.follow(keys, every_change=every_change)

    def remove(self, keys: Iterable[bytes]) -> None:
        unneeded = list(keys)
        self._old.remove(unneeded)
        self._new.remove(unneeded)

    def receive(self, timeout: float) -> Mapping[bytes, bytes | None] | None:
        self._wait(timeout)
        older, newer = self._old.receive(0), self._new.receive(0)
        return None if older is None or newer is None else {**older, **newer}

    def _wait(self, timeout: float) -> None:
        """Wait until one of the two has something; by `poll`, which greenlets can replace."""
        files = self._files()
        if not files:
            time.sleep(min(timeout, 0.05))
            return
        poll = select.poll()
        for file in files:
            poll.register(file, select.POLLIN)
        poll.poll(timeout * 1000)

    def _files(self) -> tuple[int, ...]:
        return tuple(file for file in (self._old.fileno(), self._new.fileno()) if file >= 0)

    def fileno(self) -> int:
        files = self._files()
        if len(files) < 2:  # from one of the two no messages can arrive, so it must be polled
            return -1
        if self._both is None:
            return files[0]
        if files != self._watched:
            for file in self._watched:
                with suppress(OSError):  # it was closed, which has unregistered it
                    self._both.unregister(file)
            for file in files:
                self._both.register(file, select.EPOLLIN)
            self._watched = files
        return int(self._both.fileno())

    def ring(self) -> None:
        self._old.ring()
        self._new.ring()

    def close(self) -> None:
        self._old.close()
        self._new.close()
        if self._both is not None:
            self._both.close()
