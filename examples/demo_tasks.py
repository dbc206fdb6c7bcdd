"""The application of the demo: what a worker and its clients share.

Only the setting `result_backend` concerns lmdbresults. The tasks are ordinary Celery tasks. The broker can be any: here
it is a folder of files, so that the demo needs no server.
"""

# Celery and kombu have no type annotations.
# mypy: disallow-untyped-decorators=False, disallow-subclassing-any=False

import os
import time
import uuid
from pathlib import Path

from celery import Celery, Task
from kombu.transport import filesystem
from kombu.utils.json import dumps

app = Celery("demo_tasks")


def configure(folder: Path) -> None:
    """Keep results and messages in `folder`."""
    app.conf.update(
        result_backend=f"lmdb://{folder}/results.lmdb",  # an absolute path: three slashes, lmdb:///...
        result_expires=3600,  # seconds; expiry needs no other process
        broker_connection_retry_on_startup=True,
        worker_enable_remote_control=False,  # no broadcasts: this broker has only one queue
        **broker_in(folder / "broker"),
    )


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def divide(x: int, y: int) -> float:
    return x / y


@app.task(bind=True)
def copy_rows(self: Task, rows: int) -> str:
    for row in range(1, rows + 1):
        self.update_state(state="PROGRESS", meta={"row": row, "rows": rows})
        time.sleep(0.2)
    return f"copied {rows} rows"


class FileChannel(filesystem.Channel):
    """Kombu's file broker, with atomic writes.

    The original creates a file in the queue's folder and then writes to it. A worker that reads it in between gets an
    empty message and exits: one in 100 on a busy machine. So write the file elsewhere, then rename it.
    """

    def _put(self, queue: str, payload: object, **kwargs: object) -> None:
        unfinished = Path(self.control_folder, str(uuid.uuid4()))
        unfinished.write_text(dumps(payload))
        unfinished.rename(Path(self.data_folder_out, f"{time.monotonic_ns():020}_{unfinished.name}.{queue}.msg"))


class FileTransport(filesystem.Transport):
    Channel = FileChannel


def broker_in(folder: Path) -> dict[str, object]:
    """Return settings for a broker of three folders in `folder`: for a demo only."""
    queue, taken, control = folder / "queue", folder / "taken", folder / "control"
    for each in queue, taken, control:
        each.mkdir(parents=True, exist_ok=True)
    options = {
        "data_folder_in": str(queue),
        "data_folder_out": str(queue),
        "store_processed": True,  # otherwise messages go through the system's temporary folder
        "processed_folder": str(taken),
        "control_folder": str(control),
        "polling_interval": 0.01,  # seconds; the default is a whole one
    }
    return {
        "broker_url": "filesystem://localhost",
        "broker_transport": "demo_tasks:FileTransport",
        "broker_transport_options": options,
    }


if "DEMO_FOLDER" in os.environ:  # set for the worker; the client calls configure()
    configure(Path(os.environ["DEMO_FOLDER"]))
