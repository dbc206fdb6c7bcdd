"""Serving the page on its own: a socket, and a server that is bounded in what it accepts."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette

from lmdbresults.errors import ConfigurationError

__all__ = ["bind", "serve"]

#: Connections and requests in progress at most. Open pages hold one each.
_MOST_CONNECTIONS: Final = 200
#: Seconds that the end waits for requests in progress.
_PATIENCE: Final = 2


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises `ConfigurationError` if that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError as error:
        cure = "Choose another with --port." if error.errno in (errno.EADDRINUSE, errno.EACCES) else "Check --host."
        reason = error.strerror or os.strerror(error.errno or errno.EINVAL)
        raise ConfigurationError(f"Port {port} of {host} cannot be used: {reason}. {cure}") from error
    return made


class _Server(uvicorn.Server):
    """A server that prepares what takes long, and ends the streams of open pages when it must stop."""

    def __init__(
        self, config: uvicorn.Config, prepare: Callable[[], Coroutine[Any, Any, None]], close: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._prepare = prepare
        self._close = close
        self._preparation: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._preparation = asyncio.create_task(self._prepare())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._close()
        super().handle_exit(sig, frame)


def serve(app: Starlette, listening: socket.socket) -> None:
    """Serve an application until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_PATIENCE,
    )
    with suppress(KeyboardInterrupt):
        _Server(config, app.state.prepare, app.state.close).run(sockets=[listening])
