"""The copy itself: batch by batch, so its memory does not grow with the number of results."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from lmdbresults.copying.items import ended_since
from lmdbresults.copying.sides import Merged, Source, Target
from lmdbresults.errors import ChordsInFlight

__all__ = ["BATCH", "Progress", "Summary", "copy"]

#: Items in a batch: one transaction, or one round trip to a server.
BATCH: Final = 500
#: The most sentences of one kind that a summary keeps.
_MOST: Final = 1000
#: Chords that are listed when they are refused.
_LISTED: Final = 20

#: Called with the items so far, and about how many there are, if that is known.
Progress: TypeAlias = Callable[[int, int | None], object]


@dataclass(slots=True)
class Summary:
    """What a copy has done."""

    merged: dict[str, Merged] = field(default_factory=dict)
    """By kind of item."""
    older: int = 0
    """Results that ended before ``since``."""
    chords: int = 0
    """Open chords that the other side had not, or not all of."""
    same_chords: int = 0
    skipped_chords: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What the source has and is not copied."""
    problems: list[str] = field(default_factory=list)
    """What could not be read or written."""
    seconds: float = 0.0

    @property
    def items(self) -> int:
        """How many items were looked at."""
        return self.older + sum(map(sum, self.merged.values()))


def copy(
    source: Source,
    target: Target,
    *,
    since: float | None = None,
    skip_chords: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    batch: int = BATCH,
) -> Summary:
    """Copy what a source has to a target, and return what was done.

    Both may be in use, and a copy may be repeated: the result is the union, in which the newest version of each result
    wins. A copy that was interrupted is repeated in the same way. ``since``: leave out results that ended before that
    moment, in seconds since the epoch. ``progress`` is called with the items so far and about how many there are.

    Raises `ChordsInFlight` before anything is written if the target cannot take the open chords of the source, unless
    ``skip_chords``.
    """
    began, summary = time.monotonic(), Summary()
    if target.refuses_chords is not None and not skip_chords:
        _refuse_chords(source, target.refuses_chords)
    total = source.estimate()
    for items in source.batches(batch):
        wanted = [item for item in items if ended_since(item, since)]
        summary.older += len(items) - len(wanted)
        for kind in {item.kind for item in wanted}:
            merged = target.merge([item for item in wanted if item.kind == kind], dry_run=dry_run)
            summary.merged[kind] = summary.merged.get(kind, Merged()) + merged
        if progress is not None:
            progress(summary.items, total)
    _copy_chords(source, target, summary, skip_chords, dry_run)
    summary.left_out = source.left_out[:_MOST]
    summary.problems = [*source.problems[:_MOST], *target.problems[:_MOST]]
    summary.seconds = time.monotonic() - began
    return summary


def _refuse_chords(source: Source, why: str) -> None:
    chords = [str(chord) for chord in source.chords()]
    if chords:
        more = f"\n  ... and {len(chords) - _LISTED} more" if len(chords) > _LISTED else ""
        listed = "".join(f"\n  {chord}" for chord in chords[:_LISTED])
        raise ChordsInFlight(f"{len(chords)} chords are in flight. {why}. Nothing was copied.{listed}{more}")


def _copy_chords(source: Source, target: Target, summary: Summary, skip: bool, dry_run: bool) -> None:
    for chord in source.chords():
        if skip or target.refuses_chords is not None:
            summary.skipped_chords.append(str(chord))
        elif dry_run or target.add_chord(chord):
            summary.chords += 1
        else:
            summary.same_chords += 1
