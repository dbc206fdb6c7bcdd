"""Queues of messages, over the transactions of any store.

The functions are *steps*: their first argument is a transaction of the caller, so that a message is published or
acknowledged together with everything else that the transaction changes. `Store.queues` does each step in a transaction
of its own.

A message is published to an exchange, which routes it to queues, where it waits. Once a consumer takes it, it belongs
to that process, its *owner*, until it is settled: acknowledged, rejected or requeued. There is no timeout: if the owner
dies, `recover` returns the message to its old place. A delivery is named by its *tag*, which is never used again.
"""

from lmdbresults.store.queues.declaring import declare, leave, names, state
from lmdbresults.store.queues.delivering import register, take
from lmdbresults.store.queues.listing import peek, remove, unacknowledged
from lmdbresults.store.queues.publishing import publish
from lmdbresults.store.queues.records import OWNERS_TOPIC, topic
from lmdbresults.store.queues.routing import (
    Kind,
    bind,
    bindings,
    declare_exchange,
    delete_exchange,
    exchange_kind,
    exchanges,
    route,
    unbind,
)
from lmdbresults.store.queues.settling import (
    ACKNOWLEDGE,
    REJECT,
    REQUEUE,
    REQUEUE_UNCOUNTED,
    Settlement,
    acknowledge,
    is_held,
    reject,
    requeue,
    settle,
    size,
)
from lmdbresults.store.queues.transactional import TransactionalQueues, Want
from lmdbresults.store.queues.values import (
    Arguments,
    Death,
    Delivery,
    Message,
    QueueState,
    Recovered,
    Taken,
    Unacknowledged,
    Waiting,
)

__all__ = [
    "ACKNOWLEDGE",
    "OWNERS_TOPIC",
    "REJECT",
    "REQUEUE",
    "REQUEUE_UNCOUNTED",
    "Arguments",
    "Death",
    "Delivery",
    "Kind",
    "Message",
    "QueueState",
    "Recovered",
    "Settlement",
    "Taken",
    "TransactionalQueues",
    "Unacknowledged",
    "Waiting",
    "Want",
    "acknowledge",
    "bind",
    "bindings",
    "declare",
    "declare_exchange",
    "delete_exchange",
    "exchange_kind",
    "exchanges",
    "is_held",
    "leave",
    "names",
    "peek",
    "publish",
    "register",
    "reject",
    "remove",
    "requeue",
    "route",
    "settle",
    "size",
    "state",
    "take",
    "topic",
    "unacknowledged",
    "unbind",
]
