"""Processes that do the same work at the same moment, each with the peers open for itself."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Field

#: Seconds in which a process ends once its line is closed.
PATIENCE = 30.0
#: Seconds from an order to its beginning: all have to have it by then.
LEAD = 0.1


class Crew:
    """So many processes; they end with the stack."""

    def __init__(self, bench: Bench, size: int) -> None:
        context = get_context("spawn")  # a fork would copy what the benchmark itself has open
        self.lines: list[Connection] = []
        for _ in range(size):
            ours, its = context.Pipe()
            process = context.Process(target=_obey, args=(its,), daemon=True)
            process.start()
            its.close()
            bench.stack.callback(process.join, PATIENCE)
            self.lines.append(ours)
        for line in self.lines:
            bench.stack.callback(line.close)

    def run(self, count: int, work: Callable[..., Any], field: Field, name: str, *args: Any) -> list[Any]:
        """What ``work(peer, number, *args)`` returns in so many processes, which begin together."""
        return self.collect(self.begin(count, work, field, name, *args))

    def begin(self, count: int, work: Callable[..., Any], field: Field, name: str, *args: Any) -> Sequence[Connection]:
        """Have the first ``count`` processes begin; `collect` waits for them."""
        members = self.lines[:count]
        opened = field.classes[name], field.folders[name]
        for line in members:  # opening takes a while, above all in a process that has not imported it yet
            line.send((_nothing, opened, 0, 0.0, ()))
        self.collect(members)
        start = time.monotonic() + LEAD
        for number, line in enumerate(members):
            line.send((work, opened, number, start, args))
        return members

    @staticmethod
    def collect(members: Sequence[Connection]) -> list[Any]:
        """What they return, or the exception of one."""
        found = [line.recv() for line in members]
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return found


def _nothing(peer: Any, number: int) -> None:
    pass


def _obey(orders: Connection) -> None:
    """Do what is asked for until nobody asks any more."""
    peers: dict[tuple[type[Any], Path], Any] = {}
    with ExitStack() as stack, suppress(EOFError, KeyboardInterrupt):
        while True:
            work, opened, number, start, args = orders.recv()
            try:
                if opened not in peers:
                    about, folder = opened
                    peers[opened] = about(folder)
                    stack.callback(peers[opened].close)
                time.sleep(max(start - time.monotonic(), 0))
                orders.send(work(peers[opened], number, *args))
            except Exception as error:  # of a peer's own; the main process raises it
                orders.send(RuntimeError(f"{opened[0].__name__}: {error!r}"))
