"""The store behind a page: opened when it is first asked for, and opened again once its file was replaced.

Reading blocks, so it happens in a few threads beside the event loop; what waits for one of them waits in the loop.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from lmdbresults.errors import AccessDenied, FileReplaced, FolderMissing, ResultError, StoreClosed
from lmdbresults.monitoring import Monitor
from lmdbresults.options import Options, options_from_url
from lmdbresults.store import LMDBStore, open_store
from lmdbresults.store.base import Store
from lmdbresults.store.fallback import FallbackStore
from lmdbresults.store.opening import is_on_server, open_as_it_is
from lmdbresults.store.redis import RedisStore

__all__ = ["Fresh", "Source"]

#: Threads that read the store. More would only wait for the interpreter lock.
_THREADS: Final = 3
#: The part of the time that computing one figure may take: after a second of work it is shown for 20.
_SHARE: Final = 0.05
#: Seconds for which a figure is shown at most, because it ages by itself.
_LONGEST: Final = 30.0
_SHORTEST: Final = 0.25
#: Seconds of work above which a visitor does not wait for a new figure, unless the last one is older than this.
_SLOW: Final = 0.05
_OLDEST: Final = 3600.0
#: Seconds for which an operation on a server is repeated, unless its URL says another time: a visitor waits for it.
_RETRY: Final = "retry_timeout", 3.0

Answer = TypeVar("Answer")


class Source:
    """The store at a path or URL, or one that the caller has opened and closes."""

    def __init__(self, store: str | os.PathLike[str] | Options | Store) -> None:
        if isinstance(store, str) and is_on_server(store):
            store = _on_server(store)
        self._given = Monitor(store) if isinstance(store, Store) else None
        self._options = None if isinstance(store, Store) else _options(store)
        #: What is shown, as a visitor knows it.
        self.name = _name(store) if self._options is None else self._options.path
        #: Guards the three below while the file is opened.
        self._lock = threading.Lock()
        self._store: LMDBStore | None = None
        self._monitor: Monitor | None = None
        self._identity: tuple[int, int] | None = None
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def ask(self, question: Callable[[Monitor], Answer]) -> Answer:
        """Return what a function of the `Monitor` returns, called in a thread.

        Raises `FolderMissing` while there is no file, and what opening and reading it raise.
        """
        return await anyio.to_thread.run_sync(partial(self.ask_here, question), limiter=self._limiter)

    def ask_here(self, question: Callable[[Monitor], Answer]) -> Answer:
        """Do `ask` in this thread."""
        try:
            return question(self.monitor())
        except (StoreClosed, FileReplaced):  # another thread has opened the file that has replaced this one
            if self._given is not None:
                raise
            return question(self.monitor())

    def monitor(self) -> Monitor:
        """Return the monitor of the file that is at the path now."""
        if self._options is None:
            assert self._given is not None
            return self._given
        with self._lock:
            identity = _identity(self._options.path)
            if identity != self._identity:
                self._close()
            if self._monitor is None:
                if identity is None:
                    raise FolderMissing(
                        f"{self._options.path} does not exist. Check the spelling of the path, or store a result."
                    )
                self._store = open_as_it_is(self._options)
                self._monitor = Monitor(self._store)
                self._identity = identity
            return self._monitor

    def _close(self) -> None:
        store, self._store, self._monitor, self._identity = self._store, None, None, None
        if store is not None:
            store.close()

    def close(self) -> None:
        """Close the file, until it is asked for again. A store that the caller has opened stays open."""
        with self._lock:
            self._close()


def _on_server(url: str) -> Store:
    """Return the store on a server, which is connected when it is first asked."""
    name, seconds = _RETRY
    store: Store = open_store(url, **({} if f"{name}=" in url else {name: seconds}))
    return store


def _options(store: str | os.PathLike[str] | Options) -> Options:
    return store if isinstance(store, Options) else options_from_url(store)


def _name(store: object) -> str:
    """Return what visitors may know of an open store: the path, or the address without user and password."""
    if isinstance(store, LMDBStore):
        return store.options.path
    if isinstance(store, FallbackStore):
        return _name(store.new)
    return store.options.address() if isinstance(store, RedisStore) else type(store).__name__


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AccessDenied(
            f"{path} cannot be looked at: {error.strerror}. Check the permissions of its folder."
        ) from error
    return found.st_dev, found.st_ino


class Fresh:
    """One figure of a source, computed by one thread at a time, and kept in proportion to what that takes.

    If it takes long, a visitor sees the last one meanwhile, and ``on_renewed`` is called once there is another.
    """

    def __init__(
        self, source: Source, question: Callable[[Monitor], Answer], on_renewed: Callable[[], object] = lambda: None
    ) -> None:
        self._source = source
        self._question = question
        self._on_renewed = on_renewed
        #: Held while the figure is computed, so that many visitors cost as much as one.
        self._lock = anyio.Lock()
        self._value: object = None
        #: What it was computed by; None: there is no figure.
        self._monitor: Monitor | None = None
        self._moment: int | None = None
        #: When it was computed and how long that took, in seconds of the monotonic clock.
        self._done = self._took = 0.0
        self._renewal: asyncio.Task[None] | None = None

    @property
    def is_being_renewed(self) -> bool:
        """Whether visitors see an older figure until a new one is computed."""
        return self._renewal is not None and not self._renewal.done()

    async def get(self) -> object:
        """Return the figure. One that is out of date is renewed later, or the last change would never be shown."""
        is_quick = self._took < _SLOW or time.monotonic() > self._done + _OLDEST
        if is_quick or not await self._source.ask(lambda monitor: monitor is self._monitor):
            await self._computed()
        value = self._value
        if await self._source.ask(self._is_outdated) and not self.is_being_renewed:
            self._renewal = asyncio.create_task(self._renew())
        return value

    def _until(self) -> float:
        """Return until when the figure is not computed again, whatever happens."""
        return self._done + min(max(self._took / _SHARE, _SHORTEST), _LONGEST)

    def _is_outdated(self, monitor: Monitor) -> bool:
        moment = monitor.moment()
        return moment is None or moment != self._moment or time.monotonic() > self._done + _LONGEST

    async def _renew(self) -> None:
        await asyncio.sleep(self._until() - time.monotonic())
        with suppress(ResultError):  # which the next visitor sees
            await self._computed()
            self._on_renewed()

    async def _computed(self) -> object:
        async with self._lock:
            return await self._source.ask(self._compute)

    def _compute(self, monitor: Monitor) -> object:
        began, moment = time.monotonic(), monitor.moment()
        if monitor is self._monitor and (began < self._until() or not self._is_outdated(monitor)):
            return self._value
        try:
            self._value = self._question(monitor)
        except BaseException:
            self._monitor = None  # the last figure is not shown any more
            raise
        self._done = time.monotonic()
        self._took = self._done - began
        self._moment, self._monitor = moment, monitor
        return self._value
