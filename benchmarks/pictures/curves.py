"""Shares over the lifetimes of a result: a line for each peer, with its name beside it."""

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.pictures.svg import MARGIN, SMALL, WIDTH, Picture, css_class
from benchmarks.rows import LOOKS

LEFT, RIGHT = MARGIN + 44, WIDTH - MARGIN
HEIGHT: Final = 230
#: Lifetimes that are shown: all that is to be seen happens in the first two.
SHOWN: Final = 2


def draw(picture: Picture, curves: Mapping[str, tuple[str, Sequence[float]]]) -> Picture:
    """Add lines, by their names: a colour, and `LOOKS` shares a lifetime."""
    shown = {name: (colour, looks[: SHOWN * LOOKS + 1]) for name, (colour, looks) in curves.items()}
    most = max(max(looks) for _, looks in shown.values())
    top, base = picture.bottom + 20, picture.bottom + 20 + HEIGHT
    for share in (0, 0.25, 0.5, 0.75, 1.0):
        if share <= max(most, 0.25):
            y = base - share / most * HEIGHT
            picture.path([(LEFT, y), (RIGHT, y)], "rule", 1)
            picture.text(LEFT - 8, y + 5, f"{share:.0%}", SMALL, "muted", "end")
    for colour, looks in shown.values():
        step = (RIGHT - LEFT) / (SHOWN * LOOKS)
        points = [(LEFT + number * step, base - share / most * HEIGHT) for number, share in enumerate(looks)]
        picture.path(points, css_class(colour), 2.5)
    for number in range(SHOWN + 1):
        anchor = ("start", "middle", "end")[number]
        label = f"{number} lifetimes" if number == SHOWN else str(number)
        picture.text(LEFT + (RIGHT - LEFT) * number / SHOWN, base + 22, label, SMALL, "muted", anchor)
    picture.bottom = max(top, base) + 34
    _legend(picture, shown)
    return picture


def _legend(picture: Picture, shown: Mapping[str, tuple[str, Sequence[float]]]) -> None:
    """Name the lines below them, with the greatest share of each."""
    for name, (colour, looks) in shown.items():
        picture.bottom += 22
        picture.box(LEFT, picture.bottom - 11, 22, 8, f"{css_class(colour)} fill")
        picture.text(LEFT + 32, picture.bottom - 2, f"{name}: at most {max(looks):.0%}", SMALL, "ink")
