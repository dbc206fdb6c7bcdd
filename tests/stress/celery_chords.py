"""Celery with Redis as its broker, for chords whose workers are killed: what is not acknowledged is delivered again."""

from pathlib import Path
from typing import Any

from celery import Celery, chord

from tests.celery.tasks import echo, settings_for

#: Seconds after which Redis delivers again what a worker had that has died.
VISIBILITY = 3


def settings_with_redis(folder: Path, broker: str) -> dict[str, Any]:
    """Return the settings of an application whose tasks survive those who run them."""
    return {
        **settings_for(folder),
        "broker_url": broker,
        "broker_transport": None,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY,
            "unacked_restore_interval": 1,  # kombu looks every ten seconds, and does something one time in ten
            "unacked_restore_throttle": 1,
        },
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
    }


def make_chord(app: Celery, number: int, parts: int) -> Any:
    """Return a chord whose body returns the list that it gets: its number and the place, for each part."""
    header = [echo.s([number, index]) for index in range(parts)]
    return chord(header, echo.s(), app=app)
