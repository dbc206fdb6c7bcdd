"""Rows in which a peer of the same durability is faster, each with its reason."""

from collections.abc import Iterator
from typing import Final

from benchmarks.rows import MEMORY, OWN, OWN_ROW, Row, Run, Section
from benchmarks.units import markdown, ratio, whole

#: A smaller lead is noise.
LEAD: Final = 0.95
#: Reasons by scenario, work and peer, the first that fits; a part of a name stands for all that begin with it.
REASONS: Final = (
    ("broker", "idle", "", "Less than a percent of a core: threads that check for checkpoints, and heartbeats."),
    ("broker", "inspect ping", "", "A ping is a broadcast with a reply; here both are queues in the file."),
    ("broker", "", "Redis, always", "Both append to a log and sync it; Redis does so once for all clients that wait."),
    ("broker", "", "filesystem", "A message is one small file without an index; its worker polls."),
    ("broker", "", "dramatiq", "A lighter worker: no remote control, no events, no links."),
    ("store", "", "Redis, always", "Both append to a log and sync it before they return."),
    ("progress", "", "Redis, always", "As for store."),
    ("commits", "", "Redis, always", "Redis syncs its log once for all clients that wait."),
    ("sustained", "", "Redis, always", "As for commits."),
    ("bytes", "", "sqlite3", "Without a backend around it SQLite appends to a log; LMDB copies pages of a tree."),
    ("large", "store", "", "A checksum is computed, and LMDB writes through the map, page by page."),
    ("large", "", "", "The checksum of a record is compared, 0.3 ms for each MB; the peers compare none."),
    ("groups", "", "", "A group of thousands of ids is a large value, which is cut into pieces of four pages."),
    ("sweep", "", "sqlite3", "One DELETE, during which no other process can write."),
    ("disk", "", "", "Pages of a tree are about two thirds full, and a record has a checksum and its task's name."),
    ("memory", "Anonymous", "", "More modules, and the buffers of LMDB."),
    ("memory", "", "", "Pages of the mapped file count as memory, although the system can take them back."),
    ("redis", "", "", "A store is a script with checks and a wake-up; SETEX and PUBLISH check nothing."),
    ("startup", "", "", "More modules: a store, its recovery, queues, a backend."),
)  # fmt: skip


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
    for scenario, work, peer, text in REASONS:
        if section.name == scenario and row.work.startswith(work) and row.peer.startswith(peer):
            return text
    return ""
