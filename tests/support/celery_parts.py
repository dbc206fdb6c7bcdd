"""A chord whose parts return when a test says so, and what its body and its errbacks were called with."""

from typing import Any

from celery import shared_task
from celery.app.task import Context

#: What bodies were called with, and what errbacks were.
ran: list[Any] = []
failed: list[tuple[Any, BaseException]] = []


@shared_task(name="gather")
def gather(values: Any) -> Any:
    ran.append(values)
    return values


@shared_task(name="note_failure")
def note_failure(request: Any, error: BaseException, traceback: Any) -> None:
    failed.append((request.id, error))


class Chord:
    """A chord whose parts return when the test says so."""

    def __init__(self, app: Any, *ids: Any, body: Any = None, group_id: str = "group") -> None:
        self.app, self.group_id = app, group_id
        self.body = gather.s().set(task_id="body") if body is None else body
        self.results = [app.AsyncResult(each) if isinstance(each, str) else each for each in ids]
        self.apply()

    def apply(self) -> None:
        self.app.backend.apply_chord((self.group_id, self.results), self.body)

    def request(self, id_: str, index: int | None, **more: Any) -> Context:
        chord = {**self.body, **more.pop("chord", {})}
        return Context(id=id_, group=self.group_id, group_index=index, chord=chord, **more)

    def part(self, id_: str, value: Any, index: int | None = None, **more: Any) -> None:
        """Let a part return; an exception is returned as a failure."""
        request = self.request(id_, index, **more)
        if isinstance(value, Exception):
            self.app.backend.mark_as_failure(id_, value, request=request)
        else:
            self.app.backend.mark_as_done(id_, value, request=request)

    @property
    def key(self) -> bytes:
        key: bytes = self.app.backend.get_key_for_chord(self.group_id)
        return key

    @property
    def error(self) -> Any:
        return self.app.AsyncResult("body").result
