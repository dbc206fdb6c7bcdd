"""The queues of a store: each method is a transaction of its own, or several for what may be large."""

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Protocol, TypeVar

from lmdbresults.errors import StoreFull
from lmdbresults.process.identity import Owner
from lmdbresults.store.queues import declaring, delivering, listing, publishing, recovering, routing, settling
from lmdbresults.store.queues.heads import Heads
from lmdbresults.store.queues.records import owner_id
from lmdbresults.store.queues.routing import Kind
from lmdbresults.store.queues.settling import Settlement
from lmdbresults.store.queues.values import (
    Arguments,
    Message,
    QueueState,
    Recovered,
    Taken,
    Unacknowledged,
    Waiting,
)
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = ["TransactionalQueues", "Want"]

Result = TypeVar("Result")
#: Queues, and how many messages are wanted from them.
Want = tuple[Sequence[str], int]

#: Messages that one transaction purges, deletes or returns.
_BATCH: Final = 500
#: The same in a full store, whose reserve the pages come from that the transaction changes.
_SMALL_BATCH: Final = 8


class _Transactional(Protocol):
    """What the queues ask of their store."""

    def view(self, operation: Callable[[ReadTransaction], Result]) -> Result:
        """See `lmdbresults.store.base.Store.view`."""

    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        """See `lmdbresults.store.base.Store.update`."""

    def owner(self) -> Owner:
        """See `lmdbresults.store.base.Store.owner`."""

    def is_alive(self, owner: Owner) -> bool:
        """See `lmdbresults.store.base.Store.is_alive`."""


class TransactionalQueues:
    """The queues of a store with arbitrary transactions.

    The functions of `lmdbresults.store.queues` are the same as steps of a transaction of the caller's.
    """

    def __init__(self, store: _Transactional) -> None:
        self._store = store

    # -- queues ------------------------------------------------------------------------------------------------------

    def declare(self, queue: str, arguments: Arguments | None = None, *, owned: bool = False) -> QueueState:
        """Create a queue, or find an existing one, and return what it holds.

        ``arguments`` replace those of an existing queue; None leaves them. A queue that is ``owned`` is deleted when
        this process has exited, unless it has another owner that is alive. Raises ValueError for a name of more than
        255 bytes.

        Declaring a queue as it is writes nothing.
        """
        owner, is_alive = self._owner() if owned else None, self._store.is_alive
        present = self._store.view(lambda txn: declaring.as_declared(txn, queue, arguments, owner, is_alive))
        if present is not None:
            return present
        return self._store.update(lambda txn: declaring.declare(txn, queue, arguments, owner=owner, is_alive=is_alive))

    def leave(self, queue: str) -> None:
        """Note that this process takes no more from a queue, so that the queue expires if no other does."""
        owner = self._owner()
        if self._store.view(lambda txn: declaring.is_user(txn, queue, owner)):
            self._store.update(lambda txn: declaring.leave(txn, queue, owner))

    def state(self, queue: str) -> QueueState | None:
        """Return what a queue holds, or None if there is no such queue."""
        return self._store.view(lambda txn: declaring.state(txn, queue))

    def names(self) -> list[str]:
        """Return the names of all queues."""
        return self._store.view(declaring.names)

    def purge(self, queue: str) -> int:
        """Delete the messages that wait in a queue, delayed ones included; return how many."""
        present = self.state(queue)
        left = 0 if present is None else present.ready + present.delayed
        total = 0
        while left > total:  # and not what is published meanwhile
            limit = min(left - total, _BATCH)
            count = self._some(functools.partial(declaring.purge_some, queue=queue), limit)
            total += count
            if not count:
                break
        return total

    def delete(self, queue: str) -> int:
        """Delete a queue, its bindings and its messages; return how many were ready.

        Deliveries that are not settled go when they are. If this process is killed meanwhile, `recover` goes on.
        """
        deleted = self._store.update(lambda txn: declaring.delete_head(txn, queue))
        if deleted is None:
            return 0
        count, id_ = deleted
        if id_:
            self._clear(id_)
        return count

    def _clear(self, id_: bytes) -> None:
        while self._some(functools.partial(declaring.clear, id_=id_)):
            pass

    def _some(self, step: Callable[..., Result], limit: int = _BATCH) -> Result:
        """Do a part of what may be large; a smaller part if a full store has no space for more changes at once."""
        try:
            return self._store.update(functools.partial(step, limit=limit))
        except StoreFull:
            return self._store.update(functools.partial(step, limit=min(limit, _SMALL_BATCH)))

    # -- exchanges ---------------------------------------------------------------------------------------------------

    def declare_exchange(self, exchange: str, kind: Kind = "direct") -> None:
        """Create an exchange. The bindings of an existing one stay; its kind becomes ``kind``."""
        self._store.update(lambda txn: routing.declare_exchange(txn, exchange, kind))

    def delete_exchange(self, exchange: str) -> bool:
        """Delete an exchange and its bindings; return whether it existed."""
        return self._store.update(lambda txn: routing.delete_exchange(txn, exchange))

    def exchange_kind(self, exchange: str) -> str | None:
        """Return the kind of an exchange, or None if there is no such exchange."""
        return self._store.view(lambda txn: routing.exchange_kind(txn, exchange))

    def exchanges(self) -> dict[str, str]:
        """Return the kinds of all exchanges by their names."""
        return self._store.view(routing.exchanges)

    def bind(self, queue: str, exchange: str, key: str = "") -> bool:
        """Bind a queue to an exchange; return False if there is no such queue or no such exchange."""
        return self._store.update(lambda txn: routing.bind(txn, queue, exchange, key))

    def unbind(self, queue: str, exchange: str, key: str = "") -> bool:
        """Remove a binding; return whether it existed."""
        return self._store.update(lambda txn: routing.unbind(txn, queue, exchange, key))

    def bindings(self, exchange: str) -> list[tuple[str, str]]:
        """Return the bindings of an exchange: pairs of a key and a queue."""
        return self._store.view(lambda txn: routing.bindings(txn, exchange))

    def route(self, exchange: str, key: str) -> tuple[str, ...]:
        """Return the queues that a message goes to, each once."""
        return self._store.view(lambda txn: routing.route(txn, exchange, key))

    # -- messages ----------------------------------------------------------------------------------------------------

    def publish(self, messages: Iterable[Message]) -> list[int]:
        """Add messages to the queues that they are routed to; return for each, to how many.

        All or none are added. One consumer of each queue is woken. A message that no queue is found for is dropped.
        If that holds for all, as for events that no program receives, nothing is written. Raises `QueueFull` if a queue
        refuses a message, `StoreFull`, or ValueError.
        """
        batch = list(messages)
        if all(message.exchange for message in batch) and not self._store.view(
            lambda txn: publishing.arrives(txn, batch)
        ):
            return [0] * len(batch)
        return self._store.update(lambda txn: publishing.publish(txn, batch))

    def take(self, queues: Sequence[str], limit: int) -> Taken:
        """Take up to ``limit`` messages, about as many from each queue; later queues fill what is left."""
        return self.turn((), [(queues, limit)])[0]

    def turn(
        self,
        settlements: Iterable[Settlement],
        wants: Sequence[Want],
        settled: Collection[str] = (),
        *,
        is_woken: bool = False,
    ) -> list[Taken]:
        """Settle deliveries, then take messages, in one transaction; return what each of the ``wants`` gets.

        What is taken from the queues ``settled`` is acknowledged at once, and its tag is empty. If there is nothing to
        do, nothing is written. ``is_woken``: a publisher has woken the caller, so there is, and no look comes first.
        """
        settling_now = list(settlements)
        if not (settling_now or is_woken) and (found := self._store.view(lambda txn: _survey(txn, wants))) is not None:
            return found
        owner = self._owner()
        try:
            return self._store.update(lambda txn: _turn(txn, owner, settling_now, wants, settled))
        except StoreFull:  # it was too much at once for the space that is left
            for settlement in settling_now:
                self._store.update(functools.partial(settling.settle, settlements=[settlement]))
            fewer = [(queues, min(limit, 1)) for queues, limit in wants]
            return self._store.update(lambda txn: _turn(txn, owner, (), fewer, settled))

    def acknowledge(self, tag: str) -> bool:
        """Delete a message that was taken; return False if the delivery is no longer its owner's."""
        return self._store.update(lambda txn: settling.acknowledge(txn, tag))

    def reject(self, tag: str) -> bool:
        """Move a message that was taken to the dead letters, or delete it. Returns like `acknowledge`."""
        return self._store.update(lambda txn: settling.reject(txn, tag))

    def requeue(self, tag: str, *, counted: bool = True) -> bool:
        """Return a message that was taken to its old place. Returns like `acknowledge`.

        ``counted``: it comes nearer to `Arguments.max_deliveries`.
        """
        return self._store.update(lambda txn: settling.requeue(txn, tag, counted=counted))

    def is_held(self, tag: str) -> bool:
        """Return whether a delivery is still its owner's."""
        return self._store.view(lambda txn: settling.is_held(txn, tag))

    # -- looking -----------------------------------------------------------------------------------------------------

    def peek(self, queue: str, limit: int | None = 100, *, after: str = "") -> list[Waiting]:
        """Return the messages that wait in a queue, in the order in which they will be taken; then the delayed ones.

        ``after`` is the tag of the last message of an earlier call, to go on there.
        """
        return self._store.view(lambda txn: listing.peek(txn, queue, limit, after=after))

    def remove(self, queue: str, tag: str) -> bool:
        """Delete one waiting message by its tag; return False if it no longer waits in the queue."""
        return self._store.update(lambda txn: listing.remove(txn, queue, tag))

    def unacknowledged(self, queue: str | None = None) -> list[Unacknowledged]:
        """Return the messages that were taken and are not settled, of one queue or of all."""
        return self._store.view(lambda txn: list(listing.unacknowledged(txn, queue)))

    # -- owners ------------------------------------------------------------------------------------------------------

    def _owner(self) -> Owner:
        """Return this process. A lease that runs is for other claims: deliveries outlive it."""
        owner = self._store.owner()
        return owner._replace(lease="") if owner.lease else owner

    def register(self) -> None:
        """List this process as an owner before it takes its first message, so that others see when it dies."""
        owner = self._owner()
        self._store.update(lambda txn: delivering.register(txn, owner))

    def owners(self) -> list[Owner]:
        """Return the other processes that may hold messages or own queues."""
        here = self._owner()
        return [owner for owner in self._store.view(recovering.owners).values() if owner != here]

    def recover(self) -> Recovered:
        """Return the messages of dead owners to their old places; delete queues of dead owners, and unused ones.

        Nothing is written if there is nothing to do. Call it at start, when an owner dies, and once a second.
        """
        store, here = self._store, self._owner()
        orphans = store.view(lambda txn: recovering.find_orphans(txn, here, store.is_alive))
        messages = self._release(owner_id(here), former=True) if orphans.has_former else 0
        queues = 0
        for owner in orphans.owners:
            for queue in store.view(functools.partial(recovering.owned_queues, owner=owner)):
                self.delete(queue)
                queues += 1
            messages += self._release(owner)
        for queue in orphans.unused:
            queues += self._delete_unused(queue)
        for id_ in orphans.doomed:
            self._clear(id_)
        return Recovered(messages, queues)

    def _release(self, owner: bytes, *, former: bool = False) -> int:
        messages, more = 0, True
        while more:
            count, more = self._some(functools.partial(recovering.release_some, owner=owner, former=former))
            messages += count
        return messages

    def _delete_unused(self, queue: str) -> bool:
        """Delete a queue, unless it has been used meanwhile."""
        is_alive = self._store.is_alive
        deleted = self._store.update(
            lambda txn: declaring.delete_head(txn, queue) if recovering.is_unused(txn, queue, is_alive) else None
        )
        if deleted is not None and deleted[1]:
            self._clear(deleted[1])
        return deleted is not None


def _survey(txn: ReadTransaction, wants: Iterable[Want]) -> list[Taken] | None:
    """Return what a turn without settlements gets, if that is nothing; None if there is something to do."""
    found = []
    for queues, limit in wants:
        has_work, next_due = delivering.survey(txn, queues) if limit > 0 else (False, None)
        if has_work:
            return None
        found.append(Taken([], next_due))
    return found


def _turn(
    txn: WriteTransaction,
    owner: Owner,
    settlements: Iterable[Settlement],
    wants: Iterable[Want],
    settled: Collection[str],
) -> list[Taken]:
    heads = Heads(txn)
    settling.settle_in(heads, settlements)
    found = [delivering.take_from(heads, owner, queues, limit, settled) for queues, limit in wants]
    heads.write()
    return found
