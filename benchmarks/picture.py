"""The picture of a run: the time of each peer relative to lmdbresults, as SVG."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from benchmarks.rows import BARE, OWN, Row, Run

TITLE: Final = "Time for the same work, lmdbresults of the same durability = 1 (logarithmic)"
#: Scenarios in the picture, and the work that represents each.
WORKS: Final[Mapping[str, str]] = {
    "store": "store",
    "progress": "both",
    "get": "hit",
    "bytes": "store",
    "get_many": "get_many",
    "wakeups": "store_result() to AsyncResult.get()",
    "chords": "part",
    "worker": "round trip",
}
#: By the first part of a peer's name.
COLOURS: Final[Mapping[str, str]] = {OWN: "#2ca02c", BARE: "#b0b0b0", "bare datagram": "#b0b0b0"}
OTHERS: Final = "#1f77b4"

LEFT, WIDTH, RIGHT, LINE, GAP = 170, 520, 60, 18, 30
#: The range of ratios.
LEAST, MOST = 0.1, 300.0


def draw(run: Run) -> str:
    """Return the picture as SVG."""
    body, y = [], 2 * GAP
    for section in run.sections:
        rows = _representative(section.rows, WORKS.get(section.name, ""))
        if rows:
            body.append(_text(0, y, f"{section.name}: {rows[0].work}", "font-weight='bold'"))
            for number, row in enumerate(rows, 1):
                body += _bar(y + number * LINE, row)
            y += len(rows) * LINE + GAP
    one = _place(1)
    body.append(f"<line x1='{one}' y1='{GAP}' x2='{one}' y2='{y - GAP}' stroke='black'/>")
    size = f"width='{LEFT + WIDTH + RIGHT}' height='{y}'"
    start = f"<svg xmlns='http://www.w3.org/2000/svg' {size} font-family='sans-serif' font-size='12'>"
    background = "<rect width='100%' height='100%' fill='white'/>"
    return "\n".join([start, background, _text(0, 16, TITLE), *body, "</svg>", ""])


def _representative(rows: Sequence[Row], work: str) -> list[Row]:
    """Return the rows of a work at the largest size that several peers have."""
    found = [row for row in rows if row.work == work and row.to_own not in (None, 1)]  # not lmdbresults itself
    sizes = [row.x or 0 for row in found]
    size = max((x for x in sizes if sizes.count(x) > 1), default=0)
    return [row for row in found if (row.x or 0) == size]


def _bar(y: int, row: Row) -> Iterator[str]:
    value = row.to_own or 1
    start, end = sorted((_place(1), _place(value)))
    colour = COLOURS.get(row.peer.partition(",")[0], OTHERS)
    yield _text(LEFT - 8, y, row.peer, "text-anchor='end'")
    yield f"<rect x='{start}' y='{y - 11}' width='{max(end - start, 1)}' height='13' fill='{colour}'/>"
    yield _text(end + 6, y, f"{value:.2g}" if value < 100 else f"{value:.0f}")


def _place(value: float) -> int:
    share = math.log(min(max(value, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LEFT + round(share * WIDTH)


def _text(x: int, y: int, text: str, style: str = "") -> str:
    return f"<text x='{x}' y='{y}' {style}>{escape(text)}</text>".replace(" >", ">")
