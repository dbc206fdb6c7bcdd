"""No error of LMDB's reaches a caller: whichever call raises whichever error, it is retried, or becomes one of ours."""

import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.errors import StoreError
from lmdbresults.options import Options
from lmdbresults.store.lmdb import store as store_module
from lmdbresults.store.lmdb.maintenance.rewrite import rewrite
from lmdbresults.store.lmdb.maintenance.salvage import salvage
from lmdbresults.testing import FakeClock
from tests.support.faulty_lmdb import ERRORS, Faults
from tests.support.processes import FORKS_WITH_THREADS, in_child, in_thread

#: What an error must say besides what has happened: what to do.
CURE = re.compile(
    r"\b(Raise|raise|Free|Split|Give|Close|close|Restore|restore|Run|run|need|Use|use|End|Delete|Choose)\b"
)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    faults = Faults()
    monkeypatch.setattr(lmdb, "open", faults.open(lmdb.open))
    monkeypatch.setattr(store_module, "_READERS_PATIENCE", 0.0)
    return faults


@pytest.fixture(params=["checkpoint", "commit", "none"])
def store(request: pytest.FixtureRequest, path: str, clock: FakeClock, faults: Faults) -> Iterator[LMDBStore]:
    with open_store(path, durability=request.param, clock=clock, checkpoint_interval=3600) as store:
        for number in range(20):
            store.set(b"expired %d" % number, b"value", 10)
        clock.now += 20
        store.set(b"key", b"value")
        store.set(b"large", bytes(100_000))
        yield store
        faults.reset()


def read_in_block(store: LMDBStore) -> None:
    with store.read() as txn:
        txn.get(b"key")
        txn.mget([b"large"])
        list(txn.scan())
        list(txn.range())
        txn.ttl(b"key")


def write_in_block(store: LMDBStore) -> None:
    with store.write() as txn:
        txn.set(b"key", b"other")
        txn.set(b"large", bytes(70_000))
        txn.delete(b"none")
        txn.incr(b"count")
        txn.expire(b"key", 1000)


def subscribe(store: LMDBStore) -> None:
    subscription = store.subscribe()
    try:
        subscription.add([b"key", b"other"])
        subscription.receive(0)
    finally:
        subscription.close()


def use_chord(store: LMDBStore) -> None:
    store.chords.open(b"chord", None)
    store.chords.add_more(b"chord", "id", 2, None)
    store.chords.set_size(b"chord", 2, None, b"claims")
    store.chords.orphans(b"claims")
    store.chords.take_over(b"chord", b"claims")
    store.chords.has_ended(b"chord")


OPERATIONS: dict[str, Callable[[LMDBStore], object]] = {
    "get": lambda store: store.get(b"key"),
    "get large": lambda store: store.get(b"large"),
    "mget": lambda store: store.mget([b"key", b"large", b"none"]),
    "ttl": lambda store: store.ttl(b"key"),
    "scan": lambda store: list(store.scan()),
    "range": lambda store: list(store.range(head=5)),
    "view": lambda store: store.view(lambda txn: txn.get(b"key")),
    "moment": lambda store: store.moment(),
    "set": lambda store: store.set(b"other", b"value"),
    "set large": lambda store: store.set(b"large", bytes(80_000)),
    "add": lambda store: store.add(b"key", b"other"),
    "delete": lambda store: store.delete(b"large"),
    "incr": lambda store: store.incr(b"count"),
    "expire": lambda store: store.expire(b"key", 1000),
    "update": lambda store: store.update(lambda txn: (txn.get(b"key"), txn.set(b"key", b"other"))),
    "notify": lambda store: store.notify(b"topic"),
    "read block": read_in_block,
    "write block": write_in_block,
    "subscribe": subscribe,
    "chord": use_chord,
    "sweep": lambda store: store.sweep(),
    "flush": lambda store: (store.set(b"other", b"value"), store.flush()),
    "check": lambda store: store.check(),
    "stats": lambda store: store.stats(),
}


def outcome(work: Callable[[], object]) -> object:
    """What comes of some work: None, or one of our errors. Any other exception is raised."""
    failure = None
    try:
        work()
    except StoreError as error:
        failure = error
    assert failure is None or CURE.search(str(failure)), f"{type(failure).__name__} names no cure: {failure}"
    return failure


def each_failure(faults: Faults, work: Callable[[], object]) -> Iterator[object]:
    """Do some work with each error at each of its calls to LMDB, once, and then at all calls from there on."""
    for error in ERRORS:
        for often in (0, 10**9):
            call = 1
            while True:
                faults.fail(error, call, call + often)
                yield outcome(work)
                if not faults.has_failed():
                    break
                call += 1
                if call > 3:  # the first calls with each error, later ones with one of them
                    break
    call = 1
    while call == 1 or faults.has_failed():
        faults.fail(ERRORS[call % len(ERRORS)], call)
        yield outcome(work)
        call += 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_raises_no_error_of_lmdb(store: LMDBStore, faults: Faults, name: str) -> None:
    failures = 0
    for failure in each_failure(faults, lambda: OPERATIONS[name](store)):
        failures += failure is not None
        faults.reset()
        store.set(b"after", b"value")
        assert store.get(b"after") == b"value"
    assert failures >= len(ERRORS) - 3
    in_thread(store.set, b"thread", b"value")
    assert store.check() == []


@pytest.mark.parametrize("durability", ["checkpoint", "none"])
@pytest.mark.parametrize("exists", [True, False])
def test_opening_and_closing_raise_no_error_of_lmdb(
    tmp_path: Path, faults: Faults, durability: str, exists: bool
) -> None:
    paths = (tmp_path / (f"{number * (not exists)}.lmdb") for number in itertools.count())

    def use() -> None:
        store = open_store(next(paths), durability=durability, checkpoint_interval=3600)
        try:
            store.set(b"key", b"value")
        finally:
            store.close()

    use()
    failures = 0
    for failure in each_failure(faults, use):
        failures += failure is not None
        faults.reset()
        use()
    assert failures >= len(ERRORS) - 3


@pytest.mark.filterwarnings(FORKS_WITH_THREADS)
def test_fork_raises_no_error_of_lmdb(store: LMDBStore, faults: Faults) -> None:
    for _ in each_failure(faults, lambda: in_child(int)):
        faults.reset()
        store.set(b"after", b"value")
        assert in_child(store.get, b"after") == b"value"


def test_rewrite_raises_no_error_of_lmdb(path: str, faults: Faults) -> None:
    with open_store(path, durability="none") as store:
        store.set(b"key", b"value")
    os.unlink(path + "-checkpoint")
    failures = list(each_failure(faults, lambda: rewrite(Options(path=path))))
    assert None in failures
    faults.reset()
    with open_store(path, durability="none") as store:
        assert store.get(b"key") == b"value"


def test_salvage_raises_no_error_of_lmdb(path: str, tmp_path: Path, faults: Faults) -> None:
    targets = (str(tmp_path / f"salvaged {number}.lmdb") for number in itertools.count())
    with open_store(path, durability="none") as store:
        store.set(b"key", b"value")
        store.set(b"large", bytes(100_000))
    failures = list(each_failure(faults, lambda: salvage(path, next(targets))))
    assert None in failures
    assert sum(failure is not None for failure in failures) >= len(ERRORS)
