"""Subscriptions to a `RedisStore`: keys that are followed, on channels of the servers that have them.

A key's channel is confirmed before its value is looked at, so no change falls between. Listener threads collect what
they hear; a byte in a socket says that there is something.
"""

import socket
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Final

from lmdbresults.process.fork_gate import gate
from lmdbresults.store.base import Subscription
from lmdbresults.store.redis.layout import Layout
from lmdbresults.store.redis.listener import Listener
from lmdbresults.store.redis.nodes import Node
from lmdbresults.store.redis.server import Server
from lmdbresults.store.redis.transactions import INTERIM

__all__ = ["RedisSubscription"]

#: Seconds between two looks at all keys. On one server no message is lost unless the connection is, which is noticed.
LOOK_EVERY: Final = 30.0
#: In a Cluster, what is stored at the new node of a slot on its way is not heard of before the slot has arrived.
LOOK_EVERY_IN_CLUSTER: Final = 5.0


class RedisSubscription(Subscription):
    """A subscription. Its listeners start when there is something to follow; a forked child starts its own."""

    def __init__(
        self,
        server: Server,
        layout: Layout,
        is_sharded: Callable[[], bool],
        mget: Callable[[list[bytes]], list[bytes | None]],
    ) -> None:
        self._server = server
        self.look_every = LOOK_EVERY_IN_CLUSTER if server.options.kind == "cluster" else LOOK_EVERY
        self._layout = layout
        self._is_sharded = is_sharded
        self._mget = mget
        self._is_closed = False
        #: What closes the bell and the listeners.
        self._finalizers: list[weakref.finalize[..., RedisSubscription]] = []
        self._reset()
        gate.watch_forks(self)

    def _reset(self) -> None:
        #: Guards all that follows. Reentrant, because a signal handler may subscribe. Lock order: that of a listener,
        #: this one. So no listener is called while this one is held.
        self._lock = threading.RLock()
        #: Keys by their channels, and those for which interim values count.
        self._keys: dict[bytes, bytes] = {}
        self._every_change: set[bytes] = set()
        self._listeners: dict[Node, Listener] = {}
        self._listener_of: dict[bytes, Listener] = {}
        #: What was heard and not received yet.
        self._changed: dict[bytes, bytes | None] = {}
        self._has_missed = False
        #: Whether no message can arrive, so that waiters must poll.
        self._is_refused = False
        #: The last fence, the last that each server has sent back, and the fence behind which the messages of a key are
        #: newer than its last look.
        self._fence = 0
        self._passed: dict[Listener, int] = {}
        self._fences: dict[bytes, int] = {}
        self._bell = _Bell()
        self._finalizers.append(weakref.finalize(self, self._bell.close))

    def after_fork_in_child(self) -> None:
        """Leave the listeners to the parent: only the descriptors of the child are closed."""
        self._release()
        self._reset()

    def _release(self) -> None:
        finalizers, self._finalizers = self._finalizers, []
        for finalizer in finalizers:
            finalizer()

    # -- keys --------------------------------------------------------------------------------------------------------

    def add(self, keys: Iterable[bytes], *, every_change: bool = False) -> dict[bytes, bytes | None]:
        wanted = list(keys)
        self.follow(wanted, every_change=every_change)
        values = self._mget(wanted)
        with self._lock:
            self._fence += 1
            fence = self._fence
            self._fences.update(dict.fromkeys(wanted, fence))
            listeners = {self._listener_of[key] for key in wanted if key in self._listener_of}
        for listener in listeners:  # without the lock: a listener that holds its own may be waiting for this one
            listener.fence(fence)
        return dict(zip(wanted, values, strict=True))

    def follow(self, keys: Collection[bytes], *, every_change: bool = False) -> None:
        with self._lock:
            if self._is_closed:
                return
            if every_change:
                self._every_change.update(keys)
            wanted: dict[Listener, list[bytes]] = {}
            for key in keys:
                name = self._layout.name(key)
                channel = self._layout.channel(name)
                listener = self._listener_of.get(key)
                if listener is None:
                    self._listener_of[key] = listener = self._listener(name)
                    self._keys[channel] = key
                wanted.setdefault(listener, []).append(channel)
        for listener, channels in wanted.items():  # without the lock, as in `add`
            listener.add(channels, self._server.options.socket_timeout)

    def remove(self, keys: Iterable[bytes]) -> None:
        with self._lock:
            gone: dict[Listener, list[bytes]] = {}
            for key in keys:
                listener = self._listener_of.pop(key, None)
                self._every_change.discard(key)
                self._fences.pop(key, None)
                self._changed.pop(key, None)
                if listener is not None:
                    channel = self._layout.channel(self._layout.name(key))
                    self._keys.pop(channel, None)
                    gone.setdefault(listener, []).append(channel)
        for listener, channels in gone.items():
            listener.remove(channels)

    def _listener(self, name: bytes) -> Listener:
        """Return the listener to the server that has a name, started if there is none."""
        node = self._server.find(name)
        if node not in self._listeners:
            hearer = _Weak(self)
            self._listeners[node] = listener = Listener(node, hearer, self._is_sharded())
            self._finalizers.append(weakref.finalize(self, listener.abandon))
        return self._listeners[node]

    # -- what listeners report ---------------------------------------------------------------------------------------

    def heard(self, channel: bytes, message: bytes) -> None:
        """Note a change, with the new value if it came with the message and is newer than the last look."""
        with self._lock:
            key = self._keys.get(channel)
            if key is None or (message[:1] == INTERIM and key not in self._every_change):
                return
            is_new = self._fences.get(key, 0) <= self._passed.get(self._listener_of[key], 0)
            self._changed[key] = message[2:] if message[1:2] == b"=" and is_new else None
            self.ring()

    def fenced(self, listener: Listener, number: int) -> None:
        """Note that all messages of the listener's server before a fence have come."""
        with self._lock:
            self._passed[listener] = max(self._passed.get(listener, 0), number)

    def missed(self) -> None:
        """Have everything looked at."""
        with self._lock:
            self._has_missed = True
            self._is_refused = False
            self.ring()

    def refused(self, error: Exception) -> None:
        """Wake the waiter, which polls from now on."""
        with self._lock:
            self._is_refused = self._has_missed = True
            self.ring()

    def lost(self, listener: Listener, channels: list[bytes]) -> None:
        """Find the servers that have some channels now."""
        with suppress(Exception):  # the listener tries again
            self._server.nodes.refresh()
            with self._lock:
                moved: dict[Listener, list[bytes]] = {}
                for channel in channels:
                    key = self._keys.get(channel)
                    if key is not None and (other := self._listener(self._layout.name(key))) is not listener:
                        self._listener_of[key] = other
                        moved.setdefault(other, []).append(channel)
            for other, theirs in moved.items():
                listener.remove(theirs)
                other.take_over(theirs)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, timeout: float) -> Mapping[bytes, bytes | None] | None:
        with suppress(OSError):  # nothing has come, or it is closed
            self._bell.wait(timeout)
        with self._lock:
            changed, self._changed = self._changed, {}
            has_missed, self._has_missed = self._has_missed, False
        return None if has_missed or self._is_closed else changed

    def fileno(self) -> int:
        return -1 if self._is_closed or self._is_refused else self._bell.reader.fileno()

    def ring(self) -> None:
        self._bell.ring()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._keys.clear()
            self._listener_of.clear()
            listeners, self._listeners = list(self._listeners.values()), {}
            self.ring()
        for listener in listeners:
            listener.close()
        self._release()


class _Bell:
    """A pair of sockets, of which one is readable when there is something to receive."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def wait(self, timeout: float) -> None:
        """Return once it was rung. Raises OSError if that takes longer, or it is closed."""
        if self.reader.gettimeout() != timeout:
            self.reader.settimeout(timeout)
        self.reader.recv(4096)

    def ring(self) -> None:
        """Have `wait` return. Any thread may call this."""
        with suppress(OSError):  # it is readable already, or closed
            self._writer.send(b"!")

    def close(self) -> None:
        """Close the sockets."""
        self.reader.close()
        self._writer.close()


class _Weak:
    """A subscription, as its listeners know it: their threads do not keep it alive."""

    def __init__(self, subscription: RedisSubscription) -> None:
        self._subscription = weakref.ref(subscription)

    def heard(self, channel: bytes, message: bytes) -> None:
        """See `RedisSubscription.heard`."""
        if subscription := self._subscription():
            subscription.heard(channel, message)

    def fenced(self, listener: Listener, number: int) -> None:
        """See `RedisSubscription.fenced`."""
        if subscription := self._subscription():
            subscription.fenced(listener, number)

    def missed(self) -> None:
        """See `RedisSubscription.missed`."""
        if subscription := self._subscription():
            subscription.missed()

    def lost(self, listener: Listener, channels: list[bytes]) -> None:
        """See `RedisSubscription.lost`."""
        if subscription := self._subscription():
            subscription.lost(listener, channels)

    def refused(self, error: Exception) -> None:
        """See `RedisSubscription.refused`."""
        if subscription := self._subscription():
            subscription.refused(error)
