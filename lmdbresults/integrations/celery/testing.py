"""A Celery application that is moved to another file for a test, and a worker in a thread: for the pytest fixtures."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from celery import Celery, _state, signals
from celery.contrib.testing.worker import start_worker
from celery.worker import WorkController, state

__all__ = ["URL_VARIABLES", "configured", "working"]

#: Celery reads the URLs from these variables before it looks at any setting.
URL_VARIABLES: Final = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
)
#: A worker in a thread runs what is sent, and leaves the logging of the test runner as it is.
_SETTINGS: Final = {"task_always_eager": False, "worker_hijack_root_logger": False}
#: Seconds for a task that runs as the test ends.
_PATIENCE: Final = 30.0


@contextmanager
def configured(project: Celery | None, settings: Mapping[str, Any]) -> Iterator[Celery]:
    """Provide an application with other settings and new connections: ``project``, or a new one if it is None."""
    app = project if project is not None else Celery("tests", set_as_current=False)
    former_default, former_current = _state.default_app, _state._tls.current_app
    app.finalize()
    app.conf.get("task_always_eager")  # loads the settings, which are in another object until then
    changes = app.conf.changes
    former = dict(changes)
    _disconnect(app)
    app.set_current()
    app.conf.update({**_SETTINGS, **settings})
    try:
        yield app
    finally:
        _disconnect(app)
        changes.clear()
        changes.update(former)
        if project is None:
            app.close()
        _state.set_default_app(former_default)
        _state._tls.current_app = former_current


@contextmanager
def working(app: Celery, options: Mapping[str, Any]) -> Iterator[WorkController]:
    """Provide a worker that runs in a thread. ``options`` are those of Celery's `WorkController`."""
    signals.setup_logging.connect(_leave_logging)
    try:
        with start_worker(app, **{"perform_ping_check": False, "shutdown_timeout": _PATIENCE, **options}) as worker:
            try:
                yield worker
            finally:
                state.should_terminate = 0
                app.control.broadcast("heartbeat")  # wakes it: otherwise it looks in a second or two
    finally:
        signals.setup_logging.disconnect(_leave_logging)


def _leave_logging(**_: Any) -> None:
    """Receive Celery's request to set up logging, which it then does not do."""


def _disconnect(app: Celery) -> None:
    """Have an application connect again by its present settings. Close what it has open."""
    for pool in (app.amqp._producer_pool, app._pool):
        if pool is not None:
            pool.force_close_all()
    app._after_fork()  # forgets both pools
    backend = app._backend
    app._backend_cache, app._local = None, threading.local()
    close = getattr(backend, "close", None)
    if close is not None:
        close()
