"""Another process at work on the same store: it is told what to do over a pipe, and answers what came of it."""

import pickle
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmdbresults import LMDBStore, open_store
from lmdbresults.errors import NotACounter
from lmdbresults.testing import FakeClock

#: A verb of the store and its arguments.
Operation = tuple[Any, ...]


class Abort(Exception):
    """Ends a transaction that is to be undone."""


def perform(target: Any, operation: Operation) -> object:
    """Do one thing with a store, a transaction or a model; return what comes of it."""
    verb, *args = operation
    try:
        return getattr(target, verb)(*args)
    except NotACounter:
        return NotACounter


def act(store: LMDBStore, door: str, operations: Sequence[Operation]) -> list[object]:
    """Do several things: each by itself, or all in one transaction, which may be undone in the end."""
    if door == "each":
        return [perform(store, operation) for operation in operations]
    if door == "update":
        return store.update(lambda txn: [perform(txn, operation) for operation in operations])
    with suppress(Abort), store.write() as txn:
        results = [perform(txn, operation) for operation in operations]
        if door == "abort":
            raise Abort
    return results


class Peer:
    """A process that opens the same file and does what it is told. One serves many files, one after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.support.peer"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def open(self, path: str) -> None:
        """Turn to another file; the former one is closed."""
        self._ask(path, 0.0, "", [])

    def act(self, now: float, door: str, operations: Sequence[Operation]) -> list[object]:
        """Do what `act` does, at a given time."""
        return self._ask("", now, door, operations)

    def _ask(self, *request: object) -> Any:
        pickle.dump(request, self._process.stdin)
        self._process.stdin.flush()
        answer = pickle.load(self._process.stdout)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def serve() -> None:
    """Answer requests until there are no more."""
    clock, store = FakeClock(), None
    with suppress(EOFError):
        while True:
            path, clock.now, door, operations = pickle.load(sys.stdin.buffer)
            try:
                if path:
                    if store:
                        store.close()
                    store, answer = open_store(path, durability="none", clock=clock), []
                else:
                    answer = act(store, door, operations)
            except Exception as error:
                answer = error
            pickle.dump(answer, sys.stdout.buffer)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
