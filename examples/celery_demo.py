"""Real Celery workers, no server: one LMDB file is broker and result backend.

    python examples/celery_demo.py

The application is in demo_tasks.py. This is its client: it starts three workers (with two pool processes each), sends
tasks, waits for their results, kills workers in the middle of their work, and finally opens the file.
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
from typing import Any

import demo_tasks
from celery import chord, group

import lmdbresults

PATIENCE = 30  # seconds to wait for any one result
TIME_LIMIT = 100  # seconds for the whole demo
WORKER = "-m celery --app demo_tasks worker --concurrency 2 --loglevel WARNING --hostname"


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


def ping() -> None:
    started = time.monotonic()
    (reply,) = demo_tasks.app.control.ping(timeout=10, limit=1)
    say("remote control", f"celery inspect ping: {reply}", started)


def kill_a_worker() -> None:
    """Kill a worker in the middle of a task. Another one takes the task over."""
    started = time.monotonic()
    result = demo_tasks.work.delay(0.5)
    victim = running(result)
    killed = kill_worker_of(victim["pid"])
    again = running(result, not_in=victim["pid"])
    assert result.get(timeout=PATIENCE) == again["pid"]
    say("kill -9 of a worker", f"its task ran again {(again['at'] - killed) * 1000:.0f} ms later", started)


def kill_a_worker_in_a_chord(folder: Path) -> None:
    """Kill a worker while the header of a chord runs. The body runs once."""
    started = time.monotonic()
    header = [demo_tasks.work.s(0.05) for _ in range(40)]
    result = chord(header)(demo_tasks.note_body.s(str(folder)))
    kill_worker_of(running(result.parent[20])["pid"])
    assert result.get(timeout=PATIENCE) == 40
    bodies = (folder / "bodies").read_text().splitlines()
    assert len(bodies) == 1
    say("kill -9 in a chord", f"40 of 40 parts, {len(bodies)} body", started)


def running(result: Any, not_in: int = 0) -> dict[str, Any]:
    """Return pid and time at which a task began to run, once it does so in another process than ``not_in``."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        state, info = result.state, result.info
        if state == "RUNNING" and isinstance(info, dict) and info["pid"] != not_in:
            return info
        time.sleep(0.002)
    raise TimeoutError(f"{result.id} does not run")


def kill_worker_of(pid: int) -> float:
    """Kill a worker and its pool, one process of which is given; return when."""
    os.killpg(os.getpgid(pid), signal.SIGKILL)
    return time.time()


def look_into(path: Path) -> None:
    """Open the file without Celery."""
    started = time.monotonic()
    with lmdbresults.open_store(path) as store:
        tasks = sum(1 for _ in store.scan(b"celery-task-meta-"))
        problems = store.check()
        ready = store.queues.state("celery")
        say("in the file now", f"{tasks} task results, {ready.ready if ready else 0} messages", started)
    print(f"    check: {'; '.join(problems) or 'no problems found'}")
    assert tasks == 247  # five single ones, 100 in the group, 100 and 40 in the chords and their two bodies
    assert not problems


@contextmanager
def running_workers(folder: Path, *names: str) -> Iterator[None]:
    """Run `celery worker` some times until the block ends."""
    workers = []
    with (folder / "worker.log").open("wb") as log:
        for name in names:
            worker = subprocess.Popen(
                [sys.executable, *WORKER.split(), f"{name}@%h"],
                cwd=Path(__file__).parent,
                env={**os.environ, "DEMO_FOLDER": str(folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            workers.append(worker)
    try:
        yield
    finally:
        for worker in workers:
            stop(worker)


def stop(worker: subprocess.Popen[bytes]) -> None:
    """Stop a worker: ask it to finish, which takes some seconds, and kill it with its pool processes if it does not."""
    worker.terminate()
    try:
        code = worker.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(worker.pid, signal.SIGKILL)
        code = worker.wait(timeout=10)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a worker ended with exit code {code}")


def demo(folder: Path) -> None:
    demo_tasks.configure(folder)
    started = time.monotonic()
    first = demo_tasks.add.delay(1, 1)  # it waits in the file
    with running_workers(folder, "one", "two", "three"):
        first.get(timeout=PATIENCE)
        say("workers started", "three, no server", started)
        ping()
        one_task()
        failing_task()
        progress()
        group_of_100()
        chord_of_100()
        kill_a_worker()
        kill_a_worker_in_a_chord(folder)
        started = time.monotonic()
    say("worker stopped", "by SIGTERM", started)
    look_into(folder / "celery.lmdb")


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
