"""Processes that peers need: servers and workers. Each is private to the run, and ended by its process id."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Unavailable(Exception):
    """Raised when a peer cannot run on this machine; says why."""


#: Settings of Redis: nothing is written to disk.
IN_MEMORY: Mapping[str, str] = {"save": "", "appendonly": "no"}


@contextmanager
def process(command: Sequence[str | Path], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, and all that it forks, until the block ends; what it says goes to a file."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def used_cpu(session: int) -> float:
    """Return the seconds of processor time of a process and of those that it started, ended ones included."""
    ticks = sum(sum(map(int, fields[11:15])) for _, fields in _processes(session))
    return ticks / os.sysconf("SC_CLK_TCK")


def ran(session: int) -> float:
    """Return the seconds that the living threads of a process, and of those that it started, have run.

    Finer than `used_cpu`, which counts in ticks of a hundredth of a second.
    """
    times = [file.read_text() for folder, _ in _processes(session) for file in folder.glob("task/*/schedstat")]
    return sum(int(each.split()[0]) for each in times) / 1e9


def wake_ups(session: int) -> int:
    """Return how often the threads of a process, and of those that it started, have fallen asleep."""
    statuses = [status for folder, _ in _processes(session) for status in folder.glob("task/*/status")]
    return sum(int(status.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for status in statuses)


def _processes(session: int) -> Iterator[tuple[Path, list[str]]]:
    """Yield folder and state (proc(5), from its third field on) of each process of a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                yield folder, fields


@contextmanager
def redis_server(folder: Path, persistence: Mapping[str, str] = IN_MEMORY, *, timeout: float = 10.0) -> Iterator[Path]:
    """Run a Redis server until the block ends; yield the path of its socket."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise Unavailable("not installed: redis-server")
    socket = folder / "redis.sock"
    settings = {"port": "0", "unixsocket": str(socket), "unixsocketperm": "700", **persistence}
    settings |= {"dir": str(folder), "maxmemory": "4gb", "daemonize": "no"}
    arguments = [text for name, value in settings.items() for text in (f"--{name}", value)]
    with process([binary, *arguments], folder / "redis.log") as server:
        deadline = time.monotonic() + timeout
        while not socket.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"redis-server did not start: {folder / 'redis.log'}")
            time.sleep(0.02)
        yield socket


@contextmanager
def celery_worker(folder: Path, app: str, variables: Mapping[str, str], *options: str) -> Iterator[int]:
    """Run a Celery worker with two processes until the block ends; yield its process id."""
    arguments = ["--app", app, "worker", "--concurrency", "2", "--loglevel", "ERROR", *options]
    command = [sys.executable, "-m", "celery", *arguments]
    with process(command, folder / "worker.log", cwd=ROOT, env={**os.environ, **variables}) as worker:
        yield worker.pid
