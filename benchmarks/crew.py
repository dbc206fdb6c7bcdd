"""Processes that start the same work at the same moment. Each opens the peers for itself."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Field

#: Seconds for a process to exit once its pipe is closed.
PATIENCE = 30.0
#: Seconds from sending an order to its start: every process must have received it by then.
LEAD = 0.1


class Crew:
    """A number of processes. They end with the bench."""

    def __init__(self, bench: Bench, size: int) -> None:
        context = get_context("spawn")  # a fork would inherit what the benchmark has open
        self._pipes: list[Connection] = []
        for _ in range(size):
            pipe, other_end = context.Pipe()
            process = context.Process(target=_serve, args=(other_end,), daemon=True)
            process.start()
            other_end.close()
            bench.stack.callback(process.join, PATIENCE)
            self._pipes.append(pipe)
        for pipe in self._pipes:
            bench.stack.callback(pipe.close)

    def run(self, count: int, work: Callable[..., Any], field: Field, name: str, *args: Any) -> list[Any]:
        """Return what ``work(peer, number, *args)`` returns in each of ``count`` processes."""
        return self.collect(self.start(count, work, field, name, *args))

    def start(
        self, count: int, work: Callable[..., Any], field: Field, name: str, *args: Any, lead: float = LEAD
    ) -> Sequence[Connection]:
        """Start work in ``count`` processes, ``lead`` seconds from now. Pass what this returns to `collect`."""
        pipes = self._pipes[:count]
        opened = field.peers[name], field.folders[name]
        for pipe in pipes:  # opening takes long in a process that has not imported the peer yet
            pipe.send((_nothing, opened, 0, 0.0, ()))
        self.collect(pipes)
        start = time.monotonic() + lead
        for number, pipe in enumerate(pipes):
            pipe.send((work, opened, number, start, args))
        return pipes

    @staticmethod
    def collect(pipes: Sequence[Connection]) -> list[Any]:
        """Return the results of processes, or raise the exception of one."""
        found = [pipe.recv() for pipe in pipes]
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return found


def _nothing(peer: Any, number: int) -> None:
    pass


def _serve(orders: Connection) -> None:
    """Execute orders until the pipe is closed."""
    clients: dict[tuple[str, Path], Any] = {}
    with ExitStack() as stack, suppress(EOFError, KeyboardInterrupt):
        while True:
            work, (about, folder), number, start, args = orders.recv()
            try:
                if (about.name, folder) not in clients:
                    clients[about.name, folder] = about.open(folder)
                    stack.callback(clients[about.name, folder].close)
                time.sleep(max(start - time.monotonic(), 0))
                orders.send(work(clients[about.name, folder], number, *args))
            except Exception as error:  # raised again in the main process
                orders.send(RuntimeError(f"{about.name}: {error!r}"))
