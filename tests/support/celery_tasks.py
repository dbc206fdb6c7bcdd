"""The application under test: its tasks, and the settings that its clients and its workers share."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery, group, shared_task
from celery.signals import after_task_publish, task_received, task_success
from kombu.asynchronous import get_event_loop

from lmdbresults.testing import die_as_told

#: The environment variables with the settings of a worker, and the path of the log of acknowledged results.
SETTINGS = "LMDBRESULTS_TEST_SETTINGS"
ACKNOWLEDGED = "LMDBRESULTS_TEST_ACKNOWLEDGED"


class OwnError(Exception):
    """An exception that an application defines for itself."""


def settings_for(folder: Path, **settings: Any) -> dict[str, Any]:
    """Return the settings of an application whose results and messages lie in a folder."""
    return {
        "result_backend": f"lmdb://{folder}/results.lmdb?durability=none",
        "broker_url": f"lmdb://{folder}/messages.lmdb?durability=none",
        "broker_connection_retry_on_startup": True,
        "worker_hijack_root_logger": False,
        **settings,
    }


def make_app(settings: dict[str, Any]) -> Celery:
    app = Celery("tests", set_as_current=False)
    app.conf.update(settings)
    return app


@shared_task(name="add")
def add(*numbers: int) -> int:
    return sum(numbers)


@shared_task(name="total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task(name="echo")
def echo(value: Any) -> Any:
    return value


@shared_task(name="repeat")
def repeat(word: str, times: int) -> str:
    return word * times


@shared_task(name="fail")
def fail(*args: Any) -> None:
    raise OwnError(*args)


@shared_task(name="not_json")
def not_json(fails: bool = False) -> Any:
    """Return, or raise with, what json cannot write."""
    if fails:
        raise OwnError("about", object())
    return object()


@shared_task(name="ignored", ignore_result=True)
def ignored(fails: bool = False) -> None:
    if fails:
        raise OwnError("ignored")


@shared_task(name="quiet", ignore_result=True)
def quiet(value: Any) -> Any:
    return value


@shared_task(name="replaced", bind=True)
def replaced(self: Any, value: Any, times: int = 1) -> Any:
    """Put another task in the place of this one, or a group of them."""
    raise self.replace(echo.s(value) if times == 1 else group(echo.s(value) for _ in range(times)))


@shared_task(name="adds_part", bind=True)
def adds_part(self: Any, value: Any) -> Any:
    """Add a part to the chord that this task belongs to."""
    self.add_to_chord(echo.s([value, "added"]))
    return value


@shared_task(name="note_error")
def note_error(request: Any, error: BaseException, traceback: Any, path: str) -> None:
    """Log an error, as an errback."""
    with open(path, "a") as log:
        log.write(f"{request.id} {error!r}\n")


@shared_task(name="note_call")
def note_call(path: str) -> None:
    """Log that this errback was called."""
    with open(path, "a") as log:
        log.write("called\n")


@shared_task(name="wait_until")
def wait_until(path: str) -> None:
    """Wait for a file to appear."""
    while not os.path.exists(path):
        time.sleep(0.01)


@shared_task(name="run_late", acks_late=True)
def run_late(began: str, until: str) -> int:
    """Log the process of this run, and wait for a file to appear; return the process."""
    with open(began, "a") as log:
        log.write(f"{os.getpid()}\n")
    wait_until(until)
    return os.getpid()


@shared_task(name="progress", bind=True)
def progress(self: Any, until: str) -> str:
    """Report progress, then wait for a file to appear."""
    self.update_state(state="PROGRESS", meta={"done": 1, "of": 2})
    wait_until(until)
    return "finished"


@shared_task(name="retry_until", bind=True, max_retries=None)
def retry_until(self: Any, path: str) -> int:
    """Retry until a file has appeared; return how often."""
    if not os.path.exists(path):
        raise self.retry(countdown=0.1, exc=OwnError("not yet"))
    return int(self.request.retries)


@shared_task(name="stops_worker")
def stops_worker() -> None:
    """Do nothing: the worker is asked to stop when it receives this task."""


@shared_task(name="sends_group")
def sends_group() -> Any:
    """Return the handle of a group that this task sends."""
    return group(add.s(n, n) for n in range(3)).apply_async()


# -- in a worker -------------------------------------------------------------------------------------------------


def acknowledge(sender: Any, **kwargs: Any) -> None:
    """Log which task has its result stored, and where. A short write at the end of a file is whole or not there."""
    descriptor = os.open(os.environ[ACKNOWLEDGED], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{sender.request.id} {os.getpid()}\n".encode())
    os.close(descriptor)


def note_published(headers: Any, **kwargs: Any) -> None:
    """Log which task was sent, in the same way."""
    descriptor = os.open(os.environ[ACKNOWLEDGED] + ".published", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{headers['id']}\n".encode())
    os.close(descriptor)


def stop_if_asked(request: Any, **kwargs: Any) -> None:
    """Ask the worker to stop, as a supervisor does, in the round of its event loop that gives a process the task."""
    if request.name == "stops_worker":
        get_event_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)


def end_with(parent: int) -> None:
    """End the worker and all its processes once the tests have ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


if SETTINGS in os.environ:
    app = make_app(json.loads(os.environ[SETTINGS]))
    app.set_default()
    task_success.connect(acknowledge)
    task_received.connect(stop_if_asked)
    after_task_publish.connect(note_published)
    die_as_told()
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
