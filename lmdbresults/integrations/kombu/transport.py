"""The transport: connections of kombu to the queues of one LMDB file."""

import os
import sys
import time
from contextlib import ExitStack
from typing import Any, Final

from kombu.exceptions import ChannelError, ConnectionError  # noqa: A004
from kombu.transport import base

from lmdbresults.errors import OpenError, QueueFull, StoreBusy, StoreClosed, StoreFull, TooManyReaders
from lmdbresults.integrations.kombu.channel import Channel
from lmdbresults.integrations.kombu.event_loop import LoopDriver
from lmdbresults.integrations.kombu.receiver import Receiver
from lmdbresults.integrations.kombu.warm_shutdown import watch_workers
from lmdbresults.integrations.transport_options import STORE_OPTIONS, store_options
from lmdbresults.options import DEDUPE, is_deduplicating
from lmdbresults.store.lmdb import LMDBStore, open_store

__all__ = ["Transport", "identity_of"]

#: Steps of Celery's worker that know by name which transports deliver to all, and what they are called.
_STEPS: Final = (("celery.worker.consumer.mingle", "Mingle"), ("celery.worker.consumer.gossip", "Gossip"))


def identity_of(store: LMDBStore) -> str:
    """Return what tells the queues of one store from those of another: the file, and the prefix in it."""
    return f"{os.path.realpath(store.options.path)}#{store.options.global_keyprefix}"


class Management(base.Management):
    """What kombu asks of a broker's management."""

    def get_bindings(self) -> list[dict[str, str]]:
        with self.transport.client.channel() as channel:
            return [
                {"destination": queue, "source": exchange, "routing_key": key}
                for queue, exchange, key in channel.list_bindings()
            ]


class Transport(base.Transport):
    """Connects kombu to ``lmdb:///path/to/file``. The transport of a connection is also its connection object."""

    Management = Management
    can_parse_url = True
    driver_type = driver_name = "lmdb"
    polling_interval = None
    implements = base.Transport.implements.extend(
        asynchronous=True, batch_publish=True, exchange_type=frozenset(["direct", "topic", "fanout"])
    )
    #: After these, kombu connects again.
    connection_errors = (ConnectionError, OpenError, StoreBusy, StoreClosed, TooManyReaders)
    recoverable_connection_errors = connection_errors
    #: After these, kombu tries again.
    channel_errors = (ChannelError, StoreFull, QueueFull)
    recoverable_channel_errors = (StoreFull, QueueFull)

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.channels: list[Channel] = []
        #: The arguments of the queues that were declared, other than temporary ones.
        self.declared: dict[str, Any] = {}
        self._loop_driver: LoopDriver | None = None
        self._is_connected = False
        _have_celery_broadcast()
        watch_workers()

    # -- connections -------------------------------------------------------------------------------------------------

    def establish_connection(self) -> "Transport":
        """Open the file. Raises an `OpenError`, after which kombu tries again, or a `ConfigurationError`."""
        url = _url(self.client)
        given = self.client.transport_options or {}
        options = store_options("broker_transport_options", url, given, (*STORE_OPTIONS, DEDUPE))
        self.dedupe = is_deduplicating(url, options.pop(DEDUPE, False))
        self.store = open_store(url, **options)
        self.identity = identity_of(self.store)
        self.receiver = Receiver(self.store, self.channels)
        self._is_connected = True
        return self

    def verify_connection(self, connection: Any) -> bool:
        return self._is_connected

    def close_connection(self, connection: Any) -> None:
        """Leave the event loop, settle what is left, and close the file, even if the store is busy."""
        if not self._is_connected:
            return
        self._is_connected = False
        if self._loop_driver is not None:
            self._loop_driver.close()
        with ExitStack() as last_first:
            last_first.callback(self.store.close)
            last_first.callback(self.receiver.stop)
            for channel in list(self.channels):
                last_first.callback(channel.close)
            last_first.callback(self.receiver.settle_pending)

    def create_channel(self, connection: Any) -> Channel:
        channel = Channel(connection)  # of another transport than this one if kombu has gone on to another URL
        connection.channels.append(channel)
        return channel

    def close_channel(self, channel: Channel) -> None:
        if channel in self.channels:
            self.channels.remove(channel)
        channel.connection = None

    def drain_events(self, connection: Any, timeout: float | None = None, **options: Any) -> None:
        """Deliver one message. Raises TimeoutError, which socket.timeout is, after so many seconds."""
        self.receiver.wait(None if timeout is None else time.monotonic() + timeout)

    # -- event loops -------------------------------------------------------------------------------------------------

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Deliver messages from kombu's event loop from now on."""
        self._loop_driver = LoopDriver(self.receiver, loop)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        if self._loop_driver is not None:
            self._loop_driver.close()

    # -- description -------------------------------------------------------------------------------------------------

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL as it was given; it never holds a password."""
        return uri

    def driver_version(self) -> str:
        from lmdbresults import __version__

        return __version__

    @property
    def default_connection_params(self) -> dict[str, Any]:
        return {}


def _url(client: Any) -> str:
    """Return the URL of a connection. kombu takes it to pieces when it goes on to the next of several."""
    url: str | None = client.hostname
    if url is not None and "://" in url:
        return url
    path = client.virtual_host or ""
    return f"lmdb:///{path}" if url in (None, "", "localhost") else f"lmdb://{url}/{path}".rstrip("/")


def _have_celery_broadcast() -> None:
    """Have workers exchange what they know at their start, and gossip, as with servers."""
    for module, name in _STEPS:
        if module in sys.modules:
            getattr(sys.modules[module], name).compatible_transports |= {Transport.driver_type}
