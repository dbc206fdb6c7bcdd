"""Celery with Redis as its broker, for chords whose workers are killed: unacknowledged messages are redelivered.

Except for some: a message that a worker pops from Redis is recorded as unacknowledged a moment later. If the worker is
killed in between, or Redis sends the message to the connection of a dead worker, kombu loses it. `Sent` tells these
losses from lost results.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from celery import Celery, chord
from celery.signals import before_task_publish

from tests.support.celery_tasks import echo, settings_for

#: Seconds after which Redis redelivers the messages of a dead worker.
VISIBILITY = 3


def settings_with_redis(folder: Path, broker: str) -> dict[str, Any]:
    """Return the settings of an application whose tasks survive their workers."""
    return {
        **settings_for(folder),
        "broker_url": broker,
        "broker_transport": None,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY,
            "unacked_restore_interval": 1,  # kombu checks every ten seconds, and restores one time in ten
            "unacked_restore_throttle": 1,
        },
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
    }


def make_chord(app: Celery, number: int, parts: int) -> Any:
    """Return a chord whose body returns its list: the number of the chord and the index, for each part."""
    header = [echo.s([number, index]) for index in range(parts)]
    return chord(header, echo.s(), app=app)


class Sent:
    """The messages that a client has sent, to be sent again if the broker has lost them."""

    def __init__(self, app: Celery, folders: Iterable[Path]) -> None:
        self._app, self._folders = app, list(folders)
        self._messages: dict[str, tuple[Any, Any, Any]] = {}
        before_task_publish.connect(self._note)

    def _note(self, body: Any, headers: Any, properties: Any, **kwargs: Any) -> None:
        self._messages[headers["id"]] = (body, headers, properties)

    def _received(self) -> set[str]:
        logs = "".join((folder / "worker.log").read_text(errors="replace") for folder in self._folders)
        return set(re.findall(r"Task \w+\[([^]]+)\] received", logs))

    def send_lost_again(self) -> int:
        """Send the tasks without a result again, once nothing changes any more; return how many.

        A task with a result must have been counted, and is not sent again.
        """
        backend = self._app.backend
        lost = [id_ for id_ in self._messages if backend.store.get(backend.get_key_for_task(id_)) is None]
        with self._app.producer_or_acquire() as producer:
            for body, headers, properties in (self._messages[id_] for id_ in lost):
                producer.publish(body, routing_key="celery", headers=headers, serializer="json", **properties)
        return len(lost)

    def lost_by_workers(self) -> set[str]:
        """Return the ids of tasks that a worker has sent and no worker has received."""
        logs = [folder / "acknowledged.published" for folder in self._folders]
        published = {id_ for log in logs if log.exists() for id_ in log.read_text().split()}
        return published - self._received()
