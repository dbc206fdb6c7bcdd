"""Panels of horizontal bars, one for each peer. A bar starts at zero; one that would not fit says that it is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.pictures.svg import BOLD_LETTER, MARGIN, SMALL, TEXT, WIDTH, Picture, css_class

#: Where bars begin and end.
LEFT, RIGHT = 178, WIDTH - MARGIN
HEIGHT: Final = 24
STEP: Final = 46
#: A time of more than so many times the second shortest one is cut, for the others would vanish beside it.
LONGEST: Final = 20


@dataclass(frozen=True, slots=True)
class Bar:
    """A peer in a panel."""

    name: str
    detail: str
    """Its configuration, in two or three words."""
    colour: str
    value: float | None
    text: str
    """The value with its unit, or why there is none."""


def panel(picture: Picture, title: str, direction: str, bars: Sequence[Bar], longest: float) -> None:
    """Add a panel. ``direction`` says the unit and whether less is better; bars above ``longest`` are cut."""
    picture.bottom += 16
    if title:
        picture.paragraph(title, TEXT + 1, "ink bold")
    picture.paragraph(direction, SMALL, "muted")
    scale = (RIGHT - LEFT) / longest
    for bar in bars:
        top = picture.bottom + 12
        picture.text(MARGIN, top + 9, bar.name, TEXT, "ink bold")
        picture.text(MARGIN, top + 27, bar.detail, SMALL, "muted")
        if bar.value is None:
            picture.box(LEFT, top, RIGHT - LEFT, HEIGHT, f"{css_class(bar.colour)} line dashed")
            picture.text(LEFT + 8, top + 17, bar.text, TEXT)
        else:
            _bar(picture, top, bar, bar.value * scale)
        picture.bottom += STEP


def _bar(picture: Picture, top: float, bar: Bar, length: float) -> None:
    """Draw a bar with its value: behind its end, or in it if there is no space behind it."""
    cut = length > RIGHT - LEFT + 1
    length = min(max(length, 2), RIGHT - LEFT)
    picture.box(LEFT, top, length, HEIGHT, f"{css_class(bar.colour)} fill")
    if cut:
        for shift in (34, 42):
            picture.path([(RIGHT - shift - 4, top + HEIGHT + 3), (RIGHT - shift + 4, top - 3)], "page", 4)
    is_inside = length + len(bar.text) * TEXT * BOLD_LETTER + 8 > RIGHT - LEFT
    if is_inside:
        picture.text(LEFT + 8, top + 17, bar.text, TEXT, "page bold")
    else:
        picture.text(LEFT + length + 8, top + 17, bar.text, TEXT, "ink bold")


def longest_time(bars: Sequence[Bar]) -> float:
    """Return the longest time that is shown whole."""
    values = sorted(bar.value for bar in bars if bar.value is not None)
    return max(value for value in values if value <= LONGEST * values[min(1, len(values) - 1)])
