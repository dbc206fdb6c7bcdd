"""A proxy in front of a server, which can lose answers, go silent, or cut connections."""

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["Proxy", "proxy"]


class Proxy:
    """What lies between a store and its server, on a port of loopback."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: How many of the next answers are lost, each with its connection.
        self.answers_to_lose = 0
        #: Whether nothing passes, though connections stay.
        self.is_silent = False
        self._pairs: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as server:
            self._pairs.add(client)
            with selectors.DefaultSelector() as selector:
                selector.register(client, selectors.EVENT_READ, server)
                selector.register(server, selectors.EVENT_READ, client)
                while True:
                    for key, _ in selector.select(0.1):
                        data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                        if not data or (key.fileobj is server and self._loses(data)):
                            return
                        if not self.is_silent:
                            key.data.sendall(data)

    def _loses(self, answer: bytes) -> bool:
        if self.answers_to_lose and not answer.startswith(b"+OK"):  # not one of the greetings
            self.answers_to_lose -= 1
            return True
        return False

    def cut(self) -> None:
        """Cut all connections."""
        for client in list(self._pairs):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        """Take no more connections, and cut those that there are."""
        self._listener.close()
        self.cut()


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """Run a proxy in front of a port until the block ends."""
    between = Proxy(port)
    try:
        yield between
    finally:
        between.close()
