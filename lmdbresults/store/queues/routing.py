"""Exchanges: where a message goes by its routing key."""

import re
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import msgpack

from lmdbresults.store.queues.heads import read_head
from lmdbresults.store.queues.records import BOUND, EXCHANGE
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = [
    "Kind",
    "bind",
    "bindings",
    "declare_exchange",
    "delete_exchange",
    "exchange_kind",
    "exchanges",
    "route",
    "unbind",
    "unbind_all",
]

#: How an exchange chooses queues: those bound with the routing key itself, with a pattern that it matches, or all.
Kind: TypeAlias = Literal["direct", "topic", "fanout"]

_KINDS: Final = ("direct", "topic", "fanout")
#: Kind, and pairs of a key and a queue.
_Table: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


def declare_exchange(txn: WriteTransaction, exchange: str, kind: Kind = "direct") -> None:
    """Create an exchange. The bindings of an existing one stay; its kind becomes ``kind``."""
    if kind not in _KINDS:
        raise ValueError(f"kind must be direct, topic or fanout, got {kind!r}.")
    present = _read(txn, exchange)
    if present is None or present[0] != kind:
        _write(txn, exchange, (kind, () if present is None else present[1]))


def delete_exchange(txn: WriteTransaction, exchange: str) -> bool:
    """Delete an exchange and its bindings; return whether it existed."""
    return txn.delete(EXCHANGE + exchange.encode())


def exchange_kind(txn: ReadTransaction, exchange: str) -> str | None:
    """Return the kind of an exchange, or None if there is no such exchange."""
    table = _read(txn, exchange)
    return None if table is None else table[0]


def exchanges(txn: ReadTransaction) -> dict[str, str]:
    """Return the kinds of all exchanges by their names."""
    found = txn.range(EXCHANGE)
    return {key[len(EXCHANGE) :].decode(): _table(value)[0] for key, value in found}


def bind(txn: WriteTransaction, queue: str, exchange: str, key: str = "") -> bool:
    """Bind a queue to an exchange; return False if there is no such queue or no such exchange."""
    table = _read(txn, exchange)
    if table is None or read_head(txn, queue) is None:
        return False
    kind, pairs = table
    if (key, queue) not in pairs:
        _write(txn, exchange, (kind, (*pairs, (key, queue))))
        _note(txn, queue, exchange)
    return True


def unbind(txn: WriteTransaction, queue: str, exchange: str, key: str = "") -> bool:
    """Remove a binding; return whether it existed."""
    table = _read(txn, exchange)
    if table is None or (key, queue) not in table[1]:
        return False
    _write(txn, exchange, (table[0], tuple(pair for pair in table[1] if pair != (key, queue))))
    return True


def unbind_all(txn: WriteTransaction, queue: str) -> None:
    """Remove all bindings of a queue."""
    for exchange in _bound(txn, queue):
        table = _read(txn, exchange)
        if table is not None:
            _write(txn, exchange, (table[0], tuple(pair for pair in table[1] if pair[1] != queue)))
    txn.delete(BOUND + queue.encode())


def bindings(txn: ReadTransaction, exchange: str) -> list[tuple[str, str]]:
    """Return the bindings of an exchange: pairs of a key and a queue."""
    table = _read(txn, exchange)
    return [] if table is None else list(table[1])


def route(txn: ReadTransaction, exchange: str, key: str) -> tuple[str, ...]:
    """Return the queues that a message goes to, each once. The default exchange "" leads to the queue named ``key``."""
    if not exchange:
        return (key,)
    data = txn.get(EXCHANGE + exchange.encode())
    return () if data is None else _route(data, key)


@lru_cache(128)
def _route(data: bytes, key: str) -> tuple[str, ...]:
    kind, pairs = _table(data)
    if kind == "direct":
        found = [queue for bound, queue in pairs if bound == key]
    elif kind == "topic":
        found = [queue for pattern, queue in pairs if _expression(pattern).fullmatch(f".{key}")]
    else:
        found = [queue for _, queue in pairs]
    return tuple(dict.fromkeys(found))


@lru_cache(1024)
def _expression(pattern: str) -> re.Pattern[str]:
    """Return what matches a key with a dot in front of each word: ``*`` is one word, ``#`` any number, also none."""
    parts = {"*": r"\.[^.]*", "#": r"(?:\.[^.]*)*"}
    return re.compile("".join(parts.get(word, rf"\.{re.escape(word)}") for word in pattern.split(".")))


def _read(txn: ReadTransaction, exchange: str) -> _Table | None:
    data = txn.get(EXCHANGE + exchange.encode())
    return None if data is None else _table(data)


@lru_cache(256)
def _table(data: bytes) -> _Table:
    kind, pairs = msgpack.unpackb(data)
    return kind, tuple((key, queue) for key, queue in pairs)


def _write(txn: WriteTransaction, exchange: str, table: _Table) -> None:
    """Write the bindings of an exchange, also in a full store: a worker that starts must be able to empty it."""
    name = EXCHANGE + exchange.encode()
    txn.move(name, name, msgpack.packb(table))


def _bound(txn: ReadTransaction, queue: str) -> list[str]:
    found: list[str] = msgpack.unpackb(txn.get(BOUND + queue.encode()) or b"\x90")
    return found


def _note(txn: WriteTransaction, queue: str, exchange: str) -> None:
    """Note that a queue is bound to an exchange, so that deleting the queue finds its bindings."""
    bound = _bound(txn, queue)
    if exchange not in bound:
        name = BOUND + queue.encode()
        txn.move(name, name, msgpack.packb([*bound, exchange]))
