"""Servers that peers need, each private to the run: started on a Unix socket in its folder, ended by its process id."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Unavailable(Exception):
    """Raised when a peer cannot run on this machine; says why, and what would help."""


#: Nothing is written to disk.
IN_MEMORY: Mapping[str, str] = {"save": "", "appendonly": "no"}


@contextmanager
def redis_server(folder: Path, persistence: Mapping[str, str] = IN_MEMORY, *, timeout: float = 10.0) -> Iterator[Path]:
    """A Redis server with these settings of its persistence; yields the path of its socket."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise Unavailable("not installed: redis-server")
    socket = folder / "redis.sock"
    settings = {"port": "0", "unixsocket": str(socket), "unixsocketperm": "700", **persistence}
    settings |= {"dir": str(folder), "maxmemory": "4gb", "daemonize": "no"}
    arguments = [text for name, value in settings.items() for text in (f"--{name}", value)]
    process = subprocess.Popen([binary, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for_socket(socket, process, timeout)
        yield socket
    finally:
        end(process)


def wait_for_socket(socket: Path, process: "subprocess.Popen[bytes]", timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable("redis-server did not start")
        time.sleep(0.02)


def end(process: "subprocess.Popen[bytes]", *, timeout: float = 5.0) -> None:
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
