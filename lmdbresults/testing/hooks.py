"""What the tests ask of the store under test, and of the time."""

from collections.abc import Iterator
from typing import Any

import pytest

from lmdbresults.errors import StoreClosed
from lmdbresults.store.base import Checkable, Interactive, Store, Sweepable
from lmdbresults.testing.clock import FakeClock

__all__ = ["Hooks", "interactive", "sweepable"]


class Hooks:
    """Override `make_store`, or the fixture ``store``. Every test ends with `Checkable.check`, if the store has it.

    A store whose engine has a clock of its own overrides `pass_time` to sleep, sets `has_fake_clock` to False, and
    `second` to something short.
    """

    #: How many seconds stand for a second in the tests.
    second: float = 1.0
    #: Whether the store tells the time by the clock that it was made with.
    has_fake_clock: bool = True
    #: Whether the store announces the topic `EVERY_COMMIT`.
    announces_commits: bool = True

    def make_store(self, clock: FakeClock) -> Store:
        """Return a new empty store that tells the time by ``clock``."""
        raise NotImplementedError(f"{type(self).__name__} must override make_store(), or the fixture store.")

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the store."""
        self._clock.advance(seconds)

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The clock of the store under test."""
        self._clock = FakeClock()
        return self._clock

    @pytest.fixture
    def store(self, clock: FakeClock) -> Iterator[Store]:
        """The store under test."""
        with self.make_store(clock) as store:
            yield store

    @pytest.fixture(autouse=True)
    def is_sound_afterwards(self, store: Store) -> Iterator[None]:
        """Check the store after each test, unless the test has closed it."""
        yield
        if isinstance(store, Checkable):
            try:
                problems = store.check()
            except StoreClosed:
                return
            assert problems == []

    def needs_fake_clock(self) -> None:
        """Skip a test that is too long to sleep, or that sets the clock back."""
        if not self.has_fake_clock:
            pytest.skip("the clock of this store cannot be set")

    def needs_queues(self, store: Store) -> None:
        """Skip a test of queues, or of waking one of many consumers, if the store has no queues."""
        if not hasattr(store, "queues"):
            pytest.skip(f"a {type(store).__name__} has no queues")

    def lifetimes(self, store: Store, chord: bytes) -> list[float | None]:
        """Return what `Store.ttl` returns for each record of a chord but its head.

        A store that keeps chords in a way of its own overrides this.
        """
        return [store.ttl(key) for key, _ in store.scan() if key != chord]

    def about(self, seconds: float) -> Any:
        """Return what equals so many seconds, or somewhat less if time passes by itself."""
        return pytest.approx(seconds, rel=1e-6, abs=0.0 if self.has_fake_clock else 0.5 * self.second)


def interactive(store: Store) -> Interactive:
    """Return a store that has ``with`` blocks, or skip the test."""
    if not isinstance(store, Interactive):
        pytest.skip(f"a {type(store).__name__} has no read() and write()")
    return store


def sweepable(store: Store) -> Sweepable:
    """Return a store that sweeps, or skip the test."""
    if not isinstance(store, Sweepable):
        pytest.skip(f"a {type(store).__name__} has no sweep()")
    return store
