"""What the page asks of Celery: revoke a task, or send one again."""

from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.app.utils import find_app

__all__ = ["CeleryControl"]


class CeleryControl:
    """Sends messages through the broker of an application. See `lmdbresults.web.settings.Control`."""

    def __init__(self, app: Celery, *, uses_file: bool = False) -> None:
        self._app = app
        #: Whether the broker is the file that is shown. Such an application knows no routes.
        self.uses_file = uses_file

    @classmethod
    def named(cls, name: str) -> "CeleryControl":
        """Return that of an application as ``celery --app`` names it. Raises what importing it raises."""
        return cls(find_app(name))

    @classmethod
    def of_file(cls, url: str) -> "CeleryControl":
        """Return that of a file which is the broker: tasks go to the queues that they came from."""
        return cls(Celery("lmdbresults", broker=url, backend=url, set_as_current=False), uses_file=True)

    def revoke(self, task_id: str, *, terminate: bool) -> None:
        self._app.control.revoke(task_id, terminate=terminate)

    def retry(self, name: str, args: list[Any], kwargs: Mapping[str, Any], queue: str | None) -> str:
        where = {"queue": queue} if self.uses_file and queue is not None else {}
        id_: str = self._app.send_task(name, args, dict(kwargs), **where).id
        return id_
