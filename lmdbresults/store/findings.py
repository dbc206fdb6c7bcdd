"""What an examination finds: a sentence about one subject, and what to do about it."""

from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["ERROR", "OK", "WARNING", "Finding", "Level"]

Level: TypeAlias = Literal["ok", "warning", "error"]

#: All is well; something can go wrong, or works worse than it could; something does not work, or loses data.
OK: Final = "ok"
WARNING: Final = "warning"
ERROR: Final = "error"


class Finding(NamedTuple):
    """A fact about a store, its file or its server, or its machine."""

    subject: str
    """One or two words, such as "file system"."""
    level: Level
    """How bad it is."""
    text: str
    """What was found, in a sentence."""
    cure: str = ""
    """What to do about it; empty if there is nothing to do, or if `text` says it."""
