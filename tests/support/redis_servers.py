"""Redis servers of the tests: on loopback or a Unix socket, in a folder of their own, ended by their process ids."""

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from lmdbresults.store.redis.layout import SLOTS

__all__ = [
    "RedisServer",
    "fail_over",
    "free_port",
    "redis_cluster",
    "redis_needed",
    "redis_server",
    "shift_time",
    "until",
]

#: Seconds in which a server must start.
_PATIENCE = 240.0

#: Settings of a node of a Cluster, whose replica takes over after seconds.
_CLUSTER: Final = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-require-full-coverage", "no"),
    *("--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0"),
)

#: Takes seconds off the time that is left to each key, as if so much time had passed.
_SHIFT = """
for _, name in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', name)
  if left >= 0 then redis.call('PEXPIRE', name, left - ARGV[1]) end
end
"""


def redis_needed() -> str:
    """Return the path of the server's program. Skip the test without it, or fail if this is the CI."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("redis-server is not installed")
        pytest.skip("redis-server is not installed")
    return program


class RedisServer:
    """A server that a test has started."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, path: Path | None) -> None:
        self.process = process
        self.port = port
        self.path = path
        self._client: Any = None

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"unix://{self.path}" if self.path else f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> Any:
        """Return a client of redis-py, which the caller closes."""
        import redis

        if self.path:
            return redis.Redis(unix_socket_path=str(self.path), **options)
        return redis.Redis(port=self.port, **options)

    def call(self, *command: Any) -> Any:
        """Return the answer to a command."""
        if self._client is None:
            self._client = self.client()
        return self._client.execute_command(*command)

    def kill(self) -> None:
        """End the server at once."""
        if self._client is not None:
            self._client.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def redis_server(folder: Path, *settings: str, port: int = 0, sentinel: Path | None = None) -> Iterator[RedisServer]:
    """Run a server until the block ends: on a Unix socket, or on a port of loopback if there is one.

    With the settings file of a ``sentinel``, it is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = None if port else folder / "socket"
    place = ["--port", str(port)] + (["--unixsocket", str(path)] if path else ["--bind", "127.0.0.1"])
    common = ["--save", "", "--dir", str(folder), "--daemonize", "no", "--maxmemory", "500mb"]
    command = [redis_needed(), *place, *common, *settings]
    if sentinel is not None:
        command = [redis_needed(), str(sentinel), "--sentinel", *place]
    if shutil.which("setpriv"):  # the server ends with the tests, also if those are killed
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    server = RedisServer(process, port, path)
    try:
        until(lambda: _answers(server), f"{folder / 'log'}: the server does not start")
        yield server
    finally:
        server.kill()


def _answers(server: RedisServer) -> bool:
    assert server.process.poll() is None, "the server has exited"
    if server.path:
        return server.path.exists()
    with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1):
        return True
    return False


@contextmanager
def redis_cluster(folder: Path, masters: int = 3, replicas: int = 0) -> Iterator[list[RedisServer]]:
    """Run a Cluster until the block ends; its masters come first, then their replicas in the same order."""
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(redis_server(folder / str(number), *_CLUSTER, port=free_port()))
            for number in range(masters * (1 + replicas))
        ]
        ids = [node.call("CLUSTER", "MYID") for node in nodes]
        for number, node in enumerate(nodes[:masters]):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first, last = SLOTS * number // masters, SLOTS * (number + 1) // masters - 1
            node.call("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in nodes[1:]:
            node.call("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        until(lambda: all(_knows(node, len(nodes)) for node in nodes), "the nodes do not meet")
        for number, node in enumerate(nodes[masters:]):
            node.call("CLUSTER", "REPLICATE", ids[number % masters])
        until(lambda: all(_is_ready(node) for node in nodes), "the Cluster does not come up")
        yield nodes


@contextmanager
def fail_over(folder: Path, nodes: Sequence[RedisServer], lag: float = 0.0) -> Iterator[None]:
    """Kill the first master of a Cluster in a folder. Once its replica has its slots, run it again, as their replica.

    During the last seconds of its life, the ``lag``, its replica hears nothing. The block begins when it has all data
    again, and ends with the server.
    """
    replica = nodes[len(nodes) // 2]
    if lag:
        replica.call("CONFIG", "SET", "masterauth", "a password that the master has not")
        nodes[0].call("CLIENT", "KILL", "TYPE", "replica")
        time.sleep(lag)
    nodes[0].kill()
    until(lambda: bool(replica.call("ROLE")[0] == b"master"), "the replica does not take over")
    with redis_server(folder / "0", *_CLUSTER, port=nodes[0].port) as again:
        until(lambda: bool(again.call("ROLE")[0] == b"slave") and _is_ready(again), "the master does not come back")
        yield


def _knows(node: RedisServer, count: int) -> bool:
    return f"cluster_known_nodes:{count}\r" in node.call("CLUSTER", "INFO").decode()


def _is_ready(node: RedisServer) -> bool:
    info = node.call("CLUSTER", "INFO").decode()
    if "cluster_state:ok\r" not in info or f"cluster_slots_ok:{SLOTS}\r" not in info:
        return False
    role = node.call("ROLE")
    return role[0] != b"slave" or role[3] == b"connected"


def free_port() -> int:
    """Return a port of loopback that is free, also the one 10,000 above it, on which nodes of a Cluster talk.

    They are below those that the system gives to connections, which could take them until the server listens.
    """
    choose = random.SystemRandom()  # Hypothesis seeds the other one, alike in all processes
    while True:
        port = choose.randrange(10_000, 20_000)
        with socket.socket() as low, socket.socket() as high, suppress(OSError):
            low.bind(("127.0.0.1", port))
            high.bind(("127.0.0.1", port + 10_000))
            return port


def until(condition: Callable[[], bool], failure: str) -> None:
    """Return once a condition holds."""
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end, failure
        time.sleep(0.02)


def shift_time(servers: list[RedisServer], seconds: float) -> None:
    """Have time pass for the keys of servers."""
    for server in servers:
        server.call("EVAL", _SHIFT, 0, round(seconds * 1000))
