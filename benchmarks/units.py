"""Figures as text: three significant digits, times in the unit that suits them, and tables."""

from collections.abc import Iterable, Sequence


def number(value: float | None) -> str:
    """Return three significant digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Return up to two decimals."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def whole(value: float | None) -> str:
    """Return a whole number."""
    return "" if value is None else f"{value:,.0f}"


#: Microseconds in each unit; a count has none.
TIMES = {"µs": 1, "ms": 1e3, "s": 1e6, "": 1}


def unit_of(microseconds: float) -> str:
    """Return the largest unit in which a time is at least 1."""
    return "s" if microseconds >= 1e6 else "ms" if microseconds >= 1e3 else "µs"


def time(microseconds: float) -> str:
    """Return a time with three digits."""
    unit = unit_of(microseconds)
    return f"{number(microseconds / TIMES[unit])} {unit}"


def rounded(value: float) -> str:
    """Return two digits, as a title says it."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table. Columns whose title begins with ">" are aligned to the right."""
    rules = ["---:" if title.startswith(">") else "---" for title in columns]
    table = [[title.removeprefix(">") for title in columns], rules, *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)
