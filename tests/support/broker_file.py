"""An application whose queue and results are in one file, and a worker that runs one message at a time, here."""

from pathlib import Path
from typing import Any

from celery import Celery
from celery.concurrency.solo import TaskPool
from celery.worker.request import Request

from lmdbresults.store import queues

QUEUE = "celery"


def one_file(path: Path, **settings: Any) -> dict[str, Any]:
    """Return the settings of an application with everything in one file."""
    return {
        "broker_url": f"lmdb://{path}?durability=none",
        "broker_transport": "lmdbresults.integrations.kombu:Transport",
        "result_backend": f"lmdb://{path}?durability=none",
        **settings,
    }


class OneByOne:
    """Takes messages and runs them like a worker, one after the other."""

    def __init__(self, app: Celery) -> None:
        self._app, self._pool = app, TaskPool(app=app)
        self.connection = app.connection_for_read()
        self.channel = self.connection.default_channel
        app.amqp.queues[QUEUE](self.channel).declare()
        self._taken: list[Any] = []
        self.channel.basic_qos(prefetch_count=1)
        self.channel.basic_consume(QUEUE, False, self._taken.append)

    def take(self) -> Any:
        """Take a message, which then belongs to this process."""
        while not self._taken:
            self.connection.drain_events(timeout=240)
        return self._taken.pop()

    def work(self, message: Any) -> None:
        """Run the task of a message, and settle it as the worker does."""
        request = Request(
            message,
            app=self._app,
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
            hostname="here",
        )
        request.execute_using_pool(self._pool)

    def run(self) -> Any:
        """Take a message and run its task; return the message."""
        message = self.take()
        self.work(message)
        return message

    def run_all(self) -> list[str]:
        """Run tasks until the queue is empty; return their names."""
        names = []
        while self.waiting():
            names.append(self.run().headers["task"])
        return names

    def waiting(self, queue: str = QUEUE) -> int:
        """Return how many messages can be taken."""
        state = self._app.backend.store.queues.state(queue)
        return 0 if state is None else state.ready

    def is_held(self, message: Any) -> bool:
        """Return whether a message was taken and is not settled."""
        return self._app.backend.store.view(lambda txn: queues.is_held(txn, message.delivery_tag))

    def close(self) -> None:
        self.connection.close()
