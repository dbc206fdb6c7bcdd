"""Effects: what the end of a task or chord writes. Noted while Celery's code runs, then written in one transaction.

They are results, parts of chords, the acknowledgement of the task's own message and, if queue and results share a file,
messages. All of them happen or none; none if the task's message was given to another worker meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger

from lmdbresults.errors import StoreFull
from lmdbresults.faultpoints import reached
from lmdbresults.process.identity import lease
from lmdbresults.store import queues
from lmdbresults.store.chords import PartOutcome
from lmdbresults.store.queues import ACKNOWLEDGE, Message, Settlement
from lmdbresults.store.transactions import ReadTransaction, WriteTransaction

__all__ = ["Effects", "Guard", "noting"]

logger = get_logger(__name__)

#: Returns, in a transaction, whether the effects may happen.
Guard: TypeAlias = Callable[[ReadTransaction], bool]


class StoredResult(NamedTuple):
    """The arguments of `TaskRecords.put`."""

    task_id: Any
    state: str
    record: bytes
    ttl: float | None


class ReturnedPart(NamedTuple):
    """A part that a task has returned to its chord."""

    request: Any
    state: str
    record: bytes
    body: Any


class Effects:
    """What is to be written together.

    ``settlement`` settles the message of the task. If the delivery no longer belongs to this process, or ``guard``
    returns False, nothing is written. ``holds_messages``: all messages are noted here, so none is seen before
    everything is written; without it, results are written before errbacks are sent to another broker.
    ``holds_results``: results are noted here; without it, each is written when it is stored.
    """

    def __init__(
        self,
        backend: Any,
        *,
        settlement: Settlement | None = None,
        messages: Iterable[Message] = (),
        guard: Guard | None = None,
        holds_messages: bool = False,
        holds_results: bool = True,
    ) -> None:
        self.backend = backend
        self._settlement = settlement
        self._guard = guard
        self.holds_messages = holds_messages
        self.holds_results = holds_results
        self.results: list[StoredResult] = []
        self.parts: list[ReturnedPart] = []
        self.messages = list(messages)
        self.is_written = False
        self._outer: Token[Effects | None]
        self._tries = 0
        #: Whether the results take the place of the message in a full store.
        self._is_full = False
        self._outcomes: deque[tuple[ReturnedPart, PartOutcome | None]] = deque()

    def __bool__(self) -> bool:
        """Return whether there is anything to write. A settlement alone can be left to the worker."""
        return bool(self.results or self.parts or self.messages)

    # -- noting ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> None:
        """Note here what the block stores, returns to chords and publishes. Blocks of one object must not be nested."""
        self._outer = _noting.set(self)

    def __exit__(self, *exception: object) -> None:
        _noting.reset(self._outer)

    def add(self, message: Message) -> None:
        """Note a message, as an `Outbox`."""
        self.messages.append(message)

    def record_of(self, task_id: Any) -> bytes | None:
        """Return the record of a task whose result is noted."""
        return next((result.record for result in self.results if result.task_id == task_id), None)

    def deferred(self) -> "Effects | None":
        """Return what is left for the transaction that ends a chord, once the block has ended; None: nothing."""
        return self

    # -- writing -----------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Write all, then go on with the chords that this has completed.

        The exception of a soft time limit does not undo the end of a task: the task has ended.
        """
        try:
            self._commit()
        except SoftTimeLimitExceeded:
            if self.is_written:
                self.backend.chords.recover(now=True)
            else:
                self._commit()
        self.backend.chords.recover()

    def _commit(self) -> None:
        with lease():
            reached("task ends")
            for _ in self.parts[:1]:
                reached("part returns")
            is_ours = self._update()
            self.is_written = True
            if not is_ours:
                logger.warning("The end of a task was not written: its message was settled or given to another worker.")
            for _, outcome in self._outcomes:
                reached("part stored" if outcome is None or outcome.claim is None else "chord claimed")
            reached("task ended")
            self.committed()

    def _update(self) -> bool:
        update = partial(self.backend.chords.retried, partial(self.backend.store.update, self.write))
        try:
            return bool(update())
        except StoreFull:
            if not self._frees_space():
                raise
            self._is_full = True
            return bool(update())

    def _frees_space(self) -> bool:
        """Return whether the message that is acknowledged is larger than what is stored, which is only results."""
        if self._settlement is None or self._settlement[0] != ACKNOWLEDGE or self.parts or self.messages:
            return False
        size = self.backend.store.view(partial(queues.size, tag=self._settlement[1]))
        return sum(len(result.record) for result in self.results) <= int(size)

    def write(self, txn: WriteTransaction) -> bool:
        """Write all; return False, and write nothing, if the effects may not happen."""
        self._outcomes.clear()
        self._tries += 1
        if self._tries > 1 and self._was_committed(txn):
            return True
        if not self._may_happen(txn):
            return False
        if self._settlement is not None:
            queues.settle(txn, [self._settlement])
        self._put_results(txn)
        for part in self.parts:
            request, state, record, _ = part
            self._outcomes.append((part, self.backend.chords.count(txn, request, state, record)))
        if self.messages:
            queues.publish(txn, self.messages)
        return True

    def write_results(self) -> bool:
        """Write the noted results already; return False if the effects may not happen."""
        if not self.results:
            return True
        written: bool = self.backend.store.update(lambda txn: self._may_happen(txn) and self._put_results(txn))
        return written

    def _may_happen(self, txn: ReadTransaction) -> bool:
        if self._settlement is not None and not queues.is_held(txn, self._settlement[1]):
            return False
        return self._guard is None or self._guard(txn)

    def _put_results(self, txn: WriteTransaction) -> bool:
        records = self.backend.records
        put = records.put_in_full_store if self._is_full else records.put
        for result in self.results:
            put(txn, *result)
        return True

    def _was_committed(self, txn: ReadTransaction) -> bool:
        """Return whether a signal handler has raised just after the commit of the first try."""
        if not self.results:
            return False
        first = self.results[0]
        return txn.get(self.backend.records.key(first.task_id)) == first.record

    def committed(self) -> None:
        """Go on with the chords, once the effects are committed."""
        while self._outcomes:
            part, outcome = self._outcomes.popleft()
            self.backend.chords.counted(part.request, part.body, outcome)


#: Where the code that runs in this context notes its effects; None: they happen at once.
_noting: Final[ContextVar[Effects | None]] = ContextVar("noting", default=None)


def noting(backend: Any = None) -> Effects | None:
    """Return where effects are noted in this context, those of one backend if it is given; None if they are not."""
    effects = _noting.get()
    return effects if effects is None or backend is None or effects.backend is backend else None
