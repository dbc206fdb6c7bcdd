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
    read_unacked,
)
from lmdbresults.store.transactions import ReadTransaction

__all__ = ["audit", "bodies_held"]


def audit(store: Store) -> list[str]:
    """Return what is wrong: counts, bodies without a message, deliveries without an owner."""
    return store.view(_audit)


def _audit(txn: ReadTransaction) -> list[str]:
    problems: list[str] = []
    bodies: Counter[bytes] = Counter()
    for name in names(txn):
        head = read_head(txn, name)
        assert head is not None
        id_ = QUEUE_ID.pack(head.id)
        ready, delayed = list(txn.range(READY + id_)), list(txn.range(DELAYED + id_))
        counted = (len(ready), sum(MESSAGE.unpack_from(record)[3] for _, record in ready), len(delayed))
        if counted != (head.ready, head.size, head.delayed):
            problems.append(f"{name} says {(head.ready, head.size, head.delayed)}, and holds {counted}")
        for _, record in ready + delayed:
            if MESSAGE.unpack_from(record)[4] & LARGE:
                bodies[body_key(record)] += 1
    for key, data in txn.range(UNACKED):
        _, _, _, record = read_unacked(data)
        if MESSAGE.unpack_from(record)[4] & LARGE:
            bodies[body_key(record)] += 1
        if txn.get(OWNER + key[len(UNACKED) :][:8]) is None:
            problems.append(f"{key!r} has no owner")
    for id_ in [key[len(DOOMED) :] for key, _ in txn.range(DOOMED)]:  # what a recovery deletes
        for prefix in (READY, DELAYED):
            large = [record for _, record in txn.range(prefix + id_) if MESSAGE.unpack_from(record)[4] & LARGE]
            bodies.update(map(body_key, large))
    stored = Counter(key for key, _ in txn.range(BODY, head=0))
    problems += [f"{key!r} belongs to no message" for key in stored - bodies]
    return problems + [f"{key!r} is missing, or shared" for key in bodies - stored]


def bodies_held(store: Store) -> Counter[bytes]:
    """Return how often each body is in the store: waiting or taken."""
    return store.view(lambda txn: Counter(_bodies(txn)))


def _bodies(txn: ReadTransaction) -> list[bytes]:
    found = [record[MESSAGE.size :] for prefix in (READY, DELAYED) for _, record in txn.range(prefix)]
    return found + [read_unacked(data)[3][MESSAGE.size :] for _, data in txn.range(UNACKED)]
