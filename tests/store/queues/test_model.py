"""Queues behave like lists in memory, whatever is done to them in any order and by any process."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from lmdbresults import open_store
from lmdbresults.process.identity import Owner
from lmdbresults.store.base import Store
from lmdbresults.store.queues import ACKNOWLEDGE, REJECT, REQUEUE, REQUEUE_UNCOUNTED, Arguments, Message, QueueState
from lmdbresults.testing import FakeClock, MemoryStore
from lmdbresults.testing.queue_owners import DEAD, as_process

#: One sequence takes as long as many examples of other tests.
SEQUENCES = settings.default.max_examples // 2

QUEUES = ("a", "b")
SIZES = st.sampled_from([1, 20, 8192, 8193, 40_000])

queues = st.sampled_from(QUEUES)
ttls = st.sampled_from([None, None, 1.0, 20.0])
delays = st.sampled_from([None, None, None, -1.0, 5.0, 30.0])
limits = st.integers(1, 5)
uniques = st.sampled_from([None, None, "this", "that"])
arguments = st.tuples(
    st.sampled_from([None, None, 3]), st.sampled_from([None, 1]), st.sampled_from([None, *QUEUES])
).map(lambda drawn: Arguments(max_length=drawn[0], max_deliveries=drawn[1], dead_letter_key=drawn[2]))
actions = st.sampled_from([ACKNOWLEDGE, ACKNOWLEDGE, REJECT, REQUEUE, REQUEUE_UNCOUNTED])


@dataclass
class Expected:
    """A message as it should be."""

    body: bytes
    priority: int
    expires: float
    due: float
    sequence: int
    deliveries: int = 0
    redelivered: bool = False
    reasons: list[tuple[str, str]] = field(default_factory=list)
    """Queue and reason of each death, the first one first."""
    unique: str | None = None


@dataclass
class Queue:
    """A queue as it should be."""

    arguments: Arguments = field(default_factory=Arguments)
    ready: list[Expected] = field(default_factory=list)
    delayed: list[Expected] = field(default_factory=list)

    def sort(self) -> None:
        self.ready.sort(key=lambda message: (-message.priority, message.sequence))
        self.delayed.sort(key=lambda message: (message.due, -message.priority, message.sequence))


class Model:
    """What the queues should be: lists."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.numbers = count()
        self.now = 0.0

    def append(self, name: str, message: Expected) -> None:
        queue = self.queues[name]
        while queue.ready and queue.arguments.max_length is not None:
            if len(queue.ready) < queue.arguments.max_length:
                break
            self.bury(name, queue.ready.pop(0), "maxlen")
        message.sequence = next(self.numbers)
        (queue.delayed if message.due > self.now else queue.ready).append(message)
        queue.sort()

    def bury(self, name: str, message: Expected, reason: str) -> None:
        target = self.queues[name].arguments.dead_letter_key
        if target is None or target not in self.queues:
            return
        message.reasons.append((name, reason))
        since = list(takewhile(lambda death: death[1] != "rejected", reversed(message.reasons)))
        if target in dict(since):
            return
        message.expires, message.deliveries, message.redelivered, message.unique = math.inf, 0, False, None
        self.append(target, message)

    def give_back(self, name: str, message: Expected, counted: bool) -> None:
        queue = self.queues[name]
        message.deliveries += counted
        message.redelivered = True
        if queue.arguments.max_deliveries is not None and message.deliveries > queue.arguments.max_deliveries:
            self.bury(name, message, "delivery_limit")
        else:
            queue.ready.append(message)
            queue.sort()

    def prepare(self, name: str) -> None:
        queue = self.queues[name]
        queue.ready += [message for message in queue.delayed if message.due <= self.now]
        queue.delayed = [message for message in queue.delayed if message.due > self.now]
        queue.sort()

    def take(self, name: str, limit: int) -> list[Expected]:
        self.prepare(name)
        found: list[Expected] = []
        ready = self.queues[name].ready
        while ready and len(found) < limit:
            message = ready.pop(0)
            if message.expires <= self.now:
                self.bury(name, message, "expired")
            else:
                found.append(message)
        return found


class Machine(RuleBasedStateMachine):
    """Does the same to a store and to the model."""

    def make_store(self, clock: FakeClock) -> Store:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.model, self.opened = FakeClock(), Model(), ExitStack()
        self.model.now = self.clock()
        self.store = self.opened.enter_context(self.make_store(self.clock))
        self.patch = self.opened.enter_context(pytest.MonkeyPatch.context())
        #: Deliveries by tag: the queue, what is expected of it, whether its owner has died.
        self.held: dict[str, tuple[str, Expected, bool]] = {}
        self.settled: list[str] = []

    def teardown(self) -> None:
        for name in self.model.queues:
            self.store.queues.purge(name)
        for tag in self.held:
            self.store.queues.acknowledge(tag)
        self.store.queues.recover()
        kinds = {key.rsplit(b"-", 1)[0] if not key.startswith(b"queue-owner") else b"owner" for key in self.keys()}
        assert kinds <= {b"queue-head", b"queue", b"owner"}
        self.opened.close()

    def keys(self) -> Iterator[bytes]:
        return (key for key, _ in self.store.scan())

    @rule(name=queues, arguments=st.none() | arguments)
    def declare(self, name: str, arguments: Arguments | None) -> None:
        self.store.queues.declare(name, arguments)
        queue = self.model.queues.setdefault(name, Queue())
        queue.arguments = queue.arguments if arguments is None else arguments

    @rule(
        name=queues,
        sizes=st.lists(SIZES, min_size=1, max_size=3),
        priority=st.integers(0, 9),
        ttl=ttls,
        delay=delays,
        unique=uniques,
    )
    def publish(
        self, name: str, sizes: list[int], priority: int, ttl: float | None, delay: float | None, unique: str | None
    ) -> None:
        now = self.clock()
        due = now if delay is None else now + delay
        bodies = [b"%d" % number * size for number, size in enumerate(sizes)]
        about = ("", priority, ttl, None if delay is None else due, unique)
        messages = [Message(body, name, *about) for body in bodies]
        reached = self.store.queues.publish(messages)
        assert reached == [int(name in self.model.queues)] * len(bodies)
        for body in bodies if name in self.model.queues else ():
            expires = math.inf if ttl is None else max(due, now) + ttl
            message = Expected(body, priority, expires, due, 0, unique=unique if ttl is None else None)
            if message.unique is None or message.unique not in self.present(name):
                self.model.append(name, message)

    def present(self, name: str) -> set[str | None]:
        """Return what is unique among the messages that wait in a queue or were taken from it."""
        queue = self.model.queues[name]
        taken = [message for where, message, _ in self.held.values() if where == name]
        return {message.unique for message in (*queue.ready, *queue.delayed, *taken)}

    @rule(name=queues, limit=limits, dies=st.booleans())
    def take(self, name: str, limit: int, dies: bool) -> None:
        if name not in self.model.queues:
            assert self.store.queues.take([name], limit).deliveries == []
            return
        with as_process(self.patch, DEAD if dies else self.store.owner()):
            found = self.store.queues.take([name], limit)
        expected = self.model.take(name, limit)
        assert [(each.body, each.priority, each.deliveries, each.redelivered) for each in found.deliveries] == [
            (each.body, each.priority, each.deliveries, each.redelivered) for each in expected
        ]
        assert [[(death.queue, death.reason) for death in each.deaths] for each in found.deliveries] == [
            list(dict.fromkeys(reversed(each.reasons))) for each in expected
        ]
        assert found.next_due == min((each.due for each in self.model.queues[name].delayed), default=None)
        for delivery, message in zip(found.deliveries, expected, strict=True):
            self.held[delivery.tag] = (name, message, dies)

    @rule(data=st.data(), action=actions)
    def settle(self, data: Any, action: Any) -> None:
        if not self.held:
            return
        tag = data.draw(st.sampled_from(sorted(self.held)))
        name, message, _ = self.held.pop(tag)
        self.settled.append(tag)
        self.store.queues.turn([(action, tag)], [])
        if action == REJECT:
            self.model.bury(name, message, "rejected")
        elif action != ACKNOWLEDGE:
            self.model.give_back(name, message, action == REQUEUE)

    @rule(data=st.data(), action=actions)
    def settle_again(self, data: Any, action: Any) -> None:
        if self.settled:
            tag = data.draw(st.sampled_from(self.settled))
            assert self.store.queues.is_held(tag) is False
            self.store.queues.turn([(action, tag)], [])

    @rule()
    def recover(self) -> None:
        lost = [(tag, held) for tag, held in self.held.items() if held[2]]
        assert self.store.queues.recover().messages == len(lost)
        for tag, (name, message, _) in lost:
            del self.held[tag]
            self.settled.append(tag)
            self.model.give_back(name, message, True)

    @rule(name=queues)
    def purge(self, name: str) -> None:
        queue = self.model.queues.get(name, Queue())
        assert self.store.queues.purge(name) == len(queue.ready) + len(queue.delayed)
        queue.ready, queue.delayed = [], []

    @rule(name=queues, data=st.data())
    def remove(self, name: str, data: Any) -> None:
        seen = self.store.queues.peek(name, None)
        queue = self.model.queues.get(name, Queue())
        assert [each.body for each in seen] == [each.body for each in queue.ready + queue.delayed]
        if seen:
            number = data.draw(st.integers(0, len(seen) - 1))
            assert self.store.queues.remove(name, seen[number].tag) is True
            ready = number < len(queue.ready)
            del (queue.ready if ready else queue.delayed)[number if ready else number - len(queue.ready)]

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model.now = self.clock()

    @invariant()
    def counts_are_right(self) -> None:
        for name, queue in self.model.queues.items():
            size = sum(len(message.body) for message in queue.ready)
            assert self.store.queues.state(name) == QueueState(len(queue.ready), size, len(queue.delayed))


class MemoryMachine(Machine):
    def make_store(self, clock: FakeClock) -> Store:
        return MemoryStore(clock=clock)


class LMDBMachine(Machine):
    def make_store(self, clock: FakeClock) -> Store:
        folder = self.opened.enter_context(tempfile.TemporaryDirectory())
        return open_store(f"{folder}/queues.lmdb", durability="none", clock=clock)


@pytest.mark.parametrize("machine", [MemoryMachine, LMDBMachine])
def test_queues_behave_like_lists(machine: type[Machine]):
    run_state_machine_as_test(machine, settings=settings(max_examples=SEQUENCES, stateful_step_count=40))


def test_the_owner_of_a_test_is_dead():
    assert isinstance(DEAD, Owner)
    assert DEAD.is_alive() is False
