"""Compares what both sides of a copy return."""

import json
from collections.abc import Collection, Iterator
from typing import Any, Final

from lmdbresults import serialization
from lmdbresults.copying.celery_metas import JSON
from lmdbresults.copying.copier import BATCH, Progress
from lmdbresults.copying.items import RESULT, VALUE, Item, ended_since, same_deadline, wins
from lmdbresults.copying.sides import Source, Target
from lmdbresults.errors import SerializationError
from lmdbresults.record import Payload, TaskRecord, unpack_payload

__all__ = ["verify"]

#: Fields of a record that differ in nothing but their form between the two sides.
_PLAIN: Final = TaskRecord._fields[1:-1]


def verify(
    source: Source,
    target: Target,
    *,
    since: float | None = None,
    accept: Collection[str] = serialization.DEFAULT_ACCEPT,
    values: bool = True,
    chords: bool = True,
    progress: Progress | None = None,
    batch: int = BATCH,
) -> Iterator[str]:
    """Yield a sentence for each result, group, value or open chord that is missing or different on the other side.

    A newer version on the other side is no difference, nor is a deadline within a second. ``values``: compare values
    that are neither results nor groups, too. ``chords``: and chords in flight, if they can be copied. Payloads whose
    serializer is not in ``accept`` are compared as bytes.
    """
    total, done = source.estimate(), 0
    for items in source.batches(batch):
        wanted = [item for item in items if ended_since(item, since) and (values or item.kind != VALUE)]
        for item, other in zip(wanted, target.read(wanted), strict=True):
            problem = _difference(item, other, accept)
            if problem is not None:
                yield f"{item}: {problem}"
        done += len(items)
        if progress is not None:
            progress(done, total)
    if chords and target.refuses_chords is None:
        yield from target.lacking(source.chords())


def _difference(item: Item, other: Item | None, accept: Collection[str]) -> str | None:
    if other is None:
        ttl = item.ttl()
        return "it is missing" if ttl is None or ttl > 1 else None
    if item.value != other.value and not _are_equal(item, other, accept):
        return None if wins(other, item) else "its value differs"
    if same_deadline(item.deadline, other.deadline) or other.deadline > item.deadline:
        return None
    return f"it expires {item.deadline - other.deadline:.1f} s earlier"


def _are_equal(item: Item, other: Item, accept: Collection[str]) -> bool:
    if item.kind == VALUE:
        return False
    try:
        if item.kind != RESULT:
            return _decoded(unpack_payload(item.value), accept) == _decoded(unpack_payload(other.value), accept)
        one, two = TaskRecord.unpack(item.value), TaskRecord.unpack(other.value)
        return all(_listed(getattr(one, name)) == _listed(getattr(two, name)) for name in _PLAIN) and (
            _decoded(one.payload, accept) == _decoded(two.payload, accept)
        )
    except SerializationError:
        return False


def _decoded(payload: Payload, accept: Collection[str]) -> tuple[str, str | None]:
    """Return the values in a payload in a form that can be compared, however they were encoded."""
    body, extra, method = payload.body, payload.extra, payload.compression
    if method:
        body = serialization.decompress(body, method)
        extra = extra and serialization.decompress(extra, method)
    plain = payload._replace(compression=None)

    def load(data: bytes) -> str:
        if payload.content_type == JSON:  # without making values of the tags in it
            return repr(json.loads(data))  # by repr, as NaN is unequal to itself
        return repr(serialization.loads(plain._replace(body=data), accept))

    return load(body), None if extra is None else load(extra)


def _listed(tree: Any) -> Any:
    """Return a tuple tree with lists for tuples."""
    return [_listed(each) for each in tree] if isinstance(tree, list | tuple) else tree
