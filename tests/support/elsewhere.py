"""Another process that stores results, and what is left of waiting for them."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lmdbresults.backends import LMDBBackend, open_backend
from tests.support import waits
from tests.support.waits import sockets

__all__ = ["HOUR", "Elsewhere", "elsewhere", "registrations", "sockets"]

#: As an interval: a wake-up that is missed hangs, and the test times out.
HOUR = 3600.0


class Elsewhere:
    """A process with a backend over the same file, which does what it is told. One serves many files in turn."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._begun = 0

    def begin(self, *calls: tuple[Any, ...]) -> None:
        """Have methods called, each given as ``(name, *args)``, and do not wait for it."""
        assert self._process.stdin is not None
        pickle.dump(calls, self._process.stdin)
        self._process.stdin.flush()
        self._begun += 1

    def end(self) -> None:
        """Wait until all that was begun is done."""
        assert self._process.stdout is not None
        for _ in range(self._begun):
            assert self._process.stdout.readline() == b"done\n"
        self._begun = 0

    def do(self, *calls: tuple[Any, ...]) -> None:
        """Have methods called, and wait for it."""
        self.begin(*calls)
        self.end()


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """Run such a process meanwhile. Tell it to ``open`` a file first."""
    command = [sys.executable, "-W", "error", "-m", "tests.support.elsewhere"]
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Elsewhere(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def serve() -> None:
    """Do what is told by the standard input, until it ends."""
    backend: Any = None
    with suppress(EOFError):
        while True:
            for name, *args in pickle.load(sys.stdin.buffer):
                if name == "open":
                    backend = open_backend(*args, durability="none")
                elif name == "await registrations":
                    await_registrations(backend, *args)
                elif name == "signal":
                    time.sleep(0.05)  # a waiter marks its keys before it sleeps; a mark that is interrupted may stay
                    os.kill(*args)
                else:
                    getattr(backend, name)(*args)
            print("done", flush=True)


def await_registrations(backend: LMDBBackend, count: int) -> None:
    """Wait until so many keys are waited for."""
    while registrations(backend) < count:
        pass


def registrations(backend: LMDBBackend) -> int:
    """Return how many keys are followed in all processes, without those that this one is about to leave."""
    for hub in (*backend.waiting._hubs.values(), *backend.waiting.in_loop._hubs._hubs.values()):
        hub._unsubscribe()
    return waits.registrations(backend._options.path)


if __name__ == "__main__":
    serve()
