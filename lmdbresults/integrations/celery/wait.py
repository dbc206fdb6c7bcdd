"""One thread's wait for some results of Celery, and the drainers by which Celery has it go on."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from celery.backends.asynchronous import Drainer, drainers
from celery.utils.log import get_logger

from lmdbresults.backends.task_changes import News
from lmdbresults.errors import StoreClosed
from lmdbresults.store.subscriptions import Listener

if TYPE_CHECKING:
    from lmdbresults.integrations.celery.consumer import ResultConsumer

__all__ = ["INTERVAL", "TimeIsUp", "Wait", "drainer_class", "let_end"]

logger = get_logger(__name__)

#: Seconds after which a wait calls ``on_interval`` anyway; Celery's drainers do so as well.
INTERVAL: Final = 1.0


class TimeIsUp(TimeoutError):
    """Raised when a wait has lasted as long as it may. A callback that times out raises something else."""


class Wait:
    """One thread's wait for some results. For a drainer it is what a promise is: something that becomes ``ready``."""

    def __init__(
        self,
        consumer: "ResultConsumer",
        results: Iterable[Any],
        on_message: Callable[[dict[str, Any]], Any] | None,
        on_end: Callable[[Any], Any],
        parents: Iterable[Any],
    ) -> None:
        self._consumer = consumer
        self._on_message, self._on_end = on_message, on_end
        #: By id, the results that are waited for; none for a parent.
        self._pending: dict[Any, list[Any]] = {}
        for result in results:
            self._pending.setdefault(result.id, []).append(result)
        self._left = len(self._pending)
        for parent in parents:
            self._pending.setdefault(parent.id, [])
        #: What ``on_message`` has been told last.
        self._told: dict[Any, bytes] = {}
        self.listener: Listener | None = None

    @property
    def ready(self) -> bool:
        return not self._left

    def look(self, ids: Collection[Any] | None = None) -> None:
        """See which tasks have ended: of some, or of all."""
        looked_for = list(self._pending) if ids is None else [task_id for task_id in ids if task_id in self._pending]
        for task_id, meta, is_final in self._consumer.metas(looked_for, self._wants):
            self._tell(task_id, meta, is_final)

    def look_first(self) -> None:
        """See which tasks have ended, also in the cache of the backend."""
        cache = self._consumer.backend._cache
        for task_id in [task_id for task_id, results in self._pending.items() if results]:
            meta = cache.get(task_id)
            if meta is not None:
                self._tell(task_id, meta, is_final=True)
        self.look()

    def _tell(self, task_id: Any, meta: dict[str, Any], is_final: bool) -> None:
        if self._on_message is not None:
            self._on_message(meta)
        if is_final:
            for result in self._pending.pop(task_id):
                self._consumer.fulfil(result, meta)
                self._on_end(result)
            self._left -= 1

    def _wants(self, task_id: Any, record: bytes, is_final: bool) -> bool:
        if not self._pending[task_id]:  # a parent: whoever asks reads it
            if is_final:
                del self._pending[task_id]
            return False
        if self._on_message is None or self._told.get(task_id) == record:
            return is_final
        self._told[task_id] = record
        return True

    def step(self, seconds: float) -> None:
        """Wait for news, for so long at most, and see what it is."""
        callbacks = self._consumer.callbacks
        callbacks.wait(0)
        if self.listener is None:
            self.listener = Listener(self._consumer.hub)
            every_change = self._on_message is not None
            self._news = News(self.listener, self._consumer.backend.get_key_for_task, self._pending, every_change)
            if every_change:  # what came since the last look, and is not final, is not told
                self._news.wait(0)
                self.look()
                return
        self.look(self._news.wait(seconds, lambda: self.ready or callbacks.has_news))


class OwnWaits(Drainer):
    """A drainer whose waits wait for themselves, to the end of their time and not beyond."""

    def drain_events_until(
        self,
        p: Any,
        timeout: float | None = None,
        interval: float | None = None,
        on_interval: Callable[[], Any] | None = None,
        wait: Any = None,
    ) -> Iterator[None]:
        until = None if timeout is None else time.monotonic() + timeout
        while not p.ready:
            left = interval or INTERVAL
            if until is not None:
                left = min(left, until - time.monotonic())
            if left <= 0:
                raise TimeIsUp
            self.wait_for(p, wait or self.result_consumer.drain_events, left)
            yield
            if on_interval is not None:
                on_interval()

    def wait_for(self, p: Any, wait: Callable[..., Any], timeout: float | None = None) -> None:
        if isinstance(p, Wait):
            p.step(INTERVAL if timeout is None else timeout)
        else:
            wait(timeout=timeout)


def drainer_class(environment: str) -> Any:
    return type("Drainer", (OwnWaits, drainers[environment]), {"run": _run} if environment != "default" else {})


def _run(drainer: Any) -> None:
    """What the greenlet of a drainer does: Celery's would end for good when a callback raises."""
    drainer._started.set()
    while not drainer._stopped.is_set():
        try:
            drainer.result_consumer.drain_events(timeout=INTERVAL)
        except StoreClosed:
            break
        except Exception:
            logger.exception("A callback of a result has failed, or its result could not be read.")
            time.sleep(INTERVAL)
    drainer._shutdown.set()


def let_end(drainer: Any) -> None:
    if hasattr(drainer, "_stopped"):
        drainer._stopped.set()
