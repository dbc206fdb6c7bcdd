"""Whether the records of the queues of a store fit each other."""

from collections import Counter

from lmdbresults.store.base import Store
from lmdbresults.store.queues import names
from lmdbresults.store.queues.heads import read_head
from lmdbresults.store.queues.records import (
    BODY,
    DELAYED,
    DOOMED,
    LARGE,
    MESSAGE,
    OWNER,
    QUEUE_ID,
    READY,
    UNACKED,
    body_key,
    place_in,
    read_unacked,
)
from lmdbresults.store.transactions import ReadTransaction

__all__ = ["audit", "bodies_held"]


def audit(store: Store) -> list[str]:
    """Return what is wrong: counts, bodies without a message, deliveries without an owner."""
    return store.view(_audit)


def _audit(txn: ReadTransaction) -> list[str]:
    problems, bodies, ids = [], set(), set()
    for name in names(txn):
        head = read_head(txn, name)
        assert head is not None
        id_ = QUEUE_ID.pack(head.id)
        ids.add(id_)
        ready, delayed = list(txn.range(READY + id_)), list(txn.range(DELAYED + id_))
        counted = (len(ready), sum(MESSAGE.unpack_from(record)[3] for _, record in ready), len(delayed))
        if counted != (head.ready, head.size, head.delayed):
            problems.append(f"{name} says {(head.ready, head.size, head.delayed)}, and holds {counted}")
        bodies |= {body_key(place_in(key)) for key, record in ready + delayed if MESSAGE.unpack_from(record)[4] & LARGE}
    for key, data in txn.range(UNACKED):
        place, _, _, record = read_unacked(data)
        if MESSAGE.unpack_from(record)[4] & LARGE:
            bodies.add(body_key(place))
        if txn.get(OWNER + key[len(UNACKED) :][:8]) is None:
            problems.append(f"{key!r} has no owner")
    doomed = {key[len(DOOMED) :] for key, _ in txn.range(DOOMED)}  # a recovery deletes what belongs to these
    stored = {key for key, _ in txn.range(BODY, head=0) if key[len(BODY) :][:4] not in doomed}
    problems += [f"{key!r} belongs to no message" for key in stored - bodies]
    problems += [f"{key!r} is missing" for key in bodies - stored if key[len(BODY) :][:4] in ids]
    return problems


def bodies_held(store: Store) -> Counter[bytes]:
    """Return how often each body is in the store: waiting or taken."""
    return store.view(lambda txn: Counter(_bodies(txn)))


def _bodies(txn: ReadTransaction) -> list[bytes]:
    found = [record[MESSAGE.size :] for prefix in (READY, DELAYED) for _, record in txn.range(prefix)]
    return found + [read_unacked(data)[3][MESSAGE.size :] for _, data in txn.range(UNACKED)]
