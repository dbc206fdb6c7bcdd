"""What a copy asks of the two sides between which it carries results."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from lmdbresults.copying.items import Item, OpenChord

__all__ = ["Merged", "Source", "Target", "batched"]

Element = TypeVar("Element")


class Merged(NamedTuple):
    """What became of a batch on the other side."""

    written: int = 0
    same: int = 0
    """Items that the other side had already."""
    kept: int = 0
    """Items of which the other side has a newer version, which stays."""

    def __add__(self, other: "Merged") -> "Merged":  # type: ignore[override]
        return Merged(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Source(ABC):
    """A side to read from. It serves its other users meanwhile, so what is written during the copy may be left out."""

    def __init__(self) -> None:
        #: What could not be read, one sentence each.
        self.problems: list[str] = []
        #: What there is and is not copied, one sentence each.
        self.left_out: list[str] = []

    @abstractmethod
    def estimate(self) -> int | None:
        """Return about how many items there are, for a progress bar; None if that is not known."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[list[Item]]:
        """Yield the items that have not expired, in lists of up to ``size``."""

    def chords(self) -> Iterator[OpenChord]:
        """Yield the chords whose parts have not all returned."""
        return iter(())

    @abstractmethod
    def close(self) -> None:
        """Release what is open."""


class Target(ABC):
    """A side to write to."""

    #: Why chords in flight cannot be written; None if they can.
    refuses_chords: str | None = None
    problems: list[str]
    """What could not be written, and why."""

    @abstractmethod
    def merge(self, items: Sequence[Item], *, dry_run: bool = False) -> Merged:
        """Write those items that are newer than what is there; with ``dry_run`` say only what that would do.

        What another process writes meanwhile is not overwritten by something older. What others write to again and
        again is added to `problems`.
        """

    @abstractmethod
    def read(self, items: Sequence[Item]) -> list[Item | None]:
        """Return what this side has in the place of items, in our form."""

    def add_chord(self, chord: OpenChord) -> bool:
        """Open a chord, or return to it those parts that it lacks. Return whether anything was missing."""
        raise NotImplementedError(f"{type(self).__name__}.add_chord: {self.refuses_chords}")

    def lacking(self, chords: Iterable[OpenChord]) -> Iterator[str]:
        """Yield a sentence for each open chord that is missing, or lacks something that another side has of it."""
        return iter(())

    @abstractmethod
    def close(self) -> None:
        """Release what is open."""


def overtaken(items: Iterable[Item]) -> list[str]:
    """Return a sentence per item that others have written to each time it was to be written."""
    return [f"{item}: other processes write to it again and again, so it was not copied. Copy again." for item in items]


def batched(elements: Iterable[Element], size: int) -> Iterator[list[Element]]:
    """Yield the elements in lists of ``size``."""
    batch: list[Element] = []
    for element in elements:
        batch.append(element)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
