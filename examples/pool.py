"""A pool of worker processes without a task framework: results, and a chord, through one file.

    python examples/pool.py

Each process opens the file for itself, so it does not matter whether they are forked or spawned.
"""

import multiprocessing
import tempfile
from collections.abc import Sequence
from typing import Any

from lmdbresults import App, open_backend
from lmdbresults.app import Signature


class PoolApp(App):
    queue: "multiprocessing.Queue[Any]"

    def dispatch(self, signature: Signature, args: Sequence[Any] = ()) -> None:
        self.queue.put((signature, args))  # this is where your own queue goes


app = PoolApp()


@app.task
def square(number: int) -> int:
    return number * number


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


def open_app(path: str, queue: "multiprocessing.Queue[Any]") -> None:
    app.queue = queue
    open_backend(path, app=app)


def work(path: str, queue: "multiprocessing.Queue[Any]") -> None:
    open_app(path, queue)
    for signature, args in iter(queue.get, None):
        app.run(signature, args)  # runs the task, stores its result; a chord's last part dispatches its body


def main(path: str) -> None:
    queue: multiprocessing.Queue[Any] = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=work, args=(path, queue), daemon=True) for _ in range(3)]
    for worker in workers:
        worker.start()
    open_app(path, queue)

    result = square.delay(7)
    print("the square of 7:", result.get(timeout=30))

    result = app.chord([square.s(number) for number in range(100)], total.s())
    print("the sum of 100 squares:", result.get(timeout=30))

    for _ in workers:
        queue.put(None)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(f"{folder}/results.lmdb")
