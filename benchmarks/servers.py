"""Servers that peers need: each is private to the run, on a Unix socket in its folder, and ended by its process id."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Unavailable(Exception):
    """Raised when a peer cannot run on this machine; says why."""


#: Settings of Redis: nothing is written to disk.
IN_MEMORY: Mapping[str, str] = {"save": "", "appendonly": "no"}


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
    process = subprocess.Popen([binary, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + timeout
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable("redis-server did not start")
            time.sleep(0.02)
        yield socket
    finally:
        process.terminate()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
