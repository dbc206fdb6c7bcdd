"""Reading all records under a prefix. The servers keep no order, so an ordered range sorts what a scan has found."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from lmdbresults.store.redis.layout import Layout
from lmdbresults.store.redis.server import Request, Server

__all__ = ["read_all", "read_range", "read_some", "scan_keys"]

#: Keys that a server looks at in one step of a scan, and values that are read at once.
_STEP: Final = 1000
_VALUES: Final = 500


def scan_keys(server: Server, layout: Layout, prefix: bytes, kind: str = "string") -> Iterator[list[bytes]]:
    """Yield, in batches, the keys of all records with a prefix, each once."""
    seen: set[int] = set()  # a server may name a key twice while its table grows
    for node in server.masters():
        cursor = "0"
        while True:
            answer = server.call_at(node, "SCAN", cursor, "MATCH", layout.pattern(prefix), "COUNT", _STEP, "TYPE", kind)
            cursor, names = answer[0].decode(), answer[1]
            batch = []
            for name in names:
                key = layout.key(name)
                if key is not None and key.startswith(prefix) and (mark := hash(key)) not in seen:
                    seen.add(mark)
                    batch.append(key)
            if batch:
                yield batch
            if cursor == "0":
                break


def read_all(server: Server, layout: Layout, prefix: bytes, head: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of all records with a prefix, each value up to ``head`` bytes."""
    for batch in scan_keys(server, layout, prefix):
        yield from read_some(server, layout, batch, head)


def read_range(
    server: Server, layout: Layout, prefix: bytes, start: bytes, limit: int | None, head: int | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of the first records with a prefix from a key on, in the order of their keys."""
    keys = sorted(key for batch in scan_keys(server, layout, prefix) for key in batch if key >= start)
    return islice(read_some(server, layout, keys, head), limit)


def read_some(
    server: Server, layout: Layout, keys: Sequence[bytes], head: int | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of some keys, without those that do not exist any more."""
    for start in range(0, len(keys), _VALUES):
        batch = keys[start : start + _VALUES]
        names = [layout.name(key) for key in batch]
        requests = [Request(name, ("GET", name) if head is None else ("EXISTS", name)) for name in names]
        if head:
            requests += [Request(name, ("GETRANGE", name, 0, head - 1)) for name in names]
        answers = server.call_all(requests)
        values = answers[len(batch) :] if head else [b""] * len(batch)
        for key, answer, value in zip(batch, answers, values, strict=False):
            if head is None and answer is not None:
                yield key, answer
            elif head is not None and answer:
                yield key, value
