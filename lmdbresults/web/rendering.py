"""Templates, and the texts that they show: everything is escaped, and what would be invisible is made visible."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import cache, partial
from pprint import pformat
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lmdbresults.web.charts import bars, kind_of, ranges
from lmdbresults.web.picture import draw

__all__ = ["MOST_TEXT", "link", "plain", "render", "visible"]

#: Characters of a traceback or a value that are shown.
MOST_TEXT: Final = 50_000
#: Levels of a value that are shown.
_MOST_LEVELS: Final = 25
#: Characters of a name or id that are shown in a table.
_MOST_NAME: Final = 160
#: What is shown for a value that is not known: a dash.
UNKNOWN: Final = "\u2013"
_TIMES: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SIZES: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
#: Control characters but newline and tab; and characters that change the direction of the text after them.
_INVISIBLE: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))},
    **{
        code: f"\\u{code:04x}"
        for code in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
    },
}


def visible(text: object, limit: int = MOST_TEXT) -> str:
    """Return text in which control characters are written out, cut after ``limit`` characters."""
    shown = str(text)
    if len(shown) > limit:
        shown = f"{shown[:limit]}… ({len(shown) - limit:,} more characters)"
    return shown.translate(_INVISIBLE).encode("utf-8", "backslashreplace").decode()


def name(text: object) -> str:
    """Return a name or id for a table: on one line, not too long."""
    return visible(text, _MOST_NAME).replace("\n", "\\n").replace("\t", "\\t")


def plain(value: object) -> str:
    """Return a decoded value as text, as Python writes it, over several lines if it is long.

    `pformat` takes time for each element at each level above it, so what is deep is cut, and what is large is not
    broken into lines.
    """
    if isinstance(value, str):
        return value
    try:
        text = repr(value)
    except RecursionError:
        return "It is nested too deep to be shown here."
    if len(text) > MOST_TEXT:
        return text
    return pformat(value, width=100, compact=True, sort_dicts=False, depth=_MOST_LEVELS)


def seconds(value: float | None) -> str:
    """Return a duration with two or three digits, in the unit that suits it."""
    return _in_units(value, _TIMES)


def size(value: float | None) -> str:
    """Return a number of bytes with up to three digits, in the unit that suits it."""
    return _in_units(value, _SIZES)


def _in_units(value: float | None, units: Sequence[tuple[float, str]]) -> str:
    if value is None:
        return UNKNOWN
    one, unit = next((pair for pair in units if value >= 0.995 * pair[0]), units[-1])
    count = value / one
    return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.2g} {unit}"


def number(value: int | None) -> str:
    """Return a count with separators."""
    return UNKNOWN if value is None else f"{value:,}".replace(",", "\u202f")


def when(moment: datetime | None, form: str = "long") -> Markup | str:
    """Return a time element in UTC, which the script shows in the reader's zone. ``form``: long, clock or ago."""
    if moment is None:
        return UNKNOWN
    moment = moment.astimezone(timezone.utc)
    text = moment.strftime("%H:%M" if form == "clock" else "%Y-%m-%d %H:%M:%S UTC")
    if form == "ago":
        text = _ago(moment)
    exact = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" data-form="{}" title="{}">{}</time>').format(
        moment.isoformat(), form, exact, text
    )


def _ago(moment: datetime) -> str:
    past = (datetime.now(timezone.utc) - moment).total_seconds()
    return f"in {seconds(-past)}" if past < -1 else "now" if past < 1 else f"{seconds(round(past))} ago"


def traceback(text: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of a traceback with what each is: a frame, its code, or the error."""
    for line in visible(text).splitlines():
        is_frame = line.startswith("Traceback (") or line.lstrip().startswith('File "')
        yield ("frame" if is_frame else "code" if line.startswith(" ") else "error"), line


@cache
def _environment() -> Environment:
    """Return the templates of the package, compiled once for all applications of the process."""
    environment = Environment(
        loader=PackageLoader("lmdbresults.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        seconds=seconds, bytes=size, number=number, when=when, visible=visible, name=name, kind=kind_of
    )
    environment.globals.update(
        bars=bars,
        ranges=ranges,
        draw=draw,
        traceback=traceback,
        duration=lambda seconds: timedelta(seconds=seconds),
    )
    return environment


def render(template: str, base: str, **values: Any) -> bytes:
    """Return a page. ``base`` is the path below which the page is mounted."""
    return _environment().get_template(template).render(base=base, link=partial(link, base), **values).encode()


def link(base: str, page: str, **query: object) -> str:
    """Return the path of a page. A query of several values is a list; what is empty is left out."""
    given = {key: value for key, value in query.items() if value not in (None, "", [], ())}
    text = urlencode(given, doseq=True, errors="backslashreplace")
    return f"{base}/{page}" + (f"?{text}" if text else "")
