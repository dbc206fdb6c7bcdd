"""Chords over a store: what a backend does with the steps of store/chords.py, whichever framework its tasks have."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from lmdbresults.backends.encoding import Meta
from lmdbresults.faultpoints import reached
from lmdbresults.process.identity import lease
from lmdbresults.store.base import Store
from lmdbresults.store.chords import Claim, Part, PartOutcome, ResultRecord

__all__ = ["CLAIMS_KEY", "ChordOwner", "Chords"]

logger = logging.getLogger(__name__)

#: The key under which the claims of all chords stand, behind the backend's prefix for chords.
CLAIMS_KEY: Final = ".claims"
#: Seconds between two looks for claims of the dead.
LOOK_AGAIN: Final = 1.0
#: Seconds for which a claim is left to others that could not be dealt with here.
_LEAVE_ALONE: Final = 60.0
#: Seconds for which a chord that has ended is remembered at least, so that a late duplicate of a part does nothing; and
#: for how long if results never expire.
_ENDED_TTL: Final = 300.0
_ENDED_TTL_OF_ETERNAL: Final = 86400.0
#: Keys deleted under one hold of the write lock.
_BATCH: Final = 200


class ChordOwner(Protocol):
    """What chords ask of the backend that has them."""

    @property
    def store(self) -> Store:
        """Where everything lies."""

    def chord_ttl(self) -> float | None:
        """Return for how long a chord is kept after the last sign of life."""

    def read_part(self, value: bytes) -> Meta:
        """Return the meta in a part: its status, and its result, an exception if it has failed."""

    def read_body(self, data: bytes) -> Any:
        """Return the signature of a body."""

    def read_header(self, data: bytes) -> Any:
        """Return the tuple tree of a header that has groups in it."""

    def has_run(self, body: Any) -> bool:
        """Return whether the result of a body is there: then it was sent by a process that died afterwards."""

    def send_body(self, body: Any, values: list[Any]) -> None:
        """Send a body to be run with the values; whatever this raises fails the body."""

    def fail_body(self, body: Any, message: str, cause: BaseException | None) -> None:
        """Let a body fail with a `ChordError`."""

    def has_failed(self, meta: Meta) -> bool:
        """Return whether a part fails the body."""


class Chords:
    """The chords of one backend."""

    #: What signal handlers raise to end whatever is being done: it fails no body, but gives the claim up.
    interruptions: tuple[type[BaseException], ...] = ()

    def __init__(self, owner: ChordOwner, claims_key: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._owner = owner
        self._claims_key = claims_key
        self._clock = clock
        self._look_again_at = 0.0
        #: Claims that could not be dealt with, and until when they are left to others.
        self._left_alone: dict[bytes, float] = {}

    # -- running -------------------------------------------------------------------------------------------------------

    def open(self, key: bytes, size: int | None, body: bytes | None, header: bytes | None) -> None:
        """Begin a chord."""
        self._owner.store.chords.open(key, self._owner.chord_ttl(), size=size, body=body, header=header)

    def set_size(self, key: bytes, size: int, *, at_least: bool = False) -> None:
        """Say how many parts a chord waits for. If they are there already, the body runs."""
        ttl = self._owner.chord_ttl()
        with lease():
            claim = self._owner.store.chords.set_size(key, size, ttl, self._claims_key, at_least=at_least)
            if claim is not None:
                self.finish(claim)

    def add_more(self, key: bytes, id_: str, count: int) -> bool:
        """Have a chord wait for the parts of one more result; return whether there is a chord that still waits."""
        return self._owner.store.chords.add_more(key, id_, count, self._owner.chord_ttl())

    def has_ended(self, key: bytes) -> bool:
        """Return whether a chord has ended not long ago."""
        return self._owner.store.chords.has_ended(key)

    def return_part(self, key: bytes, part: Part, size: int | None, result: ResultRecord | None) -> PartOutcome | None:
        """Store a result and count it as a part, in one transaction; None if the chord is unknown.

        To be called in a block of `lease`, with `finish` for the claim that may come of it.
        """
        ttl = self._owner.chord_ttl()
        reached("part returns")
        outcome = self._owner.store.chords.return_part(key, part, ttl, self._claims_key, size=size, result=result)
        reached("chord claimed" if outcome is not None and outcome.claim is not None else "part stored")
        return outcome

    # -- ending --------------------------------------------------------------------------------------------------------

    def finish(self, claim: Claim, body: Any = None) -> None:
        """Run the body of a chord that is claimed, and delete the chord.

        An exception that is not the body's (a signal's, say) gives the claim up for anybody to take over.
        """
        try:
            self._finish(claim, body)
        except BaseException:
            self._owner.store.chords.release(claim)
            raise

    def _finish(self, claim: Claim, body: Any) -> None:
        run = self._owner.store.chords.read_run(claim)
        if body is None and run.body is not None:
            body = self._owner.read_body(run.body)
        if body is None:
            logger.error("Chord %r has no body to run: nobody has said which.", claim.key)
        elif not (claim.is_inherited and self._owner.has_run(body)):
            self._run(body, run.parts, run.header)
        reached("body sent")
        self._end(claim, run.names)

    def _end(self, claim: Claim, names: list[bytes]) -> None:
        """Have a chord end, and delete what belonged to it: a small one in a single transaction."""
        chords = self._owner.store.chords
        for start in range(0, len(names) or 1, _BATCH):
            batch, is_last = names[start : start + _BATCH], start + _BATCH >= len(names)
            if not chords.end(claim, self._ended_ttl(), self._claims_key, batch, is_last=is_last):
                if not chords.clear(claim, batch):
                    return  # it was taken over
                continue
            reached("chord ended")

    def _run(self, body: Any, parts: list[Part], header: bytes | None) -> None:
        failure: tuple[str, BaseException | None] | None = None
        values: list[Any] = []
        try:
            values, failure = self._join(parts, header)
        except self.interruptions:
            raise
        except Exception as error:  # a value that cannot be read must not keep the body waiting for ever
            failure = (f"Join error: {error!r}", error)
        reached("values joined")
        if failure is None:
            try:
                self._owner.send_body(body, values)
            except self.interruptions:
                raise
            except Exception as error:  # of a queue that nobody here knows
                failure = (f"Callback error: {error!r}", error)
        if failure is not None:
            self._owner.fail_body(body, *failure)

    def _join(
        self, parts: list[Part], header: bytes | None
    ) -> tuple[list[Any], tuple[str, BaseException | None] | None]:
        """Return the values in the shape of the header; or what the body fails with."""
        values: dict[str, deque[Any]] = {}
        order = []
        for part in parts:
            meta = self._owner.read_part(part.value)
            if self._owner.has_failed(meta):
                return [], (f"Dependency {part.id} raised {meta['result']!r}", meta["result"])
            order.append(part.id)
            values.setdefault(part.id, deque()).append(meta["result"])
        shaped = [] if header is None else [_shaped(tree, values) for tree in self._owner.read_header(header)[1]]
        # Those that the header does not name: all of them if it has no groups, else what was added while it ran.
        return shaped + [values[id_].popleft() for id_ in order if values[id_]], None

    def _ended_ttl(self) -> float:
        return max(_ENDED_TTL, self._owner.chord_ttl() or _ENDED_TTL_OF_ETERNAL)

    # -- the claims of the dead ----------------------------------------------------------------------------------------

    def recover(self, *, now: bool = False) -> None:
        """Take over the claims of processes that have died, and run what they have left.

        It looks once a second at most, unless told to do so ``now``: a single read if there is nothing.
        """
        if not now and self._clock() < self._look_again_at:
            return
        self._look_again_at = self._clock() + LOOK_AGAIN
        if self._owner.store.get(self._claims_key) is None:
            return
        for key in self._orphans():
            try:
                with lease():
                    self._take_over(key)
            except self.interruptions:
                raise
            except Exception:  # nothing that goes wrong with somebody else's chord is for whoever stores or waits here
                self._left_alone[key] = self._clock() + _LEAVE_ALONE
                logger.exception("The chord %r could not be taken over: it is left to others for a while.", key)

    def _orphans(self) -> list[bytes]:
        orphans = self._owner.store.chords.orphans(self._claims_key)
        now = self._clock()
        self._left_alone = {key: until for key, until in self._left_alone.items() if until > now}
        return [key for key in orphans if key not in self._left_alone]

    def _take_over(self, key: bytes) -> None:
        claim = self._owner.store.chords.take_over(key, self._claims_key)
        if claim is None:
            return
        if claim.has_ended:
            self._end(claim, self._owner.store.chords.leftovers(claim))
        else:
            logger.warning("The process that was to run the body of chord %r has died: it is run here.", key)
            self.finish(claim)


def _shaped(tree: Any, values: dict[str, deque[Any]]) -> Any:
    """Return the value of a result, or the list of those of a group, by its tuple tree."""
    (id_, _), children = tree
    if children is not None:
        return [_shaped(child, values) for child in children]
    if not values.get(id_):
        raise LookupError(f"no part has returned for {id_}")
    return values[id_].popleft()
