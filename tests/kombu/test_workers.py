"""Real Celery workers over one file that is broker and result backend: every pool, remote control, and kills."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.kombu_parts import consuming, waiting

pytest.importorskip("celery")

from celery import Celery, chord, current_app
from kombu.exceptions import OperationalError

from tests.support.celery_tasks import make_app
from tests.support.celery_workers import PATIENCE, Worker, wait_for

OPTIONS = ["--loglevel", "INFO", "--hostname"]
POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]


def settings_for(folder: Path, size: str = "", **settings: Any) -> dict[str, Any]:
    url = f"lmdb://{folder}/celery.lmdb?durability=none{size}"
    return {
        "broker_url": url,
        "result_backend": url,
        "broker_connection_retry_on_startup": True,
        "worker_hijack_root_logger": False,
        **settings,
    }


class Workers:
    """An application, and the workers that a test starts."""

    def __init__(self, folder: Path, resources: ExitStack) -> None:
        self.folder = folder
        self._resources = resources
        self.app: Celery = make_app(settings_for(folder))

    def start(self, name: str, pool: str, concurrency: int = 2, **settings: Any) -> Worker:
        """Start a worker and wait until it answers."""
        worker = self.launch(name, pool, concurrency, **settings)
        wait_for(lambda: self.app.control.ping(destination=[name], timeout=5))
        return worker

    def launch(self, name: str, pool: str, concurrency: int = 2, **settings: Any) -> Worker:
        """Start a worker."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        worker = Worker(folder, settings_for(self.folder, **settings), pool, concurrency, options=[*OPTIONS, name])
        self._resources.callback(worker.kill)
        return worker

    def call(self, task: str, *arguments: Any, **options: Any) -> Any:
        return self.app.tasks[task].apply_async(arguments, **options)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    former = current_app._get_current_object()
    with ExitStack() as resources:
        made = Workers(tmp_path, resources)
        made.app.set_current()
        yield made
    former.set_current()
    assert made.app.backend.store.check() == []
    made.app.backend.close()
    made.app.close()


def get(result: Any) -> Any:
    return result.get(timeout=PATIENCE)


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_of_each_pool_does_all_that_it_does_with_a_server(workers: Workers, pool: str) -> None:
    # A prefetch count of one per process: a worker that forgets to take more after an acknowledgement waits a second.
    worker = workers.start("one@test", pool, worker_prefetch_multiplier=1, worker_send_task_events=True)
    call, app = workers.call, workers.app
    events = Events(workers)
    assert [get(result) for result in [call("add", n, n) for n in range(100)]] == [2 * n for n in range(100)]
    assert get(chord(app.tasks["add"].s(n, n) for n in range(20))(app.tasks["total"].s())) == 380
    assert get(call("retry_until", str(workers.folder / "celery.lmdb"))) == 0
    assert get(call("sends_group"))
    countdown = time.time() + 0.3
    assert get(call("add", 1, countdown=0.3)) == 1
    assert time.time() >= countdown
    _control(workers)
    events.receive({"task-received", "task-started", "task-succeeded"})
    assert worker.stop() == 0
    assert app.backend.store.queues.unacknowledged() == []


def _control(workers: Workers) -> None:
    """Use remote control: inspect, purge, and consumers that are added and cancelled."""
    control, inspect = workers.app.control, workers.app.control.inspect(limit=1, timeout=PATIENCE)
    assert inspect.ping() == {"one@test": {"ok": "pong"}}
    assert _consumed(inspect) == ["celery"]
    assert inspect.stats()["one@test"]["broker"]["transport"] == "lmdb"
    later = workers.call("add", 1, queue="other")
    assert control.add_consumer("other", reply=True, limit=1, timeout=PATIENCE)
    assert get(later) == 1
    assert control.cancel_consumer("other", reply=True, limit=1, timeout=PATIENCE)
    wait_for(lambda: _consumed(inspect) == ["celery"])  # the worker answers, then cancels
    workers.call("add", 1, queue="other")
    workers.app.conf.task_create_missing_queues = True
    workers.app.amqp.queues.select_add("other")
    assert control.purge() == 1


def _consumed(inspect: Any) -> list[str]:
    return [queue["name"] for queue in inspect.active_queues()["one@test"]]


class Events:
    """The events of tasks that arrive from now on."""

    def __init__(self, workers: Workers) -> None:
        self._connection = workers.app.connection_for_read()
        self._queue = workers.app.events.Receiver(self._connection, routing_key="task.*").queue
        self._queue(self._connection.default_channel).declare()

    def receive(self, wanted: set[str]) -> None:
        """Wait until events of all these types have arrived."""
        with consuming(self._connection, self._queue, ack=False, no_ack=True) as received:
            while wanted:
                self._connection.drain_events(timeout=PATIENCE)
                for body in received:
                    wanted -= {event["type"] for event in ([body] if isinstance(body, dict) else body)}
                received.clear()
        self._connection.close()


@pytest.mark.parametrize("pool", POOLS)
def test_a_killed_workers_task_runs_elsewhere_at_once(workers: Workers, pool: str) -> None:
    one, two = (workers.start(name, pool, 1, worker_prefetch_multiplier=1) for name in ("one@test", "two@test"))
    began = workers.folder / "began"
    result = workers.call("run_late", str(began), str(workers.folder / "go"))
    first = int(wait_for(lambda: began.exists() and began.read_text()))
    victim = one if os.getpgid(first) == one.process.pid else two
    victim.kill()
    (workers.folder / "go").touch()
    assert get(result) != first
    assert began.read_text().split() == [str(first), str(result.result)]
    assert {one, two} - {victim} != set()


def test_a_worker_that_is_stopped_returns_what_it_has_not_begun(workers: Workers) -> None:
    worker = workers.start("one@test", "solo", 1, worker_prefetch_multiplier=10)
    began = workers.folder / "began"
    workers.call("run_late", str(began), str(workers.folder / "go"))
    for number in range(5):
        workers.call("add", number)
    wait_for(lambda: began.exists() and began.read_text())
    os.kill(worker.process.pid, signal.SIGTERM)
    (workers.folder / "go").touch()
    assert worker.process.wait(PATIENCE) == 0
    with workers.app.connection_for_read() as connection:
        assert 0 < waiting(connection, "celery") <= 5


def test_a_task_that_begins_while_its_worker_is_stopped_does_not_run_again(workers: Workers) -> None:
    worker = workers.launch("one@test", "prefork")
    result = workers.call("stops_worker")
    assert worker.process.wait(PATIENCE) == 0
    with workers.app.connection_for_read() as connection:
        assert waiting(connection, "celery") + result.ready() == 1


def test_no_task_is_lost_while_workers_are_killed(workers: Workers) -> None:
    running = [workers.start(f"{n}@test", "prefork", task_acks_late=True) for n in range(2)]
    results = [workers.call("add", n) for n in range(150)]
    for number in range(2, 5):
        wait_for(lambda: sum(result.ready() for result in results) > 40 * (number - 2))  # noqa: B023
        running.pop(0).kill()
        running.append(workers.start(f"{number}@test", "prefork", task_acks_late=True))
    assert [get(result) for result in results] == list(range(150))
    with workers.app.connection_for_read() as connection:
        assert wait_for(lambda: not waiting(connection, "celery"))
    assert all(worker.stop() == 0 for worker in running)
    assert workers.app.backend.store.queues.unacknowledged() == []


def _fill(app: Celery) -> None:
    while True:
        app.tasks["quiet"].apply_async(("x" * 5000,), retry=False)


def test_two_workers_that_start_at_once_empty_a_full_file(workers: Workers) -> None:
    workers.app.conf.update(settings_for(workers.folder, "&max_size=2MiB"))
    with pytest.raises(OperationalError):
        _fill(workers.app)
    running = [workers.launch(f"{name}@test", "solo", size="&max_size=2MiB") for name in ("one", "two")]
    with workers.app.connection_for_read() as connection:
        assert wait_for(lambda: not waiting(connection, "celery"))
    # One of them may have emptied the queue before the other one was ready.
    assert wait_for(lambda: len(workers.app.control.ping(limit=2, timeout=10)) == 2)
    assert [worker.process.poll() for worker in running] == [None, None]


def test_a_worker_in_a_thread_of_the_program_that_publishes(workers: Workers) -> None:
    from celery.contrib.testing.worker import start_worker

    with start_worker(workers.app, perform_ping_check=False, shutdown_timeout=PATIENCE):
        assert get(workers.call("add", 1, 2)) == 3


def test_tasks_of_beat_arrive(workers: Workers) -> None:
    from celery.beat import ScheduleEntry, Scheduler

    scheduler = Scheduler(workers.app, lazy=True)
    scheduler.apply_async(ScheduleEntry("beat", "add", args=(1, 2), app=workers.app), advance=False)
    workers.start("one@test", "solo")
    with workers.app.connection_for_read() as connection:
        assert wait_for(lambda: not waiting(connection, "celery"))
