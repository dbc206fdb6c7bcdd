"""The servers of a deployment, and which of them has a slot: a single server, a master behind sentinels, a Cluster."""

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

from lmdbresults.errors import ConfigurationError
from lmdbresults.process.fork_gate import gate
from lmdbresults.store.redis.driver import load_driver
from lmdbresults.store.redis.layout import SLOTS
from lmdbresults.store.redis.options import RedisOptions

__all__ = ["Cluster", "Command", "Deployment", "Node", "Single", "deployment"]

#: The words of a command.
Command: TypeAlias = tuple[Any, ...]
Address: TypeAlias = tuple[str, int]
Connect: TypeAlias = Callable[..., Any]

#: Commands that write what must not be lost.
_WRITES: Final = ("EVALSHA", "EVAL", "ZADD")
#: Seconds between two readings of the slots of a Cluster, however many errors ask for one.
_REFRESH_PAUSE: Final = 0.1


class Node:
    """One server and the connections to it that are not in use. A forked child makes its own."""

    def __init__(self, connect: Connect, wait: Command | None = None) -> None:
        #: Returns a new connection, with a time limit for its answers if it is given one.
        self.connect = connect
        #: What follows a write, to wait for replicas.
        self._wait = wait
        self._idle: deque[Any] = deque()
        self._response_error = load_driver().exceptions.ResponseError
        gate.watch_forks(self)
        weakref.finalize(self, _disconnect, self._idle)  # before their sockets are collected, which would warn

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent: only the descriptors of the child are closed."""
        self.disconnect()

    def call(self, command: Command) -> Any:
        """Return the answer to one command; raise the error that it is."""
        if self._wait is not None and command[0] in _WRITES:
            (answer,) = self.call_all([command])
            if isinstance(answer, Exception):
                raise answer
            return answer
        connection = self._take()
        try:
            connection.send_packed_command(connection.pack_command(*command), check_health=False)
            answer = connection.read_response()
        except self._response_error:
            self._idle.append(connection)
            raise
        except BaseException:  # an answer that was not read would be taken for that of the next command
            connection.disconnect()
            raise
        self._idle.append(connection)
        return answer

    def call_all(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers to commands that are sent together; an answer may be an error."""
        is_write = self._wait is not None and any(command[0] in _WRITES for command in commands)
        sent = [*commands, self._wait] if is_write else commands
        connection = self._take()
        try:
            connection.send_packed_command(connection.pack_commands(sent), check_health=False)
            answers = [self._answer(connection) for _ in sent]
        except BaseException:  # an answer that was not read would be taken for that of the next command
            connection.disconnect()
            raise
        self._idle.append(connection)
        if is_write:
            self._require_replicas(answers.pop())
        return answers

    def _require_replicas(self, answer: Any) -> None:
        """Raise an error, which lets the writes run again, if fewer replicas have them than is wanted."""
        wanted = self._wait[1] if self._wait else 0
        if isinstance(answer, Exception) or answer < wanted:
            raise self._response_error(f"NOREPLICAS {answer} of {wanted} replicas (min_replicas) confirm a write")

    def _answer(self, connection: Any) -> Any:
        try:
            return connection.read_response()
        except self._response_error as error:
            return error

    def _take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self.connect()

    def disconnect(self) -> None:
        """Close the connections that are not in use."""
        _disconnect(self._idle)


def _disconnect(idle: deque[Any]) -> None:
    with suppress(IndexError):  # other threads may take some meanwhile
        while True:
            idle.pop().disconnect()


class Deployment(Protocol):
    """Which server has which slot."""

    def node(self, slot: int) -> Node:
        """Return the server that has a slot, as far as that is known."""

    def masters(self) -> Iterable[Node]:
        """Return all servers that have slots."""

    def refresh(self) -> None:
        """Find out again which server has which slot, after an error."""

    def at(self, address: str) -> Node:
        """Return the server at an address, which an error has named."""

    def moved(self, slot: int, address: str) -> None:
        """Note that a slot is at an address."""

    def disconnect(self) -> None:
        """Close all connections that are not in use."""


class Single:
    """One server, or the master that sentinels know: it has all slots."""

    def __init__(self, connect: Connect, wait: Command | None) -> None:
        self._node = Node(connect, wait)

    def node(self, slot: int) -> Node:
        """Return the server."""
        return self._node

    def masters(self) -> Iterable[Node]:
        """Return the server."""
        return (self._node,)

    def refresh(self) -> None:
        """Connect again: the server may have been restarted, or another one may be master now."""
        self._node.disconnect()

    def at(self, address: str) -> Node:
        """Return the server: a node of a Cluster names another one, which the caller will meet again."""
        return self._node

    def moved(self, slot: int, address: str) -> None:
        """Raise an error: the server belongs to a Cluster."""
        raise ConfigurationError("the server is a node of a Cluster: use redis+cluster:// instead of redis://")

    def disconnect(self) -> None:
        """Close all connections that are not in use."""
        self._node.disconnect()


class Cluster:
    """The masters of a Cluster. The slots are read when they are needed, and again after errors."""

    def __init__(
        self, connect_to: Callable[[Address], Connect], seeds: Sequence[Address], wait: Command | None
    ) -> None:
        self._connect_to = connect_to
        self._wait = wait
        self._seeds = seeds
        self._nodes: dict[Address, Node] = {}
        self._slots: list[Node] = []
        self._refreshed_at = -_REFRESH_PAUSE

    def node(self, slot: int) -> Node:
        """Return the master that has a slot."""
        if not self._slots:
            self._read_slots()
        return self._slots[slot]

    def masters(self) -> Iterable[Node]:
        """Return all masters."""
        if not self._slots:
            self._read_slots()
        return dict.fromkeys(self._slots)

    def refresh(self) -> None:
        """Read the slots again."""
        if time.monotonic() >= self._refreshed_at + _REFRESH_PAUSE:
            self._refreshed_at = time.monotonic()
            self._read_slots()

    def at(self, address: str) -> Node:
        """Return the node at an address."""
        host, _, port = address.rpartition(":")
        return self._at((host, int(port)))

    def _at(self, address: Address) -> Node:
        node = self._nodes.get(address)
        return node or self._nodes.setdefault(address, Node(self._connect_to(address), self._wait))

    def moved(self, slot: int, address: str) -> None:
        """Note that a slot is at an address."""
        if self._slots:
            self._slots[slot] = self.at(address)

    def _read_slots(self) -> None:
        """Ask one node after the other for the slots, those that are known first."""
        failure: Exception | None = None
        for address in dict.fromkeys((*self._nodes, *self._seeds)):
            try:
                self._slots = self._slots_by(address)
            except (load_driver().base_error, OSError) as error:
                failure = error
                self._at(address).disconnect()
            else:
                return
        assert failure is not None
        raise failure

    def _slots_by(self, asked: Address) -> list[Node]:
        slots: list[Node | None] = [None] * SLOTS
        for first, last, master, *_ in self._at(asked).call(("CLUSTER", "SLOTS")):
            host, port = master[:2]
            node = self._at(((host or asked[0].encode()).decode(), int(port)))
            slots[first : last + 1] = [node] * (last + 1 - first)
        present = [node for node in slots if node is not None]
        if len(present) < SLOTS:
            raise load_driver().exceptions.ClusterDownError("CLUSTERDOWN Some slots are served by no node")
        return present

    def disconnect(self) -> None:
        """Close all connections that are not in use."""
        for node in self._nodes.values():
            node.disconnect()


# -- connecting --------------------------------------------------------------------------------------------------------


def deployment(options: RedisOptions) -> Deployment:
    """Return the deployment that options describe. Nothing is connected yet."""
    wait = ("WAIT", options.min_replicas, round(options.socket_timeout * 900)) if options.min_replicas else None
    if options.path:
        path = _Connector(options, load_driver().connection.UnixDomainSocketConnection)
        return Single(path.to(path=options.path), wait)
    classes = load_driver().connection
    connector = _Connector(options, classes.SSLConnection if options.tls else classes.Connection)
    if options.kind == "cluster":
        return Cluster(connector.to_address, options.hosts, wait)
    if options.kind == "sentinel":
        return Single(connector.to_master, wait)
    return Single(connector.to_any, wait)


class _Connector:
    """Makes connections, with what all connections of a store have in common."""

    def __init__(self, options: RedisOptions, connection: Any) -> None:
        self._options = options
        self._connection = connection
        self._common: dict[str, Any] = {
            "socket_timeout": options.socket_timeout,
            "retry": load_driver().no_retry,
            "protocol": 2,
        }
        if not options.path:
            self._common["socket_connect_timeout"] = options.socket_connect_timeout
            self._common["socket_keepalive"] = True
        if options.tls:
            names = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
            self._common |= {name: getattr(options, name) for name in names}
            if options.ssl_cert_reqs == "none":
                self._common["ssl_check_hostname"] = False

    def to(self, **place: Any) -> Connect:
        """Return what connects to one place."""
        options = self._options

        def connect(timeout: float | None = None) -> Any:
            limit = {} if timeout is None else {"socket_timeout": timeout}
            access = {"username": options.username, "password": options.password, "db": options.db}
            return _connected(self._connection(**{**self._common, **access, **place, **limit}))

        return connect

    def to_address(self, address: Address) -> Connect:
        """Return what connects to an address."""
        return self.to(host=address[0], port=address[1])

    def to_any(self, timeout: float | None = None) -> Any:
        """Connect to the first host that answers."""
        return _first(self._options.hosts, lambda address: self.to_address(address)(timeout))

    def to_master(self, timeout: float | None = None) -> Any:
        """Connect to the master that the first sentinel which answers names."""
        return self.to_address(_first(self._options.hosts, self._ask_sentinel))(timeout)

    def _ask_sentinel(self, sentinel: Address) -> Address:
        options = self._options
        access = {"username": options.sentinel_username, "password": options.sentinel_password}
        connection = _connected(self._connection(**{**self._common, **access}, host=sentinel[0], port=sentinel[1]))
        try:
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", options.service_name)
            answer = connection.read_response()
        finally:
            connection.disconnect()
        if not answer:
            raise ConfigurationError(
                f"invalid service_name={options.service_name!r}: the sentinel {sentinel[0]}:{sentinel[1]} watches no "
                f"master of that name"
            )
        return answer[0].decode(), int(answer[1])


def _connected(connection: Any) -> Any:
    connection.connect()
    return connection


def _first(addresses: Iterable[Address], attempt: Callable[[Address], Any]) -> Any:
    """Return what the first attempt returns that succeeds; raise what the last one raises."""
    failure: Exception | None = None
    for address in addresses:
        try:
            return attempt(address)
        except (load_driver().base_error, OSError) as error:
            failure = error
    assert failure is not None
    raise failure
