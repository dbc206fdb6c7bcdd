"""Without free descriptors an operation works, or raises an error that says so; nothing is taken for damage."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.errors import StoreError
from lmdbresults.process.fork_gate import gate
from tests.support.boots import in_boot
from tests.support.processes import FORKS_WITH_THREADS, in_child

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """Let so many files be opened, and no more."""
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)


def subscribe(store: LMDBStore) -> None:
    subscription = store.subscribe()
    subscription.add([b"key"])
    subscription.receive(0)
    subscription.close()


def reopen(store: LMDBStore) -> None:
    gate.exclusive(store._environment.file.close)
    store.get(b"key")


OPERATIONS: dict[str, Callable[[LMDBStore], object]] = {
    "set": lambda store: store.set(b"key", bytes(100_000)),
    "flush": lambda store: (store.set(b"key", b"value"), store.flush()),
    "sweep": lambda store: store.sweep(),
    "stats": lambda store: store.stats(),
    "notify": lambda store: store.notify(b"topic"),
    "subscribe": subscribe,
    "reopen": reopen,
    "check": lambda store: store.check(deep=True),
    "repair": lambda store: store.repair(),
    "backup": lambda store: store.backup(store.options.path + "-copy", overwrite=True),
}


def run_with(path: str, name: str, left: int) -> str | None:
    """Run an operation with a few descriptors, then without a limit; return the error of the first time."""
    outcome = None
    with open_store(path) as store:
        store.set(b"key", b"value")
        try:
            with few_descriptors(left):
                OPERATIONS[name](store)
        except StoreError as error:
            outcome = str(error)
        OPERATIONS[name](store)
        assert store.get(b"key") is not None
        assert store.check() == []
    return outcome


@pytest.mark.parametrize("left", range(4))
@pytest.mark.parametrize("name", OPERATIONS)
def test_error_says_that_there_are_no_descriptors(path: str, name: str, left: int) -> None:
    outcome = in_child(run_with, path, name, left)
    assert outcome is None or "ulimit -n" in outcome
    assert outcome is None or "damage" not in outcome


def refuse(path: str) -> str:
    with few_descriptors(6), pytest.raises(StoreError) as caught:  # enough to find that it must be verified
        open_store(path, durability="none", on_damage="fresh")
    return str(caught.value)


def test_file_that_cannot_be_verified_for_lack_of_descriptors_is_not_replaced(tmp_path: Path, path: str) -> None:
    in_boot("first", lambda: open_store(path, durability="none").set(b"key", b"value") and None)
    assert "subprocess" in in_boot("second", refuse, path)
    assert [name for name in os.listdir(tmp_path) if "damaged" in name] == []
    assert in_boot("second", lambda: open_store(path, durability="none").get(b"key")) == b"value"
