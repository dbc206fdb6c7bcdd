"""Tasks whose ends have effects, for workers that are killed: each run is logged, with the message that led to it."""

import json
import os
import random
import signal
from typing import Any

from celery import Celery, group, shared_task

from lmdbresults import faultpoints

#: The environment variables with the settings of a worker, the path of its log, and how it is killed.
SETTINGS = "LMDBRESULTS_ENDS_SETTINGS"
LOG = "LMDBRESULTS_ENDS_LOG"
KILL = "LMDBRESULTS_ENDS_KILL"

LATE: dict[str, Any] = {"bind": True, "acks_late": True, "reject_on_worker_lost": True}


def log(request: Any, label: str) -> None:
    """Log a run of a task, and its delivery: the tag, and whether its message was delivered before."""
    was_delivered = (request.delivery_info or {}).get("redelivered", False)
    tag = request.properties["delivery_tag"]
    line = json.dumps([label, request.id, request.retries, tag, bool(was_delivered)]) + "\n"
    descriptor = os.open(os.environ[LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@shared_task(**LATE)
def step(self: Any, value: Any, label: str) -> Any:
    log(self.request, label)
    return value


@shared_task(**LATE)
def link(self: Any, value: Any, label: str) -> None:
    log(self.request, label)


@shared_task(**LATE)
def gather(self: Any, values: list[Any], label: str) -> int:
    log(self.request, label)
    return len(values)


@shared_task(**LATE, max_retries=None)
def stubborn(self: Any, label: str) -> int:
    log(self.request, label)
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@shared_task(**LATE, max_retries=None, ignore_result=True)
def quietly_stubborn(self: Any, label: str) -> None:
    log(self.request, label)
    if self.request.retries < 1:
        raise self.retry(countdown=0)


@shared_task(**LATE)
def replaces(self: Any, label: str, times: int) -> Any:
    log(self.request, label)
    others = [step.s(number, f"{label}/{number}") for number in range(times)]
    raise self.replace(others[0] if times == 1 else group(others))


@shared_task(**LATE)
def fails(self: Any, label: str) -> None:
    log(self.request, label)
    raise ValueError(label)


@shared_task(bind=True, acks_late=True, reject_on_worker_lost=False)
def lost_once(self: Any, label: str) -> None:
    log(self.request, label)


@shared_task(**LATE)
def errback(self: Any, task_id: str, label: str) -> None:
    """Be called with one more argument: Celery sends it as a message."""
    log(self.request, label)


def _kill_sometimes(what: str, chance: float) -> None:
    """Die at fault points, by chance: this process, or the whole worker."""

    def hook(point: str) -> None:
        if random.random() < chance:
            os.killpg(0, signal.SIGKILL) if what == "worker" else os.kill(os.getpid(), signal.SIGKILL)

    faultpoints.hook = hook


def make_app(settings: dict[str, Any]) -> Celery:
    app = Celery("ends", set_as_current=False)
    app.conf.update(settings)
    return app


if SETTINGS in os.environ:
    app = make_app(json.loads(os.environ[SETTINGS]))
    app.set_default()
    if KILL in os.environ:
        _kill_sometimes(*json.loads(os.environ[KILL]))
