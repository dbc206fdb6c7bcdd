"""The application of the demo: what its workers and clients share. The tasks are ordinary Celery tasks."""

# Celery has no type annotations.
# mypy: disallow-untyped-decorators=False

import os
import time
from pathlib import Path

from celery import Celery, Task

app = Celery("demo_tasks")


def configure(folder: Path) -> None:
    """Keep messages and results in one file in `folder`."""
    file = f"lmdb://{folder}/celery.lmdb"  # an absolute path: three slashes, lmdb:///...
    app.conf.update(broker_url=file, result_backend=file, result_expires=3600)


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


@app.task(bind=True, acks_late=True)  # acknowledged with its result: if its worker is killed, it runs again
def work(self: Task, seconds: float) -> int:
    self.update_state(state="RUNNING", meta={"pid": os.getpid(), "at": time.time()})
    time.sleep(seconds)
    return os.getpid()


@app.task(acks_late=True)
def note_body(pids: list[int], folder: str) -> int:
    with Path(folder, "bodies").open("a") as file:
        file.write("a body ran\n")
    return len(pids)


if "DEMO_FOLDER" in os.environ:  # set for the workers; the client calls configure()
    configure(Path(os.environ["DEMO_FOLDER"]))
