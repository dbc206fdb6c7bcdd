"""Live pages: one thread waits for commits while pages are open, and each page gets a server-sent event.

A page then asks for itself again, and itself decides how often. The thread waits for the wake-ups of writers, and
reads them at most four times a second: a writer sends one only when the last one was read.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Final

from lmdbresults.errors import ResultError
from lmdbresults.monitoring import Monitor
from lmdbresults.web.source import Source

__all__ = ["Live"]

#: Open pages at most.
MOST_PAGES: Final = 100
#: Seconds between two messages to a page.
_PAUSE: Final = 0.25
#: The same for a store that cannot say whether it has changed, so that each message has the pages read it again.
_LONG_PAUSE: Final = 2.0
#: Seconds after which the thread looks whether the file was replaced and whether a page is open.
_LOOK_EVERY: Final = 1.0
#: Seconds after which a page that nothing is sent to gets a comment, which shows whether it is still there.
_PING_EVERY: Final = 15.0

_CHANGED: Final = b"event: changed\ndata:\n\n"
_PING: Final = b":\n\n"


class _Page:
    """One open page."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def tell(self) -> None:
        """Note that the store has changed. Any thread may call this."""
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the loop was closed
            return

    async def news(self) -> bytes:
        """Return the next message, once there is one."""
        try:
            await asyncio.wait_for(self._changed.wait(), _PING_EVERY)
        except (TimeoutError, asyncio.TimeoutError):
            return _PING
        self._changed.clear()
        return _CHANGED


class Live:
    """The open pages of one source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        #: Guards the pages and the thread.
        self._lock = threading.Lock()
        self._pages: set[_Page] = set()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def close(self) -> None:
        """End all streams, and those that begin later. A signal handler may call this."""
        self._is_closed = True
        self.tell_all()

    def is_full(self) -> bool:
        """Return whether there may be no more open pages."""
        return len(self._pages) >= MOST_PAGES

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the messages to one page, until it is closed."""
        page = _Page()
        with self._lock:
            self._pages.add(page)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="lmdbresults-live", daemon=True)
                self._thread.start()
        try:
            yield b"retry: 2000\n\n"
            while not self._is_closed:
                yield await page.news()
        finally:
            with self._lock:
                self._pages.discard(page)

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        last: object = None
        while self._is_needed():
            try:
                monitor = self._source.monitor()
                if monitor is not last:
                    self.tell_all()
                    last = monitor
                self._follow(monitor)
            except ResultError as error:  # there is no file, say
                if last != str(error):
                    self.tell_all()
                last = str(error)
                time.sleep(_LOOK_EVERY)

    def _is_needed(self) -> bool:
        with self._lock:
            if not self._pages:
                self._thread = None
            return bool(self._pages)

    def _follow(self, monitor: Monitor) -> None:
        """Tell the pages of changes, until the file is replaced or no page is open."""
        pause = _LONG_PAUSE if monitor.moment() is None else _PAUSE
        with monitor.changes() as changes:
            while self._pages and self._source.monitor() is monitor:
                if changes.wait(_LOOK_EVERY):
                    self.tell_all()
                    time.sleep(pause)

    def tell_all(self) -> None:
        """Tell all pages that something has changed."""
        for page in list(self._pages):
            page.tell()
