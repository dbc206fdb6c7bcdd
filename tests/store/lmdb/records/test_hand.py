"""Without a call of sweep, expired records stay a small share, wherever they lie and whichever processes write."""

import math
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.store import WriteTransaction
from lmdbresults.store.lmdb.records.hand import HAND_KEY, Hand, hand_of
from lmdbresults.store.lmdb.records.layout import CHUNK_BYTES
from lmdbresults.store.lmdb.records.sweeper import Swept
from lmdbresults.testing import FakeClock, sample

TTL = 1000.0


def uuids() -> Iterator[bytes]:
    chance = random.Random(1)
    while True:
        yield b"celery-task-meta-%s" % str(uuid.UUID(int=chance.getrandbits(128))).encode()


def sequential() -> Iterator[bytes]:
    for number in range(1 << 40):
        yield b"celery-task-meta-%012d" % number


def descending() -> Iterator[bytes]:
    for number in range(1 << 40):
        yield b"celery-task-meta-%012d" % ((1 << 39) - number)


def two_prefixes() -> Iterator[bytes]:
    """Half of the keys are messages of a queue, in order, the others results."""
    for number, key in enumerate(uuids()):
        yield b"queue-%012d" % number if number % 2 else key


def long_keys() -> Iterator[bytes]:
    for key in uuids():
        yield key * 20


KEYS: list[Callable[[], Iterator[bytes]]] = [uuids, sequential, descending, two_prefixes, long_keys]


def uniform(number: int) -> float:
    return TTL


def mixed(number: int) -> float:
    """A third each lives for a tenth of the time, for all of it, and for three times as long."""
    return (TTL / 10, TTL, 3 * TTL)[number % 3]


class Load:
    """A steady load: time passes with each record that is stored, so that about ``count`` records live in the end."""

    def __init__(self, path: Path, clock: FakeClock, keys: Iterator[bytes], count: int) -> None:
        self.path = path
        self.clock = clock
        self.store = open_store(path, durability="none", clock=clock)
        self.count = count
        self._keys = keys
        #: When each key expires, and bytes of its value.
        self._deadlines: dict[bytes, tuple[float, int]] = {}

    def store_some(
        self,
        writes: int,
        ttl_of: Callable[[int], float] = uniform,
        size_of: Callable[[int], int] = lambda number: 20,
        states: int = 1,
        stores: Sequence[LMDBStore] = (),
    ) -> None:
        """Store so many records, each in so many states one after the other, by one of some stores."""
        for number in range(writes):
            store = stores[number % len(stores)] if stores else self.store
            key, ttl, size = next(self._keys), ttl_of(number), size_of(number)
            for state in range(states):
                store.set(key, sample(size, state), ttl)
                self.clock.advance(TTL / self.count / states)
            self._deadlines[key] = (self.clock() + ttl, size)

    def expired_share(self) -> float:
        """Return how many expired records there are for each live one, or bytes if that is more."""
        live = [size for deadline, size in self._deadlines.values() if deadline > self.clock()]
        stats = self.store.stats()
        return max(stats.records / len(live), stats.chunks * CHUNK_BYTES / sum(live)) - 1

    def worst_share(self, lifetimes: float, **options: Any) -> float:
        """Store for some lifetimes; return the largest share on the way."""
        shares = []
        for _ in range(round(lifetimes * 20)):
            self.store_some(self.count // 20, **options)
            shares.append(self.expired_share())
        return max(shares)


@pytest.fixture
def load(path: str, clock: FakeClock) -> Iterator[Callable[..., Load]]:
    loads: list[Load] = []

    def start(keys: Callable[[], Iterator[bytes]], count: int) -> Load:
        loads.append(Load(Path(path), clock, keys(), count))
        return loads[-1]

    yield start
    for load in loads:
        assert load.store.check() == []
        load.store.close()


# -- the share of expired records --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl_of", [uniform, mixed])
@pytest.mark.parametrize("keys", KEYS)
def test_at_most_a_quarter_has_expired_wherever_records_lie_and_however_long_they_live(
    load: Callable[..., Load], keys: Callable[[], Iterator[bytes]], ttl_of: Callable[[int], float]
):
    assert load(keys, 1000).worst_share(4, ttl_of=ttl_of) < 0.25


@pytest.mark.parametrize("keys", [uuids, sequential])
def test_at_most_a_quarter_has_expired_among_many_records(
    load: Callable[..., Load], keys: Callable[[], Iterator[bytes]]
):
    assert load(keys, 30_000).worst_share(2.5) < 0.25


@pytest.mark.parametrize("states", [2, 10], ids=["STARTED then SUCCESS", "progress"])
def test_at_most_a_quarter_has_expired_where_records_are_overwritten(load: Callable[..., Load], states: int):
    assert load(uuids, 1000).worst_share(3, states=states) < 0.25


def test_at_most_a_quarter_of_the_bytes_has_expired_where_some_values_are_large(load: Callable[..., Load]):
    def size_of(number: int) -> int:
        return 20 if number % 10 else 400_000

    assert load(uuids, 300).worst_share(4, size_of=size_of) < 0.3  # 30 large values: one is three percent


def test_at_most_a_quarter_has_expired_where_several_processes_write(load: Callable[..., Load]):
    written = load(uuids, 2000)
    others = [open_store(written.path, durability="none", clock=written.clock) for _ in range(5)]
    assert written.worst_share(3, stores=others) < 0.25
    for other in others:
        other.close()


def test_at_most_a_quarter_has_expired_where_each_process_writes_a_few_records_and_exits(load: Callable[..., Load]):
    written = load(uuids, 1000)
    shares = []
    for number in range(600):
        with open_store(written.path, durability="none", clock=written.clock) as brief:
            written.store_some(5, stores=[brief])
        if number % 10 == 0:
            shares.append(written.expired_share())
    assert max(shares) < 0.25


# -- rest and haste ----------------------------------------------------------------------------------------------------


def hand(store: LMDBStore) -> Hand:
    return store._environment.read(hand_of)


def test_the_hand_rests_until_the_first_record_can_be_due(store: LMDBStore, clock: FakeClock):
    store.set(b"first", b"", TTL)
    for number in range(200):
        store.set(b"%d" % number, b"", TTL + 1)
    assert hand(store) == Hand(clock() + TTL, b"")
    clock.advance(TTL)
    for number in range(100):
        store.set(b"more %d" % number, b"")
    assert hand(store) == Hand(clock() + 1, b"")
    assert store.stats().records == 300


def test_the_hand_never_moves_where_no_record_can_expire(store: LMDBStore):
    for number in range(200):
        store.set(b"%d" % number, b"")
    assert hand(store) == Hand(math.inf, b"")


@pytest.mark.parametrize("how", ["set", "add", "incr", "expire", "update", "write"])
def test_a_short_lived_record_of_another_process_ends_the_rest(store: LMDBStore, clock: FakeClock, how: str):
    for number in range(50):
        store.set(b"%d" % number, b"", TTL)
    with open_store(store.options.path, durability="none", clock=clock) as other:
        if how in ("set", "add"):
            getattr(other, how)(b"brief", b"", 1.0)
        elif how == "incr":
            other.incr(b"brief", ttl=1.0)
        elif how == "expire":
            other.expire(b"7", 1.0)
        elif how == "update":
            other.update(lambda txn: txn.set(b"brief", b"", 1.0))
        else:
            with other.write() as txn:
                txn.set(b"brief", b"", 1.0)
    before = store.stats().records
    assert hand(store).bound == clock() + 1.0
    clock.advance(1.0)
    for number in range(40):
        store.set(b"more %d" % number, b"")
    assert store.stats().records == before + 40 - 1


#: Transactions that write nothing: LMDB gives the number of each to the next one.
WITHOUT_EFFECT: dict[str, Callable[[LMDBStore], object]] = {
    "delete": lambda store: store.delete(b"missing"),
    "add": lambda store: store.add(b"7", b""),
    "expire": lambda store: store.update(lambda txn: txn.expire(b"missing", None)),
    "read": lambda store: store.update(lambda txn: txn.get(b"7")),
}


@pytest.mark.parametrize("how", WITHOUT_EFFECT)
def test_a_transaction_without_effect_hides_no_commit_of_another_process(
    store: LMDBStore, clock: FakeClock, how: str
) -> None:
    for number in range(50):
        store.set(b"%d" % number, b"", TTL)
    with open_store(store.options.path, durability="none", clock=clock) as other:
        WITHOUT_EFFECT[how](store)
        other.set(b"brief", b"", 1.0)
        store.set(b"more", b"", TTL / 2)
    assert hand(store).bound == clock() + 1.0


def test_a_bound_that_was_lowered_in_an_aborted_transaction_is_lowered_again(store: LMDBStore, clock: FakeClock):
    def fail(txn: WriteTransaction) -> None:
        txn.set(b"aborted", b"", 1.0)
        raise KeyError

    with open_store(store.options.path, durability="none", clock=clock) as other:
        for second in (store, other):
            store.set(b"key", b"", TTL)
            with pytest.raises(KeyError):
                store.update(fail)
            second.set(b"unrelated", b"")
            store.set(b"brief", b"", 2.0)
            assert hand(store).bound <= clock() + 2.0
            clock.advance(2.0)
            assert store.sweep() == 1


def test_a_burst_of_short_lived_records_is_reclaimed_in_small_steps(load: Callable[..., Load]):
    written = load(uuids, 20_000)
    written.store_some(20_000, ttl_of=lambda number: 100 * TTL)
    written.store.update(lambda txn: [txn.set(b"brief %d" % number, b"", 1.0) for number in range(5000)])
    written.clock.advance(1.0)
    records, most = [written.store.stats().records], 0
    while records[-1] > 20_000 + len(records):
        written.store.set(b"after %d" % len(records), b"")
        records.append(written.store.stats().records)
        most = max(most, records[-2] - records[-1])
    assert most <= 96 + 12
    assert len(records) < 25_000 / 5 + 200


def test_a_damaged_hand_begins_a_pass(path: str, clock: FakeClock):
    with open_store(path, durability="none", clock=clock) as store:
        for number in range(100):
            store.set(b"%d" % number, b"", 1.0)
    with lmdb.open(path, subdir=False) as environment, environment.begin(write=True) as txn:
        txn.put(HAND_KEY, b"?" + txn.get(HAND_KEY)[1:])
    clock.advance(1.0)
    with open_store(path, durability="none", clock=clock) as store:
        assert store.check() == []
        assert store.sweep() == 100


def test_a_sweep_where_nothing_is_due_looks_at_nothing(store: LMDBStore):
    for number in range(100):
        store.set(b"%d" % number, b"", 1.0)
    store.sweep()
    assert store._sweeper().run() == Swept(0, 0, True)


def test_a_sweep_ends_beside_another_one(store: LMDBStore, clock: FakeClock):
    """Both move the same hand, and each ends once every record was looked at by either."""
    with open_store(store.options.path, durability="none", clock=clock) as other:
        store.update(lambda txn: [txn.set(b"%d" % number, b"", 1.0) for number in range(1000)])
        clock.advance(1.0)
        assert [store.sweep(limit=300), other.sweep(limit=300), store.sweep(), other.sweep()] == [300, 300, 400, 0]
