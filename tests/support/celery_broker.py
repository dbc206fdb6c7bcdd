"""A broker that needs no server: a folder with a file for each message and each binding, for tests on one machine.

Kombu's own file transport lets a reader see a file that is still being written, and lists its folder again for each
message, which takes minutes for ten thousand. Here a file appears whole, by rename, and a listing is used up first.
"""

import time
import uuid
from collections import deque
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import virtual
from kombu.utils.json import dumps, loads


class Channel(virtual.Channel):
    supports_fanout = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.folder = Path(self.connection.client.transport_options["folder"])
        self._listed: dict[str, deque[Path]] = {}

    def _put(self, queue: str, message: object, **kwargs: Any) -> None:
        self._write(self._place("queue", queue) / f"{time.monotonic_ns():020}-{uuid.uuid4()}", message)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        waiting = self._listed.get(queue) or deque(sorted(self._place("queue", queue).iterdir()))
        self._listed[queue] = waiting
        while waiting:
            taken = self._place("taken") / str(uuid.uuid4())
            try:
                waiting.popleft().rename(taken)
            except FileNotFoundError:
                continue  # another consumer was faster
            message = loads(taken.read_text())
            taken.unlink()
            return message
        raise Empty

    def _size(self, queue: str) -> int:
        return len(list(self._place("queue", queue).iterdir()))

    def _purge(self, queue: str) -> int:
        found = list(self._place("queue", queue).iterdir())
        for message in found:
            message.unlink(missing_ok=True)
        return len(found)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        self._write(self._place("exchange", exchange) / queue, [routing_key, pattern, queue])

    def get_table(self, exchange: str) -> list[list[str]]:
        return [loads(binding.read_text()) for binding in self._place("exchange", exchange).iterdir()]

    def _put_fanout(self, exchange: str, message: object, routing_key: str, **kwargs: Any) -> None:
        for _, _, queue in self.get_table(exchange):
            self._put(queue, message)

    def _write(self, path: Path, content: object) -> None:
        unfinished = self._place("unfinished") / str(uuid.uuid4())
        unfinished.write_text(dumps(content))
        unfinished.rename(path)

    def _place(self, *names: str) -> Path:
        place = self.folder.joinpath(*names)
        place.mkdir(parents=True, exist_ok=True)
        return place


class Transport(virtual.Transport):
    Channel = Channel
    driver_type = driver_name = "folder"
    polling_interval = 0.01
    #: Asynchronous, as with a server: the processes of a prefork pool then have a pipe each. Otherwise they share one,
    #: whose lock dies with a process that is killed while it waits for work.
    implements = virtual.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset(["direct", "topic", "fanout"])
    )

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        loop.call_repeatedly(self.polling_interval, self._deliver_all)

    def _deliver_all(self) -> None:
        with suppress(Empty):
            while True:
                self.cycle.get(self._deliver)

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> None:
        # A worker without event loop notices that it must stop only when this returns.
        super().drain_events(connection, timeout and min(timeout, 0.1), **kwargs)
