"""Chords over a store: what the plain backend and the Celery plugin do with the operations of ``store.chords``."""

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from lmdbresults import states
from lmdbresults.errors import described, quoted
from lmdbresults.faultpoints import reached
from lmdbresults.process.identity import lease
from lmdbresults.protocols import Meta
from lmdbresults.store import chord_steps as steps
from lmdbresults.store.base import Store, WriteTransaction
from lmdbresults.store.chords import Claim, Part, PartOutcome, ResultRecord

__all__ = ["CLAIMS_KEY", "ChordBackend", "ChordBodies", "Chords", "Effects"]

logger = logging.getLogger(__name__)

#: Why a body fails: the message, the cause, and the part that has failed.
Failure: TypeAlias = tuple[str, BaseException | None, Meta | None]

#: The key under which the claims of all chords stand, after the backend's prefix for chords.
CLAIMS_KEY: Final = ".claims"
#: Seconds between two looks for orphaned claims.
LOOK_AGAIN: Final = 1.0
#: Seconds for which an orphaned claim is left to other processes after an error.
_LEAVE_ALONE: Final = 60.0
#: Seconds for which an ended chord is remembered at least, so that a late duplicate of a part does nothing; and for how
#: long if results never expire.
_ENDED_TTL: Final = 300.0
_ENDED_TTL_OF_ETERNAL: Final = 86400.0
#: Keys deleted under one hold of the write lock.
_BATCH: Final = 200


class ChordBackend(Protocol):
    """The part of a backend that its chords use."""

    @property
    def store(self) -> Store:
        """The open store."""

    def chord_ttl(self) -> float | None:
        """Return for how many seconds a chord is kept after its last part."""

    def get_key_for_chord(self, group_id: Any) -> bytes:
        """Return the key of a chord."""

    def decode(self, payload: bytes) -> Any:
        """Return what `encode` of the same backend encoded."""

    def decode_result(self, payload: bytes) -> Meta:
        """Return the meta in a task record."""


class ChordBodies(Protocol):
    """How the bodies of chords are read, sent and failed, which each framework does in its own way."""

    def read(self, data: bytes) -> Any:
        """Return the signature of a body that `Chords.open` has kept."""

    def has_run(self, body: Any) -> bool:
        """Return whether a body has a result."""

    def send(self, body: Any, values: list[Any]) -> "Effects | None":
        """Send a body with the values of its header. Whatever this raises fails the body.

        Returns what is still to be written in the transaction that ends the chord, such as the message itself.
        """

    def fail(self, body: Any, message: str, cause: BaseException | None, part: Meta | None = None) -> "Effects | None":
        """Store a `ChordError` as the result of a body, and call its errbacks. ``part`` is the part that has failed.

        Returns like `send`.
        """


class Effects(Protocol):
    """What is written together with the end of a chord."""

    def write(self, txn: WriteTransaction) -> object:
        """Write all. May be called again after the transaction was undone."""

    def committed(self) -> object:
        """Go on, once the transaction is committed."""


class Chords:
    """The chords of one backend.

    ``interruptions`` are the exceptions of signal handlers: they do not fail a body, but release the claim on it.
    ``retried`` is called with each operation that counts a part, and calls it, as often as it wants.
    """

    def __init__(
        self,
        backend: ChordBackend,
        bodies: ChordBodies,
        claims_key: bytes,
        *,
        interruptions: tuple[type[BaseException], ...] = (),
        retried: Callable[[Callable[[], Any]], Any] = lambda operation: operation(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self.bodies = bodies
        self._claims_key = claims_key
        self._interruptions = interruptions
        self.retried = retried
        self._clock = clock
        self._look_again_at = 0.0
        #: Orphaned claims that raised an error here, and until when they are left to other processes.
        self._left_alone: dict[bytes, float] = {}

    # -- running -------------------------------------------------------------------------------------------------------

    def open(self, group_id: Any, size: int | None, body: bytes | None, header: Any) -> None:
        """Start a chord that waits for ``size`` parts (None: not known yet).

        ``body`` is for `ChordBodies.read`, ``header`` the encoded tuple tree of a header that has groups in it.
        """
        key = self._backend.get_key_for_chord(group_id)
        self._backend.store.chords.open(key, self._backend.chord_ttl(), size=size, body=body, header=header)

    def set_size(self, group_id: Any, size: int, *, at_least: bool = False) -> None:
        """Set how many parts a chord waits for. If they have returned already, the body runs."""
        key, ttl = self._backend.get_key_for_chord(group_id), self._backend.chord_ttl()
        with lease():
            claim = self._backend.store.chords.set_size(key, size, ttl, self._claims_key, at_least=at_least)
            if claim is not None:
                self.finish(claim)

    def add_more(self, group_id: Any, id_: str, count: int) -> bool:
        """Let a chord wait for the parts of one more result; return whether the chord is still waiting."""
        key, ttl = self._backend.get_key_for_chord(group_id), self._backend.chord_ttl()
        return self._backend.store.chords.add_more(key, id_, count, ttl)

    def has_ended(self, group_id: Any) -> bool:
        """Return whether a chord has ended not long ago."""
        return self._backend.store.chords.has_ended(self._backend.get_key_for_chord(group_id))

    def part_returned(
        self, request: Any, state: str, record: bytes, body: Any, result: ResultRecord | None = None
    ) -> None:
        """Count a part once, and run the body if it was the last one.

        ``record`` is the task record of the part. ``result`` is stored in the transaction that counts the part.
        """
        part = Part(request.group_index, str(request.id), record, state in states.PROPAGATE_STATES)
        with lease():
            outcome = self.retried(partial(self._return_part, request, part, result))
            self.counted(request, body, outcome)

    def count(self, txn: WriteTransaction, request: Any, state: str, record: bytes) -> PartOutcome | None:
        """Count a part in a transaction of the caller's, which runs under a `lease` and calls `counted` afterwards."""
        part = Part(request.group_index, str(request.id), record, state in states.PROPAGATE_STATES)
        key, ttl, size = self._backend.get_key_for_chord(request.group), self._backend.chord_ttl(), _size(request)
        return steps.return_part(txn, self._backend.store, key, part, ttl, self._claims_key, size=size)

    def counted(self, request: Any, body: Any, outcome: PartOutcome | None) -> None:
        """Run the body of a chord if this part was the last one. The lease under which it was counted still runs."""
        if outcome is not None and outcome.claim is not None:
            self.finish(outcome.claim, body)
        elif outcome is None:
            if self.bodies.has_run(body):  # a duplicate of a part, so late that the chord is forgotten
                logger.warning("A part of chord %s returned long after its end.", request.group)
            else:
                self._write(self.bodies.fail(body, f"GroupResult {request.group} no longer exists", None))
        elif not outcome.counts:
            logger.warning(
                "Task %s returned a part of chord %s that does not count: it is a duplicate, or the chord has ended.",
                request.id,
                request.group,
            )

    def _return_part(self, request: Any, part: Part, result: ResultRecord | None) -> PartOutcome | None:
        key, ttl = self._backend.get_key_for_chord(request.group), self._backend.chord_ttl()
        size = _size(request)
        reached("part returns")
        outcome = self._backend.store.chords.return_part(key, part, ttl, self._claims_key, size=size, result=result)
        reached("chord claimed" if outcome is not None and outcome.claim is not None else "part stored")
        return outcome

    # -- ending --------------------------------------------------------------------------------------------------------

    def finish(self, claim: Claim, body: Any = None) -> None:
        """Run the body of a claimed chord, and delete the chord. The kept body is used unless ``body`` has an id.

        An exception that does not come from the body, such as that of a signal handler, releases the claim.
        """
        try:
            self._finish(claim, body)
        except BaseException:
            self._backend.store.chords.release(claim)
            raise

    def _finish(self, claim: Claim, body: Any) -> None:
        run = self._backend.store.chords.read_run(claim)
        if (body is None or body.id is None) and run.body is not None:
            body = self.bodies.read(run.body)
        effects = None
        if body is None:
            logger.error("Chord %s has no body to run.", quoted(claim.key))
        elif not (claim.is_inherited and self.bodies.has_run(body)):
            effects = self._run(body, run.parts, run.header)
        reached("body sent")
        self._end(claim, run.names, effects)

    def _end(self, claim: Claim, names: list[bytes], effects: Effects | None = None) -> None:
        """End a chord and delete its records, those of a small chord in a single transaction.

        The ``effects`` of its end are written in the first one, so they happen once, as the chord ends once.
        """
        chords = self._backend.store.chords
        for start in range(0, len(names) or 1, _BATCH):
            batch, is_last = names[start : start + _BATCH], start + _BATCH >= len(names)
            also = effects.write if effects is not None and start == 0 else None
            if not chords.end(claim, self._ended_ttl(), self._claims_key, batch, is_last=is_last, also=also):
                if not chords.clear(claim, batch, also=also):
                    return  # another process has taken the claim over
                continue
            reached("chord ended")
        if effects is not None:
            effects.committed()

    def _write(self, effects: Effects | None) -> None:
        if effects is not None:
            self._backend.store.update(effects.write)
            effects.committed()

    def _run(self, body: Any, parts: list[Part], header: bytes | None) -> Effects | None:
        values: list[Any] = []
        try:
            values, failure = self._join(parts, header)
        except self._interruptions:
            raise
        except Exception as error:  # a value that cannot be read must not keep the body waiting for ever
            failure = (f"Join error: {described(error)}", error, None)
        reached("values joined")
        if failure is None:
            try:
                return self.bodies.send(body, values)
            except self._interruptions:
                raise
            except Exception as error:  # the errors of queues are not known here
                failure = (f"Callback error: {described(error)}", error, None)
        return self.bodies.fail(body, *failure)

    def _join(self, parts: list[Part], header: bytes | None) -> tuple[list[Any], Failure | None]:
        """Return the values in the shape of the header, or the failure of the body."""
        values: dict[str, deque[Any]] = {}
        order = []
        for part in parts:
            meta = self._backend.decode_result(part.value)
            if meta["status"] in states.PROPAGATE_STATES:
                return [], (f"Dependency {part.id} raised {described(meta['result'])}", meta["result"], meta)
            order.append(part.id)
            values.setdefault(part.id, deque()).append(meta["result"])
        trees = [] if header is None else self._backend.decode(header)["result"][1]
        shaped = [_shaped(tree, values) for tree in trees]
        # Those that the header does not name: all of them if it has no groups, else what was added while it ran.
        return shaped + [values[id_].popleft() for id_ in order if values[id_]], None

    def _ended_ttl(self) -> float:
        return max(_ENDED_TTL, self._backend.chord_ttl() or _ENDED_TTL_OF_ETERNAL)

    # -- orphaned claims -----------------------------------------------------------------------------------------------

    def recover(self, *, now: bool = False) -> None:
        """Run the bodies of chords whose claimer has died. Look for them once a second at most, unless ``now``.

        If there are none, that is a single read.
        """
        if not now and self._clock() < self._look_again_at:
            return
        self._look_again_at = self._clock() + LOOK_AGAIN
        for key in self._orphans():
            try:
                with lease():
                    self._take_over(key)
            except self._interruptions:
                raise
            except Exception:  # an error of another chord must not end what the caller is doing
                self._left_alone[key] = self._clock() + _LEAVE_ALONE
                logger.exception("Taking over chord %s failed; it is left to other processes for a while.", quoted(key))

    def _orphans(self) -> list[bytes]:
        orphans = self._backend.store.chords.orphans(self._claims_key)
        now = self._clock()
        self._left_alone = {key: until for key, until in self._left_alone.items() if until > now}
        return [key for key in orphans if key not in self._left_alone]

    def _take_over(self, key: bytes) -> None:
        claim = self._backend.store.chords.take_over(key, self._claims_key)
        if claim is None:
            return
        if claim.has_ended:
            self._end(claim, self._backend.store.chords.leftovers(claim))
        else:
            logger.warning("Chord %s: its owner died before sending the body, which is sent here.", quoted(key))
            self.finish(claim)


def _size(request: Any) -> int | None:
    """Return how many parts the chord of a request waits for, as far as its message says."""
    size: int | None = request.chord.get("chord_size")
    return size


def _shaped(tree: Any, values: dict[str, deque[Any]]) -> Any:
    """Return the value of a result, or the list of those of a group, by its tuple tree."""
    (id_, _), children = tree
    if children is not None:
        return [_shaped(child, values) for child in children]
    if not values.get(id_):
        raise LookupError(f"no part has returned for {id_}")
    return values[id_].popleft()
