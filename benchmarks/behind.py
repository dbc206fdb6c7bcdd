"""Rows in which a peer of the same durability is faster, each with its reason."""

from collections.abc import Iterator, Mapping
from typing import Final

from benchmarks.rows import MEMORY, OWN, OWN_ROW, Row, Run, Section
from benchmarks.units import markdown, ratio, whole

#: A smaller lead is noise.
LEAD: Final = 0.95
#: Reasons by scenario and peer; a shorter peer stands for all that begin with it.
REASONS: Final[Mapping[tuple[str, str], str]] = {
    (
        "store",
        "Redis, always",
    ): "A commit of LMDB writes four pages and syncs twice; Redis appends a line and syncs once.",
    ("sustained", "Redis, always"): "Redis syncs once for all clients that wait; here each commit syncs for itself.",
    ("bytes", "sqlite3"): "Without a backend around it SQLite appends to a WAL; lmdbresults copies pages of a tree.",
    ("large", "file://"): "A file is one read; a large record is in pieces, and its checksum is compared.",
    ("large", "SQLite"): "One read of one row; a large record is in pieces, and its checksum is compared.",
    ("large", "Redis"): "50 MB pass through a socket as fast as through a checksum.",
    ("groups", "file://"): "The file system has the group in its cache, and Celery's backend checks nothing.",
    ("groups", "SQLite"): "One row, pickled; ids are decoded from msgpack here.",
    ("sweep", "sqlite3"): "One DELETE, during which no other process can write.",
    ("disk", ""): "Pages of a tree are about two thirds full, and a record has a checksum and its task's name.",
    ("broker", "Redis"): "A ping is a broadcast with a reply; here both are queues in the file.",
}


def rows_behind(run: Run) -> Iterator[tuple[Section, Row]]:
    """Yield the rows of peers that were faster. Bare LMDB and dictionaries are lower bounds and not peers."""
    for section in run.sections:
        for row in section.rows:
            is_peer = not row.peer.startswith((OWN, "bare", "Python")) and row.durability != MEMORY
            if is_peer and row.to_own is not None and row.to_own < LEAD and not row.peer.startswith("writer"):
                yield section, row


def table(run: Run) -> str:
    """Return what was lost, by how much, and why; or that nothing was."""
    lines = [
        [
            section.name,
            row.work,
            whole(row.x),
            row.peer,
            OWN_ROW[row.durability],
            ratio(row.to_own),
            reason(section, row),
        ]
        for section, row in rows_behind(run)
    ]
    if not lines:
        return "In no row of this run was a peer of the same durability faster."
    return markdown(["scenario", "work", ">", "peer", "against", ">vs lmdbresults", "why"], lines)


def reason(section: Section, row: Row) -> str:
    """Return why a row was lost, if it is known."""
    fitting = [text for (name, peer), text in REASONS.items() if name == section.name and row.peer.startswith(peer)]
    return fitting[0] if fitting else ""
