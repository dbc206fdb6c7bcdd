"""A week in an hour: ``python -m tests.stress.soak --minutes 60``. Exits with 1 if anything grew or was left behind.

Beat sends a task each second; Flower watches if it is installed (``pip install flower``), else a receiver of events and
`inspect` calls. One worker lives all the time and replaces its processes (``max_tasks_per_child``); two others are
killed and replaced at random moments, as are clients that publish, wait, consume, inspect and receive events. Results
expire after a few seconds, so what is kept reaches its level early.

Measured meanwhile: the records of the queues, waiters, files, the size of the file, and descriptors, threads and memory
of the processes that live all the time. At the end all dies but one worker, and nothing may be left behind.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from lmdbresults import LMDBStore, open_store
from tests.stress.soak_figures import grown, of_process, of_store
from tests.support.celery_tasks import ACKNOWLEDGED, SETTINGS
from tests.support.queue_audit import audit

_ROOT: Final = Path(__file__).parents[2]
#: Seconds after which results expire; samples of the figures in all; seconds between two deaths, at most.
_EXPIRES, _SAMPLES, _BETWEEN_DEATHS = 10, 120, 4.0
#: Seconds in which what was left behind must be cleared away.
_PATIENCE: Final = 240.0
_CLIENTS: Final = ("publisher", "publisher", "waiter", "consumer", "inspector", "watcher")
_WORKER: Final = ("worker", "--loglevel", "INFO", "--task-events")
_LASTING_QUEUES: Final = {"celery", "side"}


def settings_for(path: Path) -> dict[str, Any]:
    """Return the settings of the application: one file for all."""
    url = f"lmdb://{path}"
    return {
        "broker_url": url,
        "result_backend": url,
        "result_expires": _EXPIRES,
        "task_acks_late": True,
        "worker_prefetch_multiplier": 4,
        "worker_hijack_root_logger": False,
        "broker_connection_retry_on_startup": True,
        "beat_schedule": {"every second": {"task": "add", "schedule": 1.0, "args": [1, 2]}},
    }


class Cast:
    """The processes of the soak. Those that are `mortal` are killed at random, and replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            SETTINGS: json.dumps(settings_for(folder / "soak.lmdb")),
            ACKNOWLEDGED: str(folder / "acknowledged"),
        }
        self.lasting: dict[str, subprocess.Popen[bytes]] = {}
        self._mortal: list[tuple[str, subprocess.Popen[bytes], Callable[[], subprocess.Popen[bytes]]]] = []
        self.deaths: Counter[str] = Counter()

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        """Start a module of Python with arguments, as the leader of a process group."""
        with (self._folder / f"{command[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=_ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def celery(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command of Celery."""
        return self.start("celery", "--app", "tests.support.celery_tasks", *arguments)

    def add_mortal(self, name: str, make: "Callable[[], subprocess.Popen[bytes]]") -> None:
        """Start a process that is killed at some time, and then started again by the same call."""
        self._mortal.append((name, make(), make))

    def kill_some(self, chance: random.Random) -> None:
        """Kill a process and all of its children, or a child of the lasting worker; replace those that have died."""
        if chance.random() < 0.15:
            self.deaths["child of a worker"] += _kill_a_child(self.lasting["worker"].pid, chance)
            return
        name, victim, make = self._mortal.pop(chance.randrange(len(self._mortal)))
        self.deaths[name] += 1
        _kill(victim)
        self.add_mortal(name, make)

    def kill_mortal(self) -> None:
        """Kill all that is mortal, for good."""
        for _, process, _ in self._mortal:
            _kill(process)
        self._mortal.clear()

    def end(self) -> None:
        """End all processes."""
        self.kill_mortal()
        for process in self.lasting.values():
            _kill(process)

    def ended(self) -> list[str]:
        """Return which of the lasting processes have ended."""
        return [f"{name} has ended by itself" for name, process in self.lasting.items() if process.poll() is not None]


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_PATIENCE)


def _kill_a_child(pid: int, chance: random.Random) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if children:
        with suppress(ProcessLookupError):
            os.kill(int(chance.choice(children)), signal.SIGKILL)
    return len(children[:1])


class Flower:
    """Flower on a port of this machine, or nothing if it is not installed."""

    def __init__(self, cast: Cast) -> None:
        self._port = 0
        if find_spec("flower") is None:
            print("Flower is not installed: a receiver of events and inspect calls take its place.")
            cast.lasting["watcher"] = cast.start("tests.stress.soak_clients", "watcher", "1")
            cast.lasting["inspector"] = cast.start("tests.stress.soak_clients", "inspector", "2")
            return
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        cast.lasting["flower"] = cast.celery(
            "flower", "--address=127.0.0.1", f"--port={self._port}", "--max-tasks=200", "--purge-offline-workers=10"
        )

    def look(self) -> str:
        """Return the page of workers, as a browser that is left open would fetch it."""
        if not self._port:
            return ""
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self._port}/workers", timeout=10) as page:
            text: str = page.read().decode()
            return text
        return ""

    def problems(self) -> list[str]:
        """Return what is wrong with what it shows."""
        return ["Flower does not show the worker"] if self._port and "lasting@soak" not in self.look() else []


@contextmanager
def playing(folder: Path, chance: random.Random) -> Iterator[tuple[Cast, Flower]]:
    """Run all processes during the block."""
    cast = Cast(folder)
    try:
        recycling = ("--concurrency=2", "--max-tasks-per-child=50")
        cast.lasting["worker"] = cast.celery(*_WORKER, "--hostname=lasting@soak", *recycling)
        cast.lasting["beat"] = cast.celery("beat", f"--schedule={folder / 'schedule'}", "--pidfile=")
        flower = Flower(cast)
        for name, options in {"prefork": recycling, "threads": ("--concurrency=2", "--pool=threads")}.items():
            command = (*_WORKER, f"--hostname={name}@soak", *options)
            cast.add_mortal(f"{name} worker", lambda command=command: cast.celery(*command))
        for role in _CLIENTS:
            seed = str(chance.randrange(1 << 30))
            command = ("tests.stress.soak_clients", role, seed)
            cast.add_mortal(role, lambda command=command: cast.start(*command))
        yield cast, flower
    finally:
        cast.end()


def soak(folder: Path, seconds: float, chance: random.Random) -> list[str]:
    """Run the soak; return what is wrong."""
    path = folder / "soak.lmdb"
    with open_store(path) as store, ExitStack() as stack:
        cast, flower = stack.enter_context(playing(folder, chance))
        samples, start = [], time.monotonic()
        next_death, every = start + 0.15 * seconds, max(seconds / _SAMPLES, 0.5)
        for number in range(1, int(seconds / every) + 1):
            while (now := time.monotonic()) < start + number * every:
                if now >= next_death:
                    cast.kill_some(chance)
                    next_death = now + chance.random() * 2 * _BETWEEN_DEATHS
                time.sleep(0.1)
            samples.append(_sample(store, path, cast))
            if number % 12 == 0:
                flower.look()
                _say(now - start, samples[-1], folder)
        problems = [*cast.ended(), *flower.problems(), *grown(samples)]
        print(f"deaths: {dict(cast.deaths)}")
        cast.kill_mortal()
        problems += _left_behind(store, {process.pid for process in cast.lasting.values()})
        stack.close()  # ends all
        store.queues.recover()
        problems += [f"{owner} is still an owner" for owner in store.queues.owners()]
        problems += [f"queue {name!r} is left" for name in set(store.queues.names()) - _LASTING_QUEUES]
        return problems + audit(store) + [str(problem) for problem in store.check()]


def _sample(store: LMDBStore, path: Path, cast: Cast) -> dict[str, float]:
    figures = of_store(store, path)
    for name, process in cast.lasting.items():
        figures.update({f"{name}: {what}": value for what, value in of_process(process.pid).items()})
    return figures


def _left_behind(store: LMDBStore, living: set[int]) -> list[str]:
    """Return what has not been cleared away, once only one worker is left and has done all the work."""
    until = time.monotonic() + _PATIENCE
    while problems := _remains(store, living):
        if time.monotonic() > until:
            return problems
        time.sleep(0.5)
    return []


def _remains(store: LMDBStore, living: set[int]) -> list[str]:
    queues = store.queues
    problems = [f"{owner} is an owner and dead" for owner in queues.owners() if not store.is_alive(owner)]
    celery = queues.state("celery")
    if celery is None or celery.ready > 5 or celery.delayed:
        problems.append(f"the worker has not emptied its queue: {celery}")
    problems += [
        f"{each.tag} is held by {each.owner}" for each in queues.unacknowledged() if each.owner.pid not in living
    ]
    figures = store.stats()
    # The worker, its processes and beat have one each, the worker's connections a few.
    if figures.waiters > 16:
        problems.append(f"{figures.waiters} boxes of waiters are in use")
    return problems


def _say(seconds: float, figures: dict[str, float], folder: Path) -> None:
    log = folder / "acknowledged"
    done = log.read_bytes().count(b"\n") if log.exists() else 0
    print(f"{seconds:.0f} s, {done} tasks: " + ", ".join(f"{name} {value:.0f}" for name, value in figures.items()))
    sys.stdout.flush()


def main() -> int:
    """Run the soak as the arguments say; return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        problems = soak(Path(folder), 60 * arguments.minutes, random.Random(arguments.seed))
        if problems:
            for log in Path(folder).glob("*.log"):
                print(f"-- the end of {log.name}", *log.read_text(errors="replace").splitlines()[-30:], sep="\n")
    print(*(problems or ["nothing grew, and nothing was left behind"]), sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
