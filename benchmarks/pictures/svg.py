"""A picture as SVG text: one column that is readable at the width of a phone, in colours for light and dark pages.

Every product has one colour, the same in all pictures.
"""

from collections.abc import Iterator, Sequence
from html import escape
from textwrap import wrap
from typing import Final

WIDTH: Final = 480
MARGIN: Final = 20
#: Sizes of text. A phone shows a picture at three quarters of its size.
TITLE, TEXT, SMALL = 20, 16, 14
#: The width of a letter, as a share of the size of its text; a little more than the average.
LETTER, BOLD_LETTER = 0.48, 0.53

#: Colours on a light page, and on a dark one.
COLOURS: Final = {
    "lmdbresults": ("#0969da", "#4493f8"),
    "Redis": ("#cf222e", "#f85149"),
    "SQLite": ("#8250df", "#ab7df8"),
    "files": ("#9a6700", "#d29922"),
    "Django": ("#1a7f37", "#3fb950"),
    "huey": ("#bf3989", "#db61a2"),
    "dramatiq": ("#bc4c00", "#db6d28"),
    "bare LMDB": ("#6e7781", "#8b949e"),
}
#: Colours of everything else.
INKS: Final = {
    "page": ("#ffffff", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "muted": ("#59636e", "#9198a1"),
    "rule": ("#d1d9e0", "#3d444d"),
    "box": ("#f6f8fa", "#151b23"),
}


def css_class(colour: str) -> str:
    """Return the class of a colour."""
    return colour.lower().replace(" ", "-")


def _colours(number: int) -> str:
    pairs = {**COLOURS, **INKS}.items()
    return "".join(f".{css_class(name)}{{--c:{pair[number]}}}" for name, pair in pairs)


STYLE: Final = (
    f"{_colours(0)}\n@media (prefers-color-scheme:dark){{{_colours(1)}}}\n"
    ".fill,text{fill:var(--c)}.line{fill:none;stroke:var(--c)}.dashed{stroke-dasharray:5 4}"
    'text{font-family:-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}.bold{font-weight:600}'
)


class Picture:
    """Shapes and texts, from the top to `bottom`, which grows with what is added."""

    def __init__(self, title: str, subtitle: str) -> None:
        self.title = title
        self.bottom: float = MARGIN
        self._shapes: list[str] = []
        for part in _parts_of(title):
            self.paragraph(part, TITLE, "ink bold")
        self.paragraph(subtitle, SMALL, "muted")

    def paragraph(self, text: str, size: float = TEXT, style: str = "ink") -> None:
        """Write text below everything else, in as many lines as it needs."""
        for line in lines_of(text, size, WIDTH - 2 * MARGIN, bold="bold" in style):
            self.bottom += size * 1.3
            self.text(MARGIN, self.bottom - size * 0.3, line, size, style)

    def indented(self, text: str, x: float) -> None:
        """Write a small paragraph that begins at ``x``."""
        for line in lines_of(text, SMALL + 1, WIDTH - MARGIN - x):
            self.bottom += 19
            self.text(x, self.bottom - 1, line, SMALL + 1)

    def text(
        self, x: float, y: float, text: str, size: float = TEXT, style: str = "ink", anchor: str = "start"
    ) -> None:
        """Write one line; ``y`` is its base line."""
        place = f'x="{x:.5g}" y="{y:.5g}" font-size="{size:g}"' + (f' text-anchor="{anchor}"' * (anchor != "start"))
        self._shapes.append(f'<text class="{style}" {place}>{escape(text, quote=False)}</text>')

    def box(self, x: float, y: float, width: float, height: float, style: str, radius: float = 3) -> None:
        """Draw a rectangle."""
        size = f'width="{width:.5g}" height="{height:.5g}" rx="{radius:g}"'
        self._shapes.append(f'<rect class="{style}" x="{x:.5g}" y="{y:.5g}" {size}/>')

    def path(self, points: Sequence[tuple[float, float]], style: str, width: float = 2, end: str = "") -> None:
        """Draw a line through points; ``end`` is the name of a marker."""
        steps = "L".join(f"{x:.5g} {y:.5g}" for x, y in points)
        marker = f' marker-end="url(#{end})"' if end else ""
        self._shapes.append(f'<path class="line {style}" d="M{steps}" stroke-width="{width:g}"{marker}/>')

    def number(self, x: float, y: float, number: int) -> None:
        """Draw a number in a disc, as a legend refers to it."""
        self._shapes.append(f'<circle class="ink fill" cx="{x:.5g}" cy="{y:.5g}" r="11"/>')
        self.text(x, y + 5, str(number), SMALL, "page bold", "middle")

    def render(self) -> str:
        """Return the picture."""
        height = self.bottom + MARGIN
        return "\n".join(self._lines(round(height)))

    def _lines(self, height: int) -> Iterator[str]:
        size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
        yield f"<title>{escape(self.title, quote=False)}</title>"
        yield f"<style>{STYLE}</style>"
        arrow = '<path class="{0} fill" d="M0 0L8 4L0 8z"/>'
        for colour in ("ink", "lmdbresults"):
            place = 'markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto" markerUnits="userSpaceOnUse"'
            yield f'<marker id="{colour}-arrow" {place}>{arrow.format(colour)}</marker>'
        edge = f'width="{WIDTH - 1}" height="{height - 1}" rx="8"'
        yield f'<rect class="page fill" x="0.5" y="0.5" {edge}/>'
        yield f'<rect class="rule line" x="0.5" y="0.5" {edge}/>'
        yield from self._shapes
        yield "</svg>\n"


def _parts_of(title: str) -> list[str]:
    """Return a title, or what stands before and behind its colon if it is too long for a line."""
    if len(lines_of(title, TITLE, WIDTH - 2 * MARGIN, bold=True)) == 1:
        return [title]
    before, colon, after = title.partition(": ")
    return [before + colon.strip(), after] if colon else [title]


def lines_of(text: str, size: float, width: float, *, bold: bool = False) -> list[str]:
    """Return the lines of a text that must fit a width."""
    return wrap(text, int(width / (size * (BOLD_LETTER if bold else LETTER))))
