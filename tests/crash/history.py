"""What was written and acknowledged, as the writers have noted it, and whether a store holds exactly a part of it.

Each transaction counts up `TOTAL`, so its number says where it stands in the order of all, and what a store must hold
that has come so far follows from the log. A single write, which is a transaction of its own, counts up a number of its
writer; it stands somewhere between the two transactions of that writer around it.
"""

from bisect import bisect_left
from collections.abc import Mapping
from hashlib import blake2b
from pickle import loads
from typing import Any, Final, NamedTuple

from tests.crash.checkpoints import checkpoints_of, within_reach
from tests.crash.recording import Event, Kind

__all__ = ["DONE", "PUBLISHED", "QUEUE", "SINGLE", "TOTAL", "Found", "History", "Verdict", "digest", "value_of"]

TOTAL: Final = b"total"
#: Before the name of a writer: the key that its single writes go to.
SINGLE: Final = b"single "

#: Messages: the key that counts them up, the queue that they are published to, and the key of the result of each.
PUBLISHED: Final = b"published"
QUEUE: Final = "messages"
DONE: Final = b"done "

#: A change within a transaction: what is done, to which key, and how much of it.
Change = tuple[str, bytes, int]


def value_of(key: bytes, number: int, size: int) -> bytes:
    """Return what a transaction with a number writes under a key."""
    word = blake2b(b"%s in %d" % (key, number)).digest()
    return (word * (size // len(word) + 1))[:size]


def digest(value: bytes) -> bytes:
    """Return what stands for a value, so that 100 kB need not be handed on."""
    return value if len(value) < 16 else blake2b(value, digest_size=16).digest()


class Found(NamedTuple):
    """What was found in a store that was opened."""

    values: dict[bytes, bytes]
    """Digests by key."""
    problems: list[str]
    """What check() says, at once and after some more writes."""
    failure: str = ""
    """How opening or reading failed; empty if it did not."""
    has_died: bool = False
    """Whether it took the process with it, or hung."""


class Verdict(NamedTuple):
    """What is to be said of a store after a power cut."""

    kind: str
    """consistent, lost (something acknowledged), wrong (never so), error (said so), aborted."""
    detail: str
    commits: int = 0
    """How many acknowledged transactions are missing."""
    seconds: float = 0.0
    """How long before the cut the first of them was acknowledged."""


class _Step(NamedTuple):
    """Something that a writer has begun, and when."""

    place: int
    writer: str
    is_single: bool
    number: int
    commit: int
    """The number that LMDB gives to it, if that is known."""
    changes: list[Change]


class _Acknowledged(NamedTuple):
    """That a writer was told of a commit, and when."""

    place: int
    time: float
    is_promised: bool
    """Whether it was durable by then."""


class History:
    """The marks of a log, which can be asked about every moment of it.

    ``before`` is what the store held, durably, when the log was begun.
    """

    def __init__(self, events: list[Event], before: Mapping[bytes, bytes] | None = None) -> None:
        self._before = before or {}
        #: The number of the last transaction before the log was begun.
        self._former = int(self._before.get(TOTAL, b"0"))
        self._begun: list[_Step] = []
        #: By number; and by writer and number those of single writes.
        self._acknowledged: dict[int, _Acknowledged] = {}
        self._acknowledged_singles: dict[tuple[str, int], _Acknowledged] = {}
        #: When a flush began, and when it returned.
        self._flushes: list[tuple[int, int]] = []
        begun: dict[str, int] = {}
        for event in events:
            if event.kind is Kind.MARK:
                self._note(event, loads(event.data), begun)
        self._checkpoints = checkpoints_of(events)
        self._commits = {step.number: step.commit for step in self._begun if not step.is_single}

    def _note(self, event: Event, what: tuple[Any, ...], flushes: dict[str, int]) -> None:
        verb, writer, *rest = what
        if verb == "begin":
            self._begun.append(_Step(event.place, writer, *rest))
        elif verb == "acknowledged":
            is_single, number, is_promised = rest
            told = _Acknowledged(event.place, event.time, is_promised)
            if is_single:
                self._acknowledged_singles[writer, number] = told
            else:
                self._acknowledged[number] = told
        elif verb == "undone":
            self._begun = [step for step in self._begun if step[1:4] != (writer, False, *rest)]
        elif verb == "flush":
            flushes[writer] = event.place
        elif verb == "flushed":
            self._flushes.append((flushes[writer], event.place))

    def counts(self) -> dict[str, int]:
        """Return how much of what there is."""
        return {
            "transactions": len(self._acknowledged),
            "single writes": len(self._acknowledged_singles),
            "flushes": len(self._flushes),
            "checkpoints": len(self._checkpoints),
        }

    def judge(self, cut: Event, found: Found) -> Verdict:
        """Say what is to be said of what was found after a power cut just before an event."""
        if found.failure:
            return Verdict("aborted" if found.has_died else "error", found.failure)
        steps = self._begun[: bisect_left(self._begun, (cut.place,))]
        transactions = {step.number: step for step in steps if not step.is_single}  # a number that was undone is reused
        total = int(found.values.get(TOTAL, b"0"))
        wrong = self._what_is_wrong(steps, transactions, total, found) or self._what_is_between(cut, total)
        if wrong:
            return Verdict("wrong", wrong)
        lost = self._what_is_lost(cut, total, found)
        missing = [told for number, told in self._acknowledged.items() if number > total and told.place < cut.place]
        seconds = max((cut.time - told.time for told in missing), default=0.0)
        return Verdict("lost" if lost else "consistent", lost, len(missing), seconds)

    def _what_is_wrong(self, steps: list[_Step], transactions: Mapping[int, _Step], total: int, found: Found) -> str:
        if found.problems:
            return f"check: {found.problems[:3]}"
        if total < self._former or (total > self._former and total not in transactions):
            return f"holds transaction {total}, which is unknown, or {self._former} and later ones have got lost"
        values = {key: value for key, value in found.values.items() if not key.startswith(SINGLE)}
        wanted = self._state(transactions, total)
        differing = sorted(key for key in values.keys() | wanted.keys() if values.get(key) != wanted.get(key))
        if differing:
            return f"is not as it was after transaction {total}: {differing[:5]}"
        return self._out_of_order(steps, transactions, total, found)

    def _what_is_between(self, cut: Event, total: int) -> str:
        """Say whether the store is neither at a checkpoint nor, with a log, after one."""
        if not self._checkpoints:
            return ""
        commits, is_open = within_reach(self._checkpoints, cut.place)
        reach = {self._total_at(commit) for commit in commits}
        is_within = total in reach or (is_open and total > min(reach))
        return "" if is_within else f"holds {total} transactions, and the checkpoints are at {sorted(reach)}"

    def _total_at(self, commit: int) -> int:
        return max((number for number, own in self._commits.items() if own <= commit), default=self._former)

    def _what_is_lost(self, cut: Event, total: int, found: Found) -> str:
        flushed = max((begin for begin, end in self._flushes if end < cut.place), default=0)

        def is_promised(told: _Acknowledged) -> bool:
            return told.place < (cut.place if told.is_promised else flushed)

        least = max((number for number, told in self._acknowledged.items() if is_promised(told)), default=0)
        if total < least:
            return f"holds {total} of {least} transactions that had to be there"
        for (writer, number), told in self._acknowledged_singles.items():
            if is_promised(told) and number > _single(found, writer):
                return f"lacks the single write {number} of {writer}, which had to be there"
        return ""

    def _state(self, transactions: Mapping[int, _Step], total: int) -> dict[bytes, bytes]:
        """Return what the store holds after the first so many transactions."""
        state: dict[bytes, bytes | tuple[int, int]] = {
            key: value for key, value in self._before.items() if not key.startswith(SINGLE)
        }
        for number in range(self._former + 1, total + 1):
            for verb, key, amount in transactions[number].changes:
                if verb == "set":
                    state[key] = number, amount
                elif verb == "delete":
                    state.pop(key, None)
                else:
                    state[key] = b"%d" % (int(state.get(key, b"0")) + amount)
        if total:
            state[TOTAL] = b"%d" % total
        return {key: digest(value_of(key, *made)) if isinstance(made, tuple) else made for key, made in state.items()}

    def _out_of_order(self, steps: list[_Step], transactions: Mapping[int, _Step], total: int, found: Found) -> str:
        """Say whether something of a writer is there though something before it is missing, or was never written."""
        missing: dict[str, _Step] = {}
        least = {key: int(number) for key, number in self._before.items() if key.startswith(SINGLE)}
        most = dict(least)
        for step in steps:
            if not step.is_single and transactions[step.number] is not step:
                continue  # undone
            is_there = step.number <= (_single(found, step.writer) if step.is_single else total)
            if step.is_single:
                most[SINGLE + step.writer.encode()] = step.number
            if not is_there:
                missing.setdefault(step.writer, step)
            elif step.writer in missing:
                return f"holds {step[1:4]} though {missing[step.writer][1:4]} before it is missing"
        singles = {key: int(number) for key, number in found.values.items() if key.startswith(SINGLE)}
        odd = [
            key
            for key in singles.keys() | least.keys()
            if not least.get(key, 0) <= singles.get(key, 0) <= most.get(key, 0)
        ]
        return f"holds single writes that no process made, or lacks what was there before: {odd}" if odd else ""


def _single(found: Found, writer: str) -> int:
    return int(found.values.get(SINGLE + writer.encode(), b"0"))
