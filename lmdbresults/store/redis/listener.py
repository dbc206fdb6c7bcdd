"""A thread that listens to the channels of one server, and comes back when the connection is lost.

It subscribes again to all channels then, and once the server has confirmed them says that anything may have changed
meanwhile. Under gevent and eventlet it is a greenlet.
"""

import os
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from lmdbresults.store.redis.driver import load_driver
from lmdbresults.store.redis.faults import redirection
from lmdbresults.store.redis.nodes import Command, Node
from lmdbresults.store.redis.server import Patience

__all__ = ["Hearer", "Listener"]

#: Seconds of silence after which the server is asked whether it is still there, and given as long to answer.
PING_AFTER: Final = 5.0
#: Channels in one command; of a Cluster, those of one slot only.
_BATCH: Final = 1000


class Hearer(Protocol):
    """What a listener reports to."""

    def heard(self, channel: bytes, message: bytes) -> None:
        """Take a message."""

    def fenced(self, listener: "Listener", number: int) -> None:
        """Note that all messages of the listener's server before a fence have come."""

    def missed(self) -> None:
        """Note that messages may have been missed."""

    def lost(self, listener: "Listener", channels: list[bytes]) -> None:
        """Have channels listened to that the server of a listener has no more."""

    def refused(self, error: Exception) -> None:
        """Note that the server does not let this user listen."""


class Listener:
    """The channels of one server that one subscription follows. Threads may share it."""

    def __init__(self, node: Node, hearer: Hearer, is_sharded: bool) -> None:
        self._node = node
        self._hearer = hearer
        self._subscribe, self._unsubscribe = (
            (b"SSUBSCRIBE", b"SUNSUBSCRIBE") if is_sharded else (b"SUBSCRIBE", b"UNSUBSCRIBE")
        )
        self._batch = 1 if is_sharded else _BATCH
        #: Guards what follows, and what is sent.
        self._changed = threading.Condition(threading.RLock())
        self._connection: Any = None
        self._wanted: dict[bytes, None] = {}
        self._confirmed: set[bytes] = set()
        #: Whether messages may have been missed, which is reported once all channels are confirmed.
        self._has_missed = False
        self._is_closed = False
        #: Whether the server does not let this user listen, so that no channel will be confirmed.
        self._is_refused = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="lmdbresults-listener", daemon=True)
        self._thread.start()

    # -- called by any thread ------------------------------------------------------------------------------------

    def add(self, channels: Iterable[bytes], timeout: float) -> None:
        """Listen to channels. Return once the server has confirmed or refused that, or after ``timeout`` seconds.

        Another thread may have asked for some of them, and wait for the confirmation as well.
        """
        with self._changed:
            wanted = list(channels)
            new = [channel for channel in wanted if channel not in self._wanted]
            self._wanted.update(dict.fromkeys(new))
            self._send_all(self._subscribe, new)
            if timeout:
                self._changed.wait_for(
                    lambda: self._is_closed or self._is_refused or self._confirmed.issuperset(wanted), timeout
                )

    def take_over(self, channels: Iterable[bytes]) -> None:
        """Listen to channels that another server had; what was missed meanwhile is looked at."""
        with self._changed:
            self._has_missed = True
            self.add(channels, 0)

    def remove(self, channels: Iterable[bytes]) -> None:
        """Stop listening to channels."""
        with self._changed:
            old = [channel for channel in channels if channel in self._wanted]
            for channel in old:
                del self._wanted[channel]
                self._confirmed.discard(channel)
            self._send_all(self._unsubscribe, old)

    def fence(self, number: int) -> None:
        """Have `Hearer.fenced` called with a number after all messages that were sent before this call."""
        with self._changed:
            self._send([(b"PING", b"%d" % number)])

    def close(self) -> None:
        """Stop listening."""
        with self._changed:
            self._is_closed = True
            self._drop()
            self._changed.notify_all()

    def abandon(self) -> None:
        """Stop listening, without a lock: for a subscription that is garbage, or was inherited by a forked child."""
        self._is_closed = True
        connection = self._connection
        if connection is None:
            return
        if os.getpid() == self._pid:
            _hang_up(connection)
        else:  # the thread is the parent's, and so is the connection: only the descriptor of this process is closed
            connection.disconnect()

    def _send_all(self, command: bytes, channels: list[bytes]) -> None:
        batches = range(0, len(channels), self._batch)
        self._send([(command, *channels[start : start + self._batch]) for start in batches])

    def _send(self, commands: Sequence[Command]) -> None:
        if self._connection is None or not commands:
            return  # all is sent when there is a connection
        try:
            self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        except (load_driver().base_error, OSError):
            self._drop()

    def _drop(self) -> None:
        """Give the connection up; the thread, which may be reading, closes it and opens another one."""
        connection, self._connection = self._connection, None
        self._confirmed.clear()
        if connection is not None:
            _hang_up(connection)

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        patience = Patience(float("inf"))
        errors = (load_driver().base_error, OSError, AttributeError, ValueError)  # the last two: of a closed connection
        while not self._is_closed:
            try:
                self._connect_and_listen()
                patience = Patience(float("inf"))
            except errors as error:
                with self._changed:
                    self._has_missed = True
                    wanted = list(self._wanted)
                if self._is_closed:
                    return
                if isinstance(error, load_driver().exceptions.AuthenticationError):
                    self._refuse(error)
                if wanted:
                    self._hearer.lost(self, wanted)
                patience.pause()

    def _connect_and_listen(self) -> None:
        connection = self._node.connect(PING_AFTER)
        try:
            with self._changed:
                self._connection = connection
                self._send_all(self._subscribe, list(self._wanted))
                self._tell_missed()
            self._listen(connection)
        finally:
            with self._changed:
                self._drop()
            connection.disconnect()

    def _listen(self, connection: Any) -> None:
        """Hand on what the server says until the connection is lost."""
        exceptions = load_driver().exceptions
        asked = False
        while not self._is_closed:
            try:
                self._take(connection.read_response(disconnect_on_error=False))
                asked = False
            except exceptions.TimeoutError:
                if asked or self._connection is not connection:
                    raise
                asked = True
                self.fence(0)
            except exceptions.ResponseError as error:
                if redirection(error) is None:  # this user must not listen
                    self._refuse(error)
                    continue
                with self._changed:
                    gone = [channel for channel in self._wanted if channel not in self._confirmed]
                self._hearer.lost(self, gone)

    def _refuse(self, error: Exception) -> None:
        """Let no thread wait for a confirmation."""
        with self._changed:
            self._is_refused = True
            self._changed.notify_all()
        self._hearer.refused(error)

    def _take(self, answer: Any) -> None:
        if not isinstance(answer, list):  # the answer to PING while there are no channels
            self._hearer.fenced(self, int(answer) if answer.isdigit() else 0)
            return
        kind = answer[0]
        if kind in (b"message", b"smessage"):
            self._hearer.heard(answer[1], answer[2])
        elif kind == b"pong":
            self._hearer.fenced(self, int(answer[1] or 0))
        elif kind in (b"subscribe", b"ssubscribe"):
            with self._changed:
                self._is_refused = False
                if answer[1] in self._wanted:
                    self._confirmed.add(answer[1])
                self._tell_missed()
                self._changed.notify_all()
        elif kind == b"sunsubscribe" and answer[1] in self._wanted:  # its slot has moved to another server
            self._hearer.lost(self, [answer[1]])

    def _tell_missed(self) -> None:
        if self._has_missed and len(self._confirmed) == len(self._wanted):
            self._has_missed = False
            self._hearer.missed()


def _hang_up(connection: Any) -> None:
    """End what another thread reads. It closes the connection itself: else it might read from the next socket that gets
    the number of the descriptor, and take what is meant for another thread.
    """
    with suppress(OSError, AttributeError):  # it is closed already
        connection._sock.shutdown(socket.SHUT_RDWR)
