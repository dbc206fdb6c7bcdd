"""Commands to a deployment: sent to the right server, and sent again while that may help."""

import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha1
from typing import Any, Final, NamedTuple

from lmdbresults.errors import StoreClosed
from lmdbresults.store.redis.driver import load_driver
from lmdbresults.store.redis.faults import is_transient, is_try_again, redirection, translated
from lmdbresults.store.redis.layout import slot_of
from lmdbresults.store.redis.nodes import Command, Node, deployment
from lmdbresults.store.redis.options import RedisOptions

__all__ = ["Patience", "Request", "Script", "Server", "once_name"]

#: Seconds of the first pause before an operation is run again, and of the longest.
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
#: Commands that are sent together at most.
_BATCH: Final = 2000
#: What comes before the random end of `once_name`.
_ONCE: Final = b".once-"
#: How often a command follows a slot that has moved before it waits.
_MOST_MOVES: Final = 5


class Script:
    """A Lua script. The server keeps it, and gets only its digest from then on.

    ``again`` is the source of what runs instead once the answer to a first run may have been lost, if that differs.
    """

    def __init__(self, source: str, again: str | None = None) -> None:
        self.source = source
        self.digest = _digest(source)
        self.again = self if again is None else Script(again)
        _scripts[self.digest] = self


def _digest(source: str) -> str:
    return sha1(source.encode()).hexdigest()  # noqa: S324 - which the server demands


_scripts: Final[dict[str, Script]] = {}


def _repeated(command: Command) -> Command:
    """Return the command that takes the place of one whose answer may have been lost."""
    if command[0] not in ("EVALSHA", "EVAL"):
        return command
    digest = command[1] if command[0] == "EVALSHA" else _digest(command[1])
    return ("EVALSHA", _scripts[digest].again.digest, *command[2:])


def once_name(name: bytes) -> bytes:
    """Return a name in the slot of another one under which the outcome of one call is kept for a while."""
    return b"%b%b%b" % (name, _ONCE, os.urandom(8).hex().encode())


def _without_once(command: Command) -> Command | None:
    """Return the command of a script without the name of `once_name`, which is its last key; None if it has none."""
    if command[0] not in ("EVALSHA", "EVAL") or _ONCE not in command[2 + command[2]]:
        return None
    return (*command[:2], command[2] - 1, *command[3 : 2 + command[2]], *command[3 + command[2] :])


class Request(NamedTuple):
    """A command, and the name of the key by which its server is found."""

    name: bytes
    command: Command


class Patience:
    """The pauses of one operation that is run again, and their end."""

    def __init__(self, seconds: float, sleep: Callable[[float], object] = time.sleep) -> None:
        self._until = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE
        self._sleep = sleep

    def pause(self) -> bool:
        """Sleep for a random time, longer each time; return False, at once, if the time is up."""
        left = self._until - time.monotonic()
        if left <= 0:
            return False
        self._sleep(min(left, self._pause * random.uniform(0.5, 1.0)))  # noqa: S311 - not a secret
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True


class Server:
    """The deployment of a store, to send commands to. Threads may share it."""

    def __init__(self, options: RedisOptions) -> None:
        self.options = options
        driver = load_driver()
        self._errors: tuple[type[Exception], ...] = (driver.base_error, OSError)
        self._no_script = driver.exceptions.NoScriptError
        self.nodes = deployment(options)
        self.is_closed = False

    # -- commands ------------------------------------------------------------------------------------------------

    def call(self, name: bytes, *command: Any) -> Any:
        """Return the answer to a command that is about one key, or keys in the slot of one."""
        try:
            return self.nodes.node(slot_of(name)).call(command)
        except self._errors as error:
            return self._again(Request(name, command), error)

    def run(self, script: Script, names: Sequence[bytes], *arguments: Any) -> Any:
        """Return what a script returns. The ``names`` of its keys lie in one slot."""
        return self.call(names[0], "EVALSHA", script.digest, len(names), *names, *arguments)

    def call_all(self, requests: Sequence[Request]) -> list[Any]:
        """Return the answers to many commands, which are sent together to each server."""
        answers: list[Any] = [None] * len(requests)
        patience = Patience(self.options.retry_timeout)
        left: Iterable[int] = range(len(requests))
        while left:
            failed: list[int] = []
            failure: Exception | None = None
            for node, batch in self._by_node(requests, left):
                try:
                    got = node.call_all([requests[index].command for index in batch])
                except self._errors as error:
                    failed, failure = failed + batch, error
                    continue
                for index, answer in zip(batch, got, strict=True):
                    answers[index] = self._again(requests[index], answer) if isinstance(answer, Exception) else answer
            if failure is not None:
                self._wait(failure, patience)
                requests = [request._replace(command=_repeated(request.command)) for request in requests]
            left = failed
        return answers

    def _by_node(self, requests: Sequence[Request], indices: Iterable[int]) -> list[tuple[Node, list[int]]]:
        """Return the requests by server, in batches."""
        by_node: defaultdict[Node, list[int]] = defaultdict(list)
        patience = Patience(self.options.retry_timeout)
        for index in indices:
            by_node[self._node(requests[index].name, patience)].append(index)
        return [
            (node, batch[start : start + _BATCH])
            for node, batch in by_node.items()
            for start in range(0, len(batch), _BATCH)
        ]

    def find(self, name: bytes) -> Node:
        """Return the server that has a key."""
        return self._node(name, Patience(self.options.retry_timeout))

    def masters(self) -> list[Node]:
        """Return all servers that have keys."""
        self._node(b"", Patience(self.options.retry_timeout))
        return list(self.nodes.masters())

    def call_at(self, node: Node, *command: Any) -> Any:
        """Return the answer to a command of one server, such as SCAN."""
        patience = Patience(self.options.retry_timeout)
        while True:
            try:
                return node.call(command)
            except self._errors as error:
                self._wait(error, patience)

    # -- errors --------------------------------------------------------------------------------------------------

    def _node(self, name: bytes, patience: Patience) -> Node:
        while True:
            try:
                return self.nodes.node(slot_of(name))
            except self._errors as error:
                self._wait(error, patience)

    def _again(self, request: Request, error: Exception) -> Any:
        """Run a command again that has failed, as its error tells; raise what remains."""
        patience, (name, command) = Patience(self.options.retry_timeout), request
        moves = 0
        while True:
            asked: Node | None = None
            kind, address = redirection(error) or ("", "")
            if kind == "MOVED" and moves < _MOST_MOVES:
                moves += 1
                self.nodes.moved(slot_of(name), address)
            elif kind == "ASK":  # the key is on its way: that node has it, but not its slot
                asked = self.nodes.at(address)
            elif isinstance(error, self._no_script):
                command = ("EVAL", _scripts[command[1]].source, *command[2:])
            elif is_try_again(error) and (shorter := _without_once(command)):
                command = shorter
            else:
                self._wait(error, patience)
                command = _repeated(command)
            try:
                if asked is None:
                    return self.nodes.node(slot_of(name)).call(command)
                answer = asked.call_all([("ASKING",), command])[1]
                if not isinstance(answer, Exception):
                    return answer
                error = answer
            except self._errors as later:
                error = later

    def _wait(self, error: Exception, patience: Patience) -> None:
        """Wait until it may help to run an operation again; raise its error if it cannot, or takes too long."""
        if not is_transient(error) or not patience.pause():
            raise translated(error, self.options) from error
        try:
            self.nodes.refresh()
        except self._errors:
            return  # the next try finds out

    # -- the end -------------------------------------------------------------------------------------------------

    def require_open(self) -> None:
        """Raise `StoreClosed` once the store is closed."""
        if self.is_closed:
            raise StoreClosed("The store is closed. Open it again: open_store(url).")

    def close(self) -> None:
        """Close the connections."""
        self.is_closed = True
        self.nodes.disconnect()
