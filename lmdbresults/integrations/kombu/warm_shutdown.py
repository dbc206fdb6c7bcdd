"""The shutdown of Celery's prefork worker: tasks that have begun are acknowledged first.

Celery leaves its event loop between any two rounds, and forgets each task that a process has received but that the
worker does not know to be accepted. Without `acks_late` such a task would run again, and its process would wait for
half a minute for its result to be read.
"""

import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

__all__ = ["watch_workers"]

logger = logging.getLogger(__name__)

#: Seconds after which the worker stops anyway.
_PATIENCE: Final = 2.0


def watch_workers() -> None:
    """Have a worker that this process runs acknowledge what has begun before it stops."""
    if "celery.signals" in sys.modules:
        sys.modules["celery.signals"].worker_ready.connect(_on_ready, dispatch_uid=__name__)


def _on_ready(sender: Any, **kwargs: Any) -> None:
    blueprint = sender.blueprint
    if sender.hub is not None and hasattr(getattr(sender.pool, "_pool", None), "outbound_buffer"):  # prefork
        blueprint.on_close = partial(_close, sender, blueprint.on_close)


def _close(consumer: Any, close: Callable[[], object]) -> None:
    try:
        _wait_until_accepted(consumer)
    except Exception:  # of any part of the loop, which runs on meanwhile: the worker must stop all the same
        logger.exception("Waiting for the processes of the pool failed: tasks that have begun may run again.")
    close()


def _wait_until_accepted(consumer: Any) -> None:
    """Take no more tasks, and go on with the event loop until each task that a process has received is accepted."""
    pool, hub, until = consumer.pool._pool, consumer.hub, time.monotonic() + _PATIENCE
    if pool is None:  # a cold shutdown has ended it
        return
    if consumer.task_consumer is not None:
        consumer.task_consumer.cancel()
    consumer.controller.semaphore.clear()
    while (hub._ready or _has_unaccepted(pool)) and time.monotonic() < until:
        hub.run_once()


def _has_unaccepted(pool: Any) -> bool:
    return any(job._write_to is not None and not job._accepted for job in list(pool._cache.values()))
