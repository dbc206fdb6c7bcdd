"""Reading all records under a prefix. The servers keep no order, so an ordered range sorts what a scan has found."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from lmdbresults.errors import AccessDenied
from lmdbresults.store.redis.layout import Layout, slot_of
from lmdbresults.store.redis.nodes import Node
from lmdbresults.store.redis.server import Request, Server

__all__ = ["list_keys", "read_all", "read_range", "read_values", "scan_keys"]

#: Keys that a server looks at in one step of a scan, and values that are read at once.
_STEP: Final = 1000
_VALUES: Final = 500
#: Values that are read as of one moment at most.
_MOST_VALUES: Final = 500_000


def read_values(server: Server, layout: Layout, keys: Sequence[bytes]) -> list[bytes | None]:
    """Return the values of keys; those of one slot as of one moment."""
    names = [layout.name(key) for key in keys]
    if server.options.kind == "cluster" and len(set(map(slot_of, names))) > 1:
        return server.call_all([Request(name, ("GET", name)) for name in names])
    values: list[bytes | None] = []
    for start in range(0, len(names), _MOST_VALUES):
        some = names[start : start + _MOST_VALUES]
        values += server.call(some[0], "MGET", *some)
    return values


def scan_keys(server: Server, layout: Layout, prefix: bytes, kind: str = "string") -> Iterator[list[bytes]]:
    """Yield, in batches, the keys of all records with a prefix, each once."""
    seen: set[int] = set()
    for keys in list_keys(server, layout, prefix, kind):
        marks = dict(zip(map(hash, keys), keys, strict=True))
        batch = [key for mark, key in marks.items() if mark not in seen]
        seen.update(marks)
        if batch:
            yield batch


def list_keys(server: Server, layout: Layout, prefix: bytes = b"", kind: str = "string") -> Iterator[list[bytes]]:
    """Yield, in batches, the keys of all records with a prefix. A server may name a key twice while its table grows."""
    for node in server.masters():
        life = None
        while life != (life := _life_of(server, node)):  # the cursor of another life leaves keys out
            for names in _scan(server, node, layout.pattern(prefix), kind):
                yield [key for name in names if (key := layout.key(name)) is not None and key.startswith(prefix)]


def _scan(server: Server, node: Node, pattern: bytes, kind: str) -> Iterator[list[bytes]]:
    cursor = b""
    while cursor != b"0":
        cursor, names = server.call_at(node, "SCAN", cursor or b"0", "MATCH", pattern, "COUNT", _STEP, "TYPE", kind)
        yield names


def _life_of(server: Server, node: Node) -> bytes:
    """Return what differs once a server was restarted or a replica has taken over; nothing if the user may not ask."""
    with suppress(AccessDenied):
        return next((line for line in server.call_at(node, "INFO", "server").split() if line[:7] == b"run_id:"), b"")
    return b""


def read_all(server: Server, layout: Layout, prefix: bytes, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of all records with a prefix, each value up to ``head`` bytes."""
    for batch in scan_keys(server, layout, prefix):
        yield from _read_some(server, layout, batch, head)


def read_range(
    server: Server, layout: Layout, prefix: bytes, start: bytes, limit: int | None, head: int | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of the first records with a prefix from a key on, in the order of their keys."""
    keys = sorted(key for batch in scan_keys(server, layout, prefix) for key in batch if key >= start)
    return islice(_read_some(server, layout, keys, head), limit)


def _read_some(
    server: Server, layout: Layout, keys: Sequence[bytes], head: int | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of some keys, without those that do not exist any more."""
    for start in range(0, len(keys), _VALUES):
        batch = keys[start : start + _VALUES]
        values = read_values(server, layout, batch) if head is None else _heads(server, layout, batch, head)
        for key, value in zip(batch, values, strict=True):
            if value is not None:
                yield key, value


def _heads(server: Server, layout: Layout, keys: Sequence[bytes], head: int) -> list[bytes | None]:
    """Return the first bytes of values."""
    names = [layout.name(key) for key in keys]
    requests = [Request(name, ("EXISTS", name)) for name in names]
    if head:
        requests += [Request(name, ("GETRANGE", name, 0, head - 1)) for name in names]
    answers = server.call_all(requests)
    values = answers[len(keys) :] or [b""] * len(keys)
    return [value if exists else None for exists, value in zip(answers[: len(keys)], values, strict=True)]
