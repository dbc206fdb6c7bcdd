"""The defaults of the port: a store of four methods, whose time runs by itself, keeps every promise."""

from collections.abc import Callable
from typing import TypeVar

from lmdbresults.store.base import (
    Checkable,
    Copyable,
    Durable,
    Interactive,
    Measurable,
    ReadTransaction,
    Store,
    Subscription,
    Sweepable,
    WriteTransaction,
)
from lmdbresults.testing import FakeClock, MemoryStore
from lmdbresults.testing.chords import Chords
from lmdbresults.testing.conformance import Lifecycle
from lmdbresults.testing.expiry import Expiry
from lmdbresults.testing.scanning import Ranges, Scans
from lmdbresults.testing.transactions import Transactions
from lmdbresults.testing.values import Counters, Values
from lmdbresults.testing.waiting import Waiting

Result = TypeVar("Result")


class RunningClock(FakeClock):
    """A clock that goes on a little whenever it is read, as if time passed by itself."""

    def __call__(self) -> float:
        self.now += 0.0001
        return self.now


class LeastStore(Store):
    """The four abstract methods, and an operation of an update that is always called again."""

    def __init__(self, clock: FakeClock) -> None:
        self._memory = MemoryStore(clock=clock)

    def view(self, operation: Callable[[ReadTransaction], Result]) -> Result:
        return self._memory.view(operation)

    def update(self, operation: Callable[[WriteTransaction], Result]) -> Result:
        class Again(Exception):
            pass

        def fail(txn: WriteTransaction) -> None:
            operation(txn)
            raise Again

        try:
            self._memory.update(fail)
        except Again:
            return self._memory.update(operation)
        raise AssertionError("not reached")

    def subscribe(self) -> Subscription:
        return self._memory.subscribe()

    def close(self) -> None:
        self._memory.close()


class TestLeastStore(Values, Counters, Expiry, Transactions, Waiting, Scans, Ranges, Chords, Lifecycle):
    has_fake_clock = False

    def pass_time(self, seconds: float) -> None:
        self.running.advance(seconds)

    def make_store(self, clock: FakeClock) -> Store:
        self.running = RunningClock()
        return LeastStore(self.running)


def test_a_store_has_the_capabilities_that_it_implements() -> None:
    capabilities = (Interactive, Sweepable, Durable, Checkable, Copyable, Measurable)
    least, memory = LeastStore(FakeClock()), MemoryStore()
    assert [each for each in capabilities if isinstance(least, each)] == []
    assert [each for each in capabilities if isinstance(memory, each)] == [Interactive, Sweepable, Measurable]
