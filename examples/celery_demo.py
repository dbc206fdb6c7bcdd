"""A real Celery worker, no server: results, progress, an error, a group and a chord, all through one LMDB file.

    python examples/celery_demo.py

The application is in demo_tasks.py. This is its client: it starts a worker (with two pool processes), sends tasks,
waits for their results, and finally opens the result file.
"""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import demo_tasks
from celery import chord, group

import lmdbresults

PATIENCE = 30  # seconds to wait for any one result
TIME_LIMIT = 55  # seconds for the whole demo
WORKER = "-m celery --app demo_tasks worker --concurrency 2 --loglevel WARNING"
WORKER += " --without-gossip --without-mingle --without-heartbeat"


def one_task() -> None:
    started = time.monotonic()
    result = demo_tasks.add.delay(2, 3)
    assert result.get(timeout=PATIENCE) == 5
    say("one task", f"add(2, 3) = {result.result}, {result.state}", started)


def failing_task() -> None:
    started = time.monotonic()
    result = demo_tasks.divide.delay(1, 0)
    try:
        result.get(timeout=PATIENCE)
    except ZeroDivisionError as error:  # the same class as in the worker
        say("a task that fails", f"{type(error).__name__}: {error}, {result.state}", started)
    place = result.traceback.rindex("  File ")
    print(textwrap.indent(result.traceback[place:].rstrip(), "    | "))


def progress() -> None:
    started = time.monotonic()
    result = demo_tasks.copy_rows.delay(5)
    seen: list[int] = []
    while not result.ready() and time.monotonic() < started + PATIENCE:
        state, info = result.state, result.info
        if state == "PROGRESS" and isinstance(info, dict) and info["row"] not in seen:
            seen.append(info["row"])
        time.sleep(0.02)
    say("progress on the way", f"rows {seen}, then {result.get(timeout=PATIENCE)!r}", started)


def group_of_100() -> None:
    started = time.monotonic()
    result = group(demo_tasks.add.s(n, n) for n in range(100)).apply_async()
    sums = result.get(timeout=PATIENCE)
    assert sums == [n + n for n in range(100)]
    say("a group of 100", f"{result.completed_count()} results in order, {sums[:3]} ... {sums[-1]}", started)


def chord_of_100() -> None:
    started = time.monotonic()
    result = chord(demo_tasks.add.s(n, n) for n in range(100))(demo_tasks.total.s())
    assert result.get(timeout=PATIENCE) == sum(n + n for n in range(100))
    say("a chord of 100", f"total of 100 sums = {result.result}, added up in the worker", started)


def look_into(path: Path) -> None:
    """Open the file without Celery."""
    started = time.monotonic()
    with lmdbresults.open_store(path) as store:
        tasks = sum(1 for _ in store.scan(b"celery-task-meta-"))
        problems = store.check()
        say("in the file now", f"{tasks} task results, {store.stats().file_size / 1024:.0f} KiB", started)
    print(f"    check: {'; '.join(problems) or 'no problems found'}")
    assert tasks == 205  # four single ones, 100 in the group, 100 in the chord and its total
    assert not problems


@contextmanager
def running_worker(folder: Path) -> Iterator[None]:
    """Run `celery worker` until the block ends."""
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, *WORKER.split()],
            cwd=Path(__file__).parent,
            env={**os.environ, "DEMO_FOLDER": str(folder)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        stop(worker)


def stop(worker: subprocess.Popen[bytes]) -> None:
    """Stop a worker: ask it to finish, which takes some seconds, and kill it with its pool processes if it does not."""
    worker.terminate()
    try:
        code = worker.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(worker.pid, signal.SIGKILL)
        code = worker.wait(timeout=10)
    if code != 0:
        raise RuntimeError(f"the worker ended with exit code {code}")


def demo(folder: Path) -> None:
    demo_tasks.configure(folder)
    # Sent before the worker starts. This creates the queue, which client and worker must not do at the same time.
    first = demo_tasks.add.delay(1, 1)
    started = time.monotonic()
    with running_worker(folder):
        first.get(timeout=PATIENCE)
        say("worker started", "two processes, no server", started)
        one_task()
        failing_task()
        progress()
        group_of_100()
        chord_of_100()
        started = time.monotonic()
    say("worker stopped", "by SIGTERM", started)
    look_into(folder / "results.lmdb")


def say(what: str, found: str, started: float) -> None:
    print(f"{what:<20} {found:<64} {(time.monotonic() - started) * 1000:6.0f} ms", flush=True)


def show_end_of(log: Path) -> None:
    if log.exists():
        print(f"{log.name} ends:", *log.read_text().splitlines()[-30:], sep="\n  ", file=sys.stderr)


def give_up(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"stopped by {signal.Signals(signum).name}")


def main() -> int:
    signal.signal(signal.SIGTERM, give_up)
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TIME_LIMIT)
    with tempfile.TemporaryDirectory(prefix="lmdbresults-demo-") as name:
        try:
            demo(Path(name))
        except Exception:
            traceback.print_exc()
            show_end_of(Path(name, "worker.log"))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
