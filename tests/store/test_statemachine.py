"""A store behaves like a dict, whatever is done to it in any order and by any process."""

import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from lmdbresults import open_store
from lmdbresults.errors import NotACounter
from lmdbresults.store import KEEP
from lmdbresults.testing import FakeClock, sample
from tests.support.peer import Operation, Peer, act, perform
from tests.support.processes import FORKS_WITH_THREADS, in_child

#: One sequence takes as long as fifty examples of other tests.
SEQUENCES = settings.default.max_examples // 2


class Repeated(bytes):
    """Many bytes with a short repr; pickled as plain bytes."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes of {self[:2]!r}>"

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (bytes(self),)


KEYS = [b"", b"a", b"ab", *map(Repeated, [b"b" * 501, b"b" * 502, b"ab" * 300, b"c" * 17000])]

keys = st.sampled_from(KEYS)
small_values = st.binary(max_size=30) | st.sampled_from(
    [b"0", b"7", b"-9223372036854775808", b"9223372036854775808", b"not a counter"]
)
sizes = st.sampled_from([2000, 16354, 16355, 16356, 16368, 16369, 40_000, 200_000])
values = small_values | st.builds(sample, sizes, st.integers(0, 3))
ttls = st.sampled_from([None, 0, math.inf, 0.125, 1.0, 10.0, 1000.0])
steps = st.sampled_from([1, -1, 5, 1 << 62, -(1 << 63)])
seconds = st.sampled_from([0.125, 1.0, 8.0, 20.0, 5000.0])
#: Which process acts, by which store. A fork costs more than all the others.
actors = st.sampled_from(["this store", "this store", "another store", "another process", "a forked child"])
operations = st.one_of(
    st.tuples(st.just("get"), keys),
    st.tuples(st.just("set"), keys, values, ttls),
    st.tuples(st.just("add"), keys, values, ttls),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("incr"), keys, steps, ttls | st.just(KEEP)),
    st.tuples(st.just("expire"), keys, ttls),
)


def fits(number: int) -> bool:
    return -(1 << 63) <= number < 1 << 63


class Record(NamedTuple):
    value: bytes
    deadline: float
    #: Whether it has ever expired: if the clock is then set back, it may have been swept, or be visible again.
    has_expired: bool = False


class Model:
    """What a store should be: a dict of values and deadlines."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.records: dict[bytes, Record] = {}

    def live(self) -> dict[bytes, bytes]:
        return {key: record.value for key, record in self.records.items() if record.deadline > self.clock()}

    def get(self, key: bytes) -> bytes | None:
        return self.live().get(key)

    def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def ttl(self, key: bytes) -> float | None:
        return self.records[key].deadline - self.clock() if key in self.live() else None

    def set(self, key: bytes, value: bytes, ttl: float | None) -> bool:
        self.records[key] = Record(value, self.clock() + ttl if ttl else math.inf)
        return True

    def add(self, key: bytes, value: bytes, ttl: float | None) -> bool:
        return key not in self.live() and self.set(key, value, ttl)

    def delete(self, key: bytes) -> bool:
        was_there = key in self.live()
        self.records.pop(key, None)
        return was_there

    def incr(self, key: bytes, by: int, ttl: object) -> int:
        value = self.live().get(key, b"0")
        if not re.fullmatch(rb"-?[0-9]+", value) or not fits(int(value)) or not fits(int(value) + by):
            raise NotACounter
        self.set(key, str(int(value) + by).encode(), (self.ttl(key) or None) if ttl is KEEP else ttl)
        return int(value) + by

    def expire(self, key: bytes, ttl: float | None) -> bool:
        return key in self.live() and self.set(key, self.records[key].value, ttl)


class StoreMachine(RuleBasedStateMachine):
    """Does the same with a store and with the model."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.model = Model(self.clock)
        self.folder = tempfile.TemporaryDirectory()
        os.mkdir(f"{self.folder.name}/real")
        os.symlink("real", f"{self.folder.name}/link")
        self.peer = peer
        self.open()

    def open(self) -> None:
        name = f"{self.folder.name}/real/results.lmdb"
        self.store = open_store(name, durability="none", clock=self.clock)
        self.other = open_store(name.replace("real", "link"), durability="none", clock=self.clock)
        self.peer.open(name)

    def act(self, actor: str, door: str, wanted: Sequence[Operation]) -> list[object]:
        if actor == "another process":
            return self.peer.act(self.clock(), door, wanted)
        if actor == "a forked child":
            return in_child(act, self.store, door, wanted)
        return act(self.store if actor == "this store" else self.other, door, wanted)

    def resolve_doubts(self) -> None:
        for key, value in self.model.live().items():
            if self.model.records[key].has_expired:
                found = self.store.get(key)
                assert found in (None, value)
                if found is None:
                    del self.model.records[key]
                else:
                    self.model.records[key] = self.model.records[key]._replace(has_expired=False)

    def both(self, actor: str, *wanted: Operation, door: str = "each") -> None:
        """Let an actor do it with the store, do it with the model, and expect the same results."""
        self.resolve_doubts()
        before = dict(self.model.records)
        expected = [perform(self.model, operation) for operation in wanted]
        assert self.act(actor, door, wanted) == expected
        if door == "abort":
            self.model.records = before

    @rule(actor=actors, key=keys, value=values, ttl=ttls)
    def put(self, actor: str, key: bytes, value: bytes, ttl: float | None) -> None:
        self.both(actor, ("set", key, value, ttl))

    @rule(actor=actors, key=keys)
    def get(self, actor: str, key: bytes) -> None:
        self.both(actor, ("get", key), ("ttl", key))

    @rule(actor=actors, key=keys, value=values, ttl=ttls)
    def add(self, actor: str, key: bytes, value: bytes, ttl: float | None) -> None:
        self.both(actor, ("add", key, value, ttl))

    @rule(actor=actors, key=keys)
    def delete(self, actor: str, key: bytes) -> None:
        self.both(actor, ("delete", key))

    @rule(actor=actors, key=keys, by=steps, ttl=ttls | st.just(KEEP))
    def incr(self, actor: str, key: bytes, by: int, ttl: object) -> None:
        self.both(actor, ("incr", key, by, ttl))

    @rule(actor=actors, key=keys, ttl=ttls)
    def expire(self, actor: str, key: bytes, ttl: float | None) -> None:
        self.both(actor, ("expire", key, ttl))

    @rule(actor=actors, door=st.sampled_from(["write", "update", "abort"]), wanted=st.lists(operations, max_size=6))
    def transact(self, actor: str, door: str, wanted: list[Operation]) -> None:
        self.both(actor, *wanted, door=door)

    @rule(by=seconds)
    def advance(self, by: float) -> None:
        self.clock.advance(by)
        for key in self.model.records.keys() - self.model.live().keys():
            self.model.records[key] = self.model.records[key]._replace(has_expired=True)

    @rule(by=seconds)
    def set_clock_back(self, by: float) -> None:
        self.clock.set_back(by)

    @rule(actor=actors, limit=st.integers(1, 3))
    def sweep_some(self, actor: str, limit: int) -> None:
        [swept] = self.act(actor, "each", [("sweep", limit)])
        assert 0 <= swept <= limit

    @rule(actor=actors)
    def sweep_all(self, actor: str) -> None:
        self.resolve_doubts()
        self.act(actor, "each", [("sweep",)])
        live = self.model.live()
        self.model.records = {key: self.model.records[key] for key in live}
        stats = self.store.stats()
        assert (stats.records, stats.chunks) == (len(live), sum(map(self.chunks_of, live)))

    def chunks_of(self, key: bytes) -> int:
        """Return how many chunks the value of a key should take."""
        value = self.model.records[key].value
        space = max(16355 - (4 + len(key) if len(key) > 501 else 0), 1024)
        return -(-len(value) // 16368) if len(value) > space else 0

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.other.close()
        self.open()

    @rule(actor=actors)
    def read_everything(self, actor: str) -> None:
        self.both(actor, ("mget", KEYS))

    @invariant()
    def nothing_is_amiss(self) -> None:
        assert self.store.check() == []

    @invariant()
    def everything_is_there(self) -> None:
        self.resolve_doubts()
        live = self.model.live()
        assert dict(self.store.scan()) == live
        assert list(self.other.range()) == sorted(pair for pair in live.items() if len(pair[0]) <= 501)
        assert dict(self.store.scan(head=7)) == {key: value[:7] for key, value in live.items()}
        assert dict(self.other.scan(b"a")) == {key: live[key] for key in live if key.startswith(b"a")}

    def teardown(self) -> None:
        self.store.close()
        self.other.close()
        self.folder.cleanup()


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.mark.timeout(600)  # shrinking a failure takes longer than finding none
@pytest.mark.filterwarnings(FORKS_WITH_THREADS)
def test_a_store_behaves_like_a_dict_whatever_happens(peer: Peer) -> None:
    run_state_machine_as_test(lambda: StoreMachine(peer), settings=settings(max_examples=SEQUENCES))
