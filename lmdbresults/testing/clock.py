"""A clock for tests, so that records expire without sleeping."""

__all__ = ["FakeClock"]


class FakeClock:
    """A clock that stands still until it is moved. Give it to a store as its ``clock``."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def set_back(self, seconds: float) -> None:
        """Go back, as a correction of the system clock does."""
        self.now -= seconds
