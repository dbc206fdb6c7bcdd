"""What every engine makes of a ttl and of a counter, so that all engines agree."""

import math
from operator import index
from typing import Final

from lmdbresults.errors import NotACounter, quoted

__all__ = ["NEVER", "add_to_counter", "deadline_of"]

#: The deadline of a record that never expires.
NEVER: Final = 0.0
_COUNTER_LIMIT: Final = 1 << 63


def deadline_of(ttl: float | None, now: float) -> float:
    """Return when a record with a ttl expires; `NEVER` for None, 0 and infinity. Raises ValueError."""
    if not ttl:
        return NEVER
    if not ttl > 0:
        raise ValueError(f"ttl must be a positive number of seconds, or None or 0 for no expiry; got {ttl!r}.")
    return NEVER if ttl == math.inf else now + ttl


def add_to_counter(key: bytes, value: bytes, by: int) -> int:
    """Return the counter in a value plus ``by``. Raises `NotACounter`, or TypeError if ``by`` is not an integer."""
    by = index(by)  # 1.5 would be returned as it is, and stored cut off
    digits = value[1:] if value[:1] == b"-" else value
    if not digits.isdigit() or len(digits) >= 20 or not _fits(number := int(value)):
        raise NotACounter(f"The value of {quoted(key)} is not a 64-bit integer, so it cannot be incremented.")
    if not _fits(number + by):
        raise NotACounter(f"{quoted(key)} would exceed 64 bits by {by:+}. It was left unchanged.")
    return number + by


def _fits(number: int) -> bool:
    return -_COUNTER_LIMIT <= number < _COUNTER_LIMIT
