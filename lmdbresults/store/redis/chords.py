"""The chords of a `RedisStore`: each operation is one script, in the slot of its chord.

In a Cluster the result of a part lies in another slot than its chord. The part, which carries the value, goes first. If
the process dies between the two, the part counts and the body runs with the value; the result of the header's task is
missing until its message is delivered again, and stays missing if that was acknowledged before. Both steps change
nothing if they are repeated.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgpack

from lmdbresults.process.identity import NO_OWNER, Owner
from lmdbresults.store.chord_records import OPEN, Head, Part, head_ttl, order_of, record_ttl
from lmdbresults.store.chords import Claim, PartOutcome, ResultRecord, Run, Step
from lmdbresults.store.redis import chord_scripts
from lmdbresults.store.redis.layout import Layout, slot_of
from lmdbresults.store.redis.scanning import scan_keys
from lmdbresults.store.redis.scripts import Scripts
from lmdbresults.store.redis.server import Request, Script, Server
from lmdbresults.store.redis.transactions import milliseconds, server_time
from lmdbresults.store.transactions import WriteTransaction

__all__ = ["RedisChords"]

Result = TypeVar("Result")

#: Seconds for which a chord may stand among the claims before it is claimed: far more than a step takes.
_ENTERED_EARLY: Final = 3600.0
_HEAD_FIELDS: Final = ("run", "state", "size", "added", "additions", "returned", "token", "owner")


class ChordStore(Protocol):
    """What the chords ask of their store."""

    def owner(self) -> Owner: ...

    def is_alive(self, owner: Owner) -> bool: ...

    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result: ...

    def set(
        self, key: bytes, value: bytes, ttl: float | None = None, *, keep_prefix: bytes = b"", interim: bool = False
    ) -> bool: ...


class RedisChords:
    """The chords of a store; see `lmdbresults.store.chords.TransactionalChords` for the operations."""

    def __init__(self, store: ChordStore, server: Callable[[], Server], layout: Layout, scripts: Scripts) -> None:
        self._store = store
        #: Returns the server, if the store may be used now.
        self._server = server
        self._layout = layout
        self._scripts = scripts

    # -- running -----------------------------------------------------------------------------------------------------

    def open(
        self,
        key: bytes,
        ttl: float | None,
        *,
        size: int | None = None,
        body: bytes | None = None,
        header: bytes | None = None,
    ) -> None:
        """Start a new run of a chord that waits for ``size`` parts (None: not known yet)."""
        words = _opening(ttl, size, body, header)
        former = self._run(self._scripts.chords[chord_scripts.OPEN], key, b"", words)
        if former:
            run, owner = former
            if not self._store.is_alive(_owner(owner)):  # else it still needs the records
                claim = Claim(key, run.decode(), "")
                self.clear(claim, self.leftovers(claim))

    def adopt(
        self,
        key: bytes,
        ttl: float | None,
        *,
        size: int | None = None,
        body: bytes | None = None,
        header: bytes | None = None,
    ) -> bool:
        """Open a chord that another store has opened, unless it is here; return whether it was not.

        An open one is completed: it waits for at least ``size`` parts, and gets the body and the header that it lacks
        because a part has returned before.
        """
        words = _opening(ttl, size, body, header)
        return bool(self._run(self._scripts.chords[chord_scripts.ADOPT], key, b"", words))

    def set_size(
        self, key: bytes, size: int, ttl: float | None, claims_key: bytes, *, at_least: bool = False
    ) -> Claim | None:
        """Set how many parts a chord waits for, or ``at_least`` how many; return the claim if they have returned."""
        words = [_new_run(), token := _new_token(), self._packed_owner(), size, int(at_least), *_lifetimes(ttl)]
        run, is_claimed = self._run(self._scripts.chords[chord_scripts.SET_SIZE], key, claims_key, words)
        return Claim(key, run.decode(), token) if is_claimed else None

    def add_more(self, key: bytes, id_: str, count: int, ttl: float | None) -> bool:
        """Let an open chord wait for the parts of one more result; return whether there is such a chord."""
        words = [id_, count, *_lifetimes(ttl)]
        return bool(self._run(self._scripts.chords[chord_scripts.ADD_MORE], key, b"", words))

    def return_part(
        self,
        key: bytes,
        part: Part,
        ttl: float | None,
        claims_key: bytes,
        *,
        size: int | None = None,
        result: ResultRecord | None = None,
    ) -> PartOutcome | None:
        """Store a part and the ``result`` of its task, and count the part once; return what became of it.

        ``size`` is used if none was set. Returns None if neither the chord nor its size is known; the result is stored
        nevertheless.
        """
        token, field = _new_token(), f"part.{order_of(part.place):016x}.{part.id}"
        packed = msgpack.packb((part.place, part.id))
        words = [_new_run(), token, self._packed_owner(), _text(size), *_lifetimes(ttl), field]
        words += ["F" if part.has_failed else "S", b"%d:%b" % (len(packed), packed), part.value]
        outcome = self._return(key, claims_key, words, part, result)
        if outcome == b"unknown":
            return None
        if outcome == b"late":
            return PartOutcome(False, None)
        if outcome[0] == b"held":
            return PartOutcome(False, self._take_over(key, claims_key, *outcome[2:4]))
        _, run, counts, is_claimed = outcome
        return PartOutcome(bool(counts), Claim(key, run.decode(), token) if is_claimed else None)

    def _return(self, key: bytes, claims_key: bytes, words: list[Any], part: Part, result: ResultRecord | None) -> Any:
        """Run the script that returns a part, with its result, or before it if that lies in another slot."""
        script, also = self._scripts.chords[chord_scripts.RETURN_PART], None
        if result is not None and self._is_near(key, result.key):
            also = self._layout.name(result.key)
            is_same = result.value == part.value
            words += ["=" if is_same else "V", milliseconds(result.ttl), result.keep_prefix]
            words += [] if is_same else [result.value]
            return self._run(script, key, claims_key, words, also)
        outcome = self._run(script, key, claims_key, [*words, "", 0, ""])
        if result is not None:
            self._store.set(result.key, result.value, result.ttl, keep_prefix=result.keep_prefix)
        return outcome

    # -- ending ------------------------------------------------------------------------------------------------------

    def read_run(self, claim: Claim) -> Run:
        """Return the records of a chord, complete or not."""
        found, added, rest = [], {}, {}
        fields = self._records(claim)
        beginning = len(claim.run) + 1
        for field, value in fields.items():
            what = field[beginning:]
            if what.startswith(b"part."):
                found.append(_unpack_part(value))
            elif what.startswith(b"more."):
                added[what[5:].decode()] = int(value.partition(b":")[0])
            else:
                rest[what] = value
        found.sort(key=lambda entry: (added.get(entry[1].id, -1), order_of(entry[1].place), entry[0]))
        return Run([part for _, part in found], rest.get(b"body"), rest.get(b"header"), list(fields))

    def _records(self, claim: Claim) -> dict[bytes, bytes]:
        name = self._names(claim.key)[1]
        answer = iter(self._server().call(name, "HGETALL", name))
        beginning = claim.run.encode() + b"."
        return {field: value for field, value in zip(answer, answer, strict=True) if field.startswith(beginning)}

    def release(self, claim: Claim) -> None:
        """Release a claim, so that any process can take it over."""
        self._run(self._scripts.chords[chord_scripts.RELEASE], claim.key, b"", [claim.token])

    def end(
        self,
        claim: Claim,
        ttl: float | None,
        claims_key: bytes,
        names: Iterable[bytes],
        *,
        is_last: bool,
        also: Step | None = None,
    ) -> bool:
        """End a chord, so that late parts do nothing; return False if the claim was taken over.

        ``also`` is done in an update of its own, just before. If the process dies between the two, it is done again by
        the process that takes the claim over, so it must be harmless to repeat.
        """
        head = self._names(claim.key)[0]
        if also is not None:
            if self._server().call(head, "HGET", head, "token") != claim.token.encode():
                return False
            self._store.update(also)
        words = [claim.token, _lifetimes(ttl)[0], int(is_last), *names]
        is_held = bool(self._run(self._scripts.chords[chord_scripts.END], claim.key, claims_key, words))
        if is_held and is_last and not self._is_near(claim.key, claims_key):
            self._leave(claims_key, claim.key)
        return is_held

    def clear(self, claim: Claim, names: Iterable[bytes], *, also: Step | None = None) -> bool:
        """Delete records of a run that has expired or was replaced; return False if the run is current.

        ``also`` is done afterwards, unless the run is current.
        """
        words = [claim.run, *names]
        is_over = bool(self._run(self._scripts.chords[chord_scripts.CLEAR], claim.key, b"", words))
        if is_over and also is not None:
            self._store.update(also)
        return is_over

    def leftovers(self, claim: Claim) -> list[bytes]:
        """Return the names of all records that an ended chord still has."""
        name, beginning = self._names(claim.key)[1], claim.run.encode() + b"."
        return [field for field in self._server().call(name, "HKEYS", name) if field.startswith(beginning)]

    def has_ended(self, key: bytes) -> bool:
        """Return whether a chord has ended, and its head has not expired since."""
        name = self._names(key)[0]
        return bool(self._server().call(name, "HGET", name, "state") == b"ended")

    # -- claims ------------------------------------------------------------------------------------------------------

    def orphans(self, claims_key: bytes) -> list[bytes]:
        """Return the keys of chords whose claim was released, or belongs to a dead owner."""
        name = self._layout.name(claims_key)
        entered = iter(self._server().call(name, "ZRANGE", name, 0, -1, "WITHSCORES"))
        scores = {key: float(score) for key, score in zip(entered, entered, strict=True)}
        if not scores:
            return []
        now = server_time(self._server())
        ages = {key: now - score for key, score in scores.items()}
        heads = self._heads(list(ages))
        return [key for (key, age), head in zip(ages.items(), heads, strict=True) if self._is_orphaned(head, age)]

    def _is_orphaned(self, head: Head | None, age: float) -> bool:
        if head is None or head.state == OPEN:  # expired, or to be claimed just now
            return age > _ENTERED_EARLY
        return not self._store.is_alive(head.owner)

    def take_over(self, key: bytes, claims_key: bytes) -> Claim | None:
        """Take the claim on a chord if it is orphaned."""
        head = self._heads([key])[0]
        if head is None or head.state == OPEN:
            self._leave(claims_key, key)
            return None
        return self._take_over(key, claims_key, head.token.encode(), _packed(head.owner))

    def _take_over(self, key: bytes, claims_key: bytes, former: bytes, owner: bytes) -> Claim | None:
        if self._store.is_alive(_owner(owner)):
            return None
        words = [former, token := _new_token(), self._packed_owner()]
        answer = self._run(self._scripts.chords[chord_scripts.TAKE_OVER], key, claims_key, words, is_claiming=True)
        if not answer:
            return None
        run, state = answer
        return Claim(key, run.decode(), token, is_inherited=True, has_ended=state == b"ended")

    def head(self, key: bytes) -> Head | None:
        """Return the state of a chord, or None if there is no such chord."""
        return self._heads([key])[0]

    def in_flight(self, prefix: bytes = b"") -> Iterator[tuple[bytes, Head]]:
        """Yield key and head of all chords under a prefix, ended ones included, in no promised order."""
        for keys in scan_keys(self._server(), self._layout, prefix, "hash"):
            for key, head in zip(keys, self._heads(keys), strict=True):
                if head is not None:
                    yield key, head

    def _heads(self, keys: Sequence[bytes]) -> list[Head | None]:
        names = [self._names(key)[0] for key in keys]
        answers = self._server().call_all([Request(name, ("HMGET", name, *_HEAD_FIELDS)) for name in names])
        return [_head(answer) for answer in answers]

    def _enter(self, claims_key: bytes, key: bytes) -> None:
        name = self._layout.name(claims_key)
        self._server().call(name, "ZADD", name, int(server_time(self._server())), key)

    def _leave(self, claims_key: bytes, key: bytes) -> None:
        name = self._layout.name(claims_key)
        self._server().call(name, "ZREM", name, key)

    # -- scripts -----------------------------------------------------------------------------------------------------

    def _run(
        self,
        script: Script,
        key: bytes,
        claims_key: bytes,
        words: Sequence[Any],
        also: bytes | None = None,
        *,
        is_claiming: bool = False,
    ) -> Any:
        """Run a script of a chord; enter it among the claims first, if those are elsewhere and it asks for that."""
        names, mode = self._names(key), "no"
        if claims_key and self._is_near(key, claims_key):
            names, mode = [*names, self._layout.name(claims_key)], "keys"
        elif is_claiming:
            self._enter(claims_key, key)
            mode = "entered"
        if also is not None:
            names.append(also)
        answer = self._server().run(script, names, mode, key, self._layout.channel_prefix, *words)
        if answer == b"enter":
            self._enter(claims_key, key)
            answer = self._server().run(script, names, "entered", key, self._layout.channel_prefix, *words)
        return answer

    def _is_near(self, key: bytes, other: bytes) -> bool:
        """Return whether two keys can be changed in one step."""
        if self._server().options.kind != "cluster":
            return True
        return slot_of(self._layout.name(key)) == slot_of(self._layout.name(other))

    def _names(self, key: bytes) -> list[bytes]:
        """Return the names of the head and of the records of a chord."""
        name = self._layout.name(key)
        return [name, name + b".records"]

    def _packed_owner(self) -> bytes:
        return _packed(self._store.owner())


def _new_run() -> str:
    return os.urandom(4).hex()


def _new_token() -> str:
    return os.urandom(8).hex()


def _opening(ttl: float | None, size: int | None, body: bytes | None, header: bytes | None) -> list[Any]:
    """Return the words by which a run is opened."""
    words: list[Any] = [_new_run(), "" if size is None else size, *_lifetimes(ttl)]
    for name, value in (("body", body), ("header", header)):
        words += [] if value is None else [name, value]
    return words


def _text(size: int | None) -> str:
    return "" if size is None else str(size)


def _lifetimes(ttl: float | None) -> tuple[int, int]:
    """Return for how many milliseconds the head and the records of a chord are kept."""
    return milliseconds(head_ttl(ttl)), milliseconds(record_ttl(ttl))


def _packed(owner: Owner) -> bytes:
    packed: bytes = msgpack.packb(owner) if owner.pid else b""
    return packed


def _owner(packed: bytes) -> Owner:
    return Owner(*msgpack.unpackb(packed)) if packed else NO_OWNER


def _head(answer: list[bytes | None]) -> Head | None:
    run, state, size, added, additions, returned, token, owner = answer
    if run is None:
        return None
    numbers = (int(added or 0), int(additions or 0), int(returned or 0))
    known = None if size is None else int(size)
    return Head(run.decode(), (state or b"").decode(), known, *numbers, (token or b"").decode(), _owner(owner or b""))


def _unpack_part(value: bytes) -> tuple[int, Part]:
    """Return the number and the part in the value of a record."""
    number, length, rest = value[1:].split(b":", 2)
    place, id_ = msgpack.unpackb(rest[: int(length)])
    return int(number), Part(place, id_, rest[int(length) :], value[:1] == b"F")
