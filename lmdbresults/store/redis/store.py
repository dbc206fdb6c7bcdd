"""RedisStore: the port over Redis or Valkey: one server, a master behind sentinels, or a Cluster."""

import operator
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from lmdbresults.errors import NestedTransaction, StoreBusy, StoreError, Unsupported
from lmdbresults.process.identity import Owner
from lmdbresults.store.base import KEEP, Keep, ReadTransaction, Store, Subscription, WriteTransaction
from lmdbresults.store.redis.chords import RedisChords
from lmdbresults.store.redis.layout import Layout
from lmdbresults.store.redis.leases import Leases
from lmdbresults.store.redis.options import RedisOptions, redis_options_from_url
from lmdbresults.store.redis.scanning import list_keys, read_all, read_range, read_values
from lmdbresults.store.redis.scripts import Scripts
from lmdbresults.store.redis.server import Patience, Request, Server, once_name
from lmdbresults.store.redis.subscription import RedisSubscription
from lmdbresults.store.redis.transactions import (
    FINAL,
    INTERIM,
    Reading,
    Writing,
    milliseconds,
    server_time,
    ttl_of,
)

__all__ = ["RedisStats", "RedisStore", "open_redis"]

Result = TypeVar("Result")

#: Seconds for which a transaction runs again because others change what it has read.
_CONFLICT_PATIENCE: Final = 60.0
#: Seconds for which a server remembers that a step has happened, beyond the time in which it may be asked for again.
_OUTCOME_KEPT: Final = 30.0


def open_redis(url: str, **options: Any) -> "RedisStore":
    """Open the store at a URL such as ``redis://host:6379/0``; see `redis_options_from_url`.

    Nothing is connected yet: the server may be started later. Raises `ConfigurationError` for a bad URL or option.
    """
    return RedisStore(redis_options_from_url(url, **options))


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisStats:
    """Figures about the servers of a store; all their keys and bytes count, whichever program has stored them."""

    address: str
    masters: int
    """Servers that have keys."""
    keys: int
    used_memory: int
    """Bytes, over all masters."""
    max_memory: int
    """Bytes that they may use; 0: no limit."""


class RedisStore(Store):
    """The `Store` on Redis or Valkey. Threads may share it; after a fork, parent and child can both use it."""

    def __init__(self, options: RedisOptions) -> None:
        self.options = options
        self._layout = Layout(options.global_keyprefix, options.db)
        self._server = Server(options)
        #: Found out by the first operation: see `_is_sharded`.
        self._sharded: bool | None = None if options.kind == "cluster" else False
        self._known_scripts: Scripts | None = None
        self._leases = Leases(self._server, self._layout)
        #: Whether the present thread is in an update.
        self._inside = threading.local()
        self._subscriptions: weakref.WeakSet[RedisSubscription] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r})"

    def __reduce__(self) -> tuple[type["RedisStore"], tuple[RedisOptions]]:
        return type(self), (self.options,)

    def ping(self) -> None:
        """Connect to every master. Raises what an operation would raise, such as `AccessDenied`."""
        for node in self._ready().masters():
            self._server.call_at(node, "PING")

    def _ready(self) -> Server:
        if getattr(self._inside, "update", False):
            raise NestedTransaction("This thread is in an update of this store: use the methods of its transaction.")
        server = self._server
        if server.is_closed:
            server.require_open()
        return server

    # -- single operations -------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        name = self._layout.name(key)
        value: bytes | None = self._ready().call(name, "GET", name)
        return value

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return read_values(self._ready(), self._layout, list(keys))

    def ttl(self, key: bytes) -> float | None:
        name = self._layout.name(key)
        return ttl_of(self._ready().call(name, "PTTL", name))

    def ttls(self, keys: Iterable[bytes]) -> list[float | None]:
        """Return what `ttl` returns for many keys, at once."""
        names = [self._layout.name(key) for key in keys]
        return [ttl_of(answer) for answer in self._ready().call_all([Request(name, ("PTTL", name)) for name in names])]

    def now(self) -> float:
        return server_time(self._ready())

    def scan(self, prefix: bytes = b"", *, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        yield from read_all(self._ready(), self._layout, prefix, head)

    def keys(self) -> Iterator[bytes]:
        """Yield the keys of all records, some perhaps twice, in constant memory."""
        for keys in list_keys(self._ready(), self._layout):
            yield from keys

    def range(
        self, prefix: bytes = b"", start: bytes = b"", limit: int | None = None, *, head: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        yield from read_range(self._ready(), self._layout, prefix, start, limit, head)

    def set(
        self, key: bytes, value: bytes, ttl: float | None = None, *, keep_prefix: bytes = b"", interim: bool = False
    ) -> bool:
        server, kind = self._ready(), INTERIM if interim else FINAL
        words = (self._layout.channel_prefix, value, milliseconds(ttl), keep_prefix, kind)
        return bool(server.run(self._scripts.set, [self._layout.name(key)], *words))

    def add(self, key: bytes, value: bytes, ttl: float | None = None) -> bool:
        server, name = self._ready(), self._layout.name(key)
        words = (self._layout.channel_prefix, value, milliseconds(ttl))
        return bool(server.run(self._scripts.add, [name, once_name(name)], *words))

    def delete(self, key: bytes) -> bool:
        server, name = self._ready(), self._layout.name(key)
        return bool(server.run(self._scripts.delete, [name, once_name(name)], self._layout.channel_prefix))

    def incr(self, key: bytes, by: int = 1, ttl: float | Keep | None = KEEP) -> int:
        server, name, by = self._ready(), self._layout.name(key), operator.index(by)
        words = (self._layout.channel_prefix, by, b"" if isinstance(ttl, Keep) else milliseconds(ttl))
        count = server.run(self._scripts.increment, [name, once_name(name)], *words)
        if count is None:  # which says why, or counts in a way that the server does not know
            return self.update(lambda txn: txn.incr(key, by, ttl))
        return int(count)

    def expire(self, key: bytes, ttl: float | None) -> bool:
        return bool(self._ready().run(self._scripts.expire, [self._layout.name(key)], milliseconds(ttl)))

    def notify(self, topic: bytes, *, one: bool = False) -> None:
        server, name = self._ready(), self._layout.name(topic)
        server.call(name, self._publish, self._layout.channel(name), FINAL)

    def replace_many(self, changes: Sequence[tuple[bytes, bytes | None, bytes, float | None]]) -> list[bool]:
        """Store values where the present ones are as expected; return for each whether it was stored.

        A change is the key, the expected value (None: there must be none), the new value and its ttl. Each happens by
        itself.
        """
        server, script = self._ready(), self._scripts.replace
        requests = []
        for key, expected, value, ttl in changes:
            name = self._layout.name(key)
            read = (b"", FINAL, b"") if expected is None else (b"=", FINAL, expected)
            words = (self._layout.channel_prefix, value, milliseconds(ttl), *read)
            requests.append(Request(name, ("EVALSHA", script.digest, 1, name, *words)))
        return [bool(answer) for answer in server.call_all(requests)]

    # -- transactions ------------------------------------------------------------------------------------------------

    def view(self, operation: Callable[[ReadTransaction], Result]) -> Result:
        server, patience = self._ready(), Patience(_CONFLICT_PATIENCE)
        while True:
            txn = Reading(server, self._layout, self._scripts)
            try:
                result = operation(txn)
            finally:
                txn.end()
            if txn.is_consistent():
                return result
            self._wait(patience)

    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        server, patience = self._ready(), Patience(_CONFLICT_PATIENCE)
        self._inside.update = True
        try:
            while True:
                txn = Writing(server, self._layout, self._scripts)
                try:
                    result = operation(txn)
                finally:
                    txn.end()
                if txn.commit():
                    return result
                self._wait(patience)
        finally:
            self._inside.update = False

    def _wait(self, patience: Patience) -> None:
        if not patience.pause():
            raise StoreBusy(
                f"Others have changed what a transaction had read, again and again for {_CONFLICT_PATIENCE:g} seconds."
            )

    # -- chords, queues and liveness ---------------------------------------------------------------------------------

    @property
    def chords(self) -> RedisChords:  # type: ignore[override]
        """The chords of this store."""
        return RedisChords(self, self._ready, self._layout, self._scripts)

    def owner(self) -> Owner:
        return self._leases.owner()

    def is_alive(self, owner: Owner) -> bool:
        """Return whether an owner still runs: at once for one of this machine, else by its lease."""
        return self._leases.is_alive(owner)

    @property
    def queues(self) -> NoReturn:
        """Not there: `hasattr` returns False. Raises `Unsupported`."""
        raise Unsupported(
            "A store on Redis has no queues: use Redis itself as Celery's broker (broker_url = 'redis://...'), or keep "
            "the queues in a file (broker_url = 'lmdb:///...')."
        )

    # -- waiting -----------------------------------------------------------------------------------------------------

    def subscribe(self) -> Subscription:
        subscription = RedisSubscription(self._server, self._layout, lambda: self._is_sharded, self._look)
        self._subscriptions.add(subscription)
        return subscription

    def _look(self, keys: list[bytes]) -> list[bytes | None]:
        return read_values(self._ready(), self._layout, keys)

    # Not `functools.cached_property`: its lock, held by another thread during a fork, would stay held in the child.

    @property
    def _is_sharded(self) -> bool:
        """Whether the servers are a Cluster that publishes to the nodes of a slot only (Redis 7)."""
        if self._sharded is None:
            (known,) = self._server.call(b"{store}", "COMMAND", "INFO", "SPUBLISH")
            self._sharded = known is not None
        return self._sharded

    @property
    def _publish(self) -> str:
        return "SPUBLISH" if self._is_sharded else "PUBLISH"

    @property
    def _scripts(self) -> Scripts:
        scripts = self._known_scripts
        if scripts is None:
            kept = _OUTCOME_KEPT + 2 * (self.options.retry_timeout + self.options.socket_timeout)
            scripts = self._known_scripts = Scripts(self._publish, kept)
        return scripts

    # -- the whole ---------------------------------------------------------------------------------------------------

    def infos(self) -> list[dict[str, str]]:
        """Return what each master says of itself (INFO)."""
        return [_info(self._server.call_at(node, "INFO")) for node in self._ready().masters()]

    def settings(self, name: str) -> list[str]:
        """Return a setting of each master; empty where this user may not read it, as on many hosted servers."""
        found = []
        for node in self._ready().masters():
            with suppress(StoreError):
                found.append(self._server.call_at(node, "CONFIG", "GET", name)[1].decode())
                continue
            found.append("")
        return found

    def stats(self) -> RedisStats:
        """Return figures about the servers."""
        nodes, infos = self._ready().masters(), self.infos()
        return RedisStats(
            address=self.options.address(),
            masters=len(nodes),
            keys=sum(self._server.call_at(node, "DBSIZE") for node in nodes),
            used_memory=sum(int(info["used_memory"]) for info in infos),
            max_memory=sum(int(info["maxmemory"]) for info in infos),
        )

    def close(self) -> None:
        if getattr(self._inside, "update", False):
            self._ready()
        for subscription in list(self._subscriptions):
            subscription.close()
        self._leases.stop()
        self._server.close()


def _info(text: bytes) -> dict[str, str]:
    lines = text.decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
