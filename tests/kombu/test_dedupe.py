"""With ``dedupe``, a task that is queued or runs is not queued again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

pytest.importorskip("celery")

from celery import Celery, current_app, shared_task

from tests.support.broker_file import OneByOne, one_file
from tests.support.kombu_parts import publish, waiting


@shared_task(bind=True, name="goes_on")
def goes_on(self: Any) -> int:
    """Retry once."""
    if not self.request.retries:
        raise self.retry(countdown=0)
    return 1


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., tuple[Any, OneByOne]]]:
    """Returns a task of an application whose broker has some options, and what runs it."""
    made: list[Any] = []
    former = current_app._get_current_object()

    def make(query: str = "", **options: Any) -> tuple[Any, OneByOne]:
        settings = one_file(tmp_path / "celery.lmdb")
        settings["broker_url"] += query
        settings["result_backend"] += query
        app = Celery("dedupe", set_as_current=False)
        app.conf.update(settings, task_acks_late=True, broker_transport_options=options)
        app.set_current()
        worker = OneByOne(app)
        made.extend([worker, app.backend, app])

        return app.tasks["goes_on"], worker

    yield make
    former.set_current()
    for each in made:
        each.close()


@pytest.mark.parametrize(("query", "options"), [("&dedupe=1", {}), ("", {"dedupe": True}), ("", {"dedupe": "yes"})])
def test_a_task_is_queued_once_until_it_has_ended(make: Any, query: str, options: dict[str, Any]) -> None:
    task, worker = make(query, **options)
    results = [task.apply_async(task_id="nightly") for _ in range(3)]
    assert worker.waiting() == 1
    message = worker.take()
    task.apply_async(task_id="nightly")
    task.apply_async(task_id="nightly", countdown=3600)
    assert worker.waiting() == 0
    worker.work(message)  # it goes on by a retry, which is another message of the same task
    task.apply_async(task_id="nightly", retries=1)
    assert worker.run_all() == ["goes_on"]
    assert [result.get(timeout=240) for result in results] == [1, 1, 1]
    task.apply_async(task_id="nightly")
    assert worker.waiting() == 1


@pytest.mark.parametrize(("query", "options"), [("", {}), ("&dedupe=1", {"dedupe": False}), ("&dedupe=0", {})])
def test_the_url_wins_and_all_is_queued_by_default(make: Any, query: str, options: dict[str, Any]) -> None:
    task, worker = make(query, **options)
    for _ in range(2):
        task.apply_async(task_id="nightly")
    assert worker.waiting() == (1 if "=1" in query else 2)


def test_other_messages_are_not_compared(connect: Callable[..., Any]) -> None:
    connection: Connection = connect(dedupe=True)
    publish(connection, 1, 1)
    assert waiting(connection) == 2


def test_a_value_that_is_neither_yes_nor_no_is_refused(connect: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="dedupe='maybe': must be 1 or 0"):
        connect(dedupe="maybe").connect()
