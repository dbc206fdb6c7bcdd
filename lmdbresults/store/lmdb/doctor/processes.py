"""The processes that use a file: which have it open, which read or write, and which have left a socket behind."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple

from lmdbresults.options import Options
from lmdbresults.process.identity import describe
from lmdbresults.store.findings import ERROR, OK, WARNING, Finding
from lmdbresults.store.lmdb.doctor.state import Seen
from lmdbresults.store.lmdb.file.lock_file import read_unopened
from lmdbresults.store.lmdb.file.paths import LOCK_SUFFIX
from lmdbresults.store.lmdb.file.reader_table import Reader, parse_slots
from lmdbresults.store.lmdb.notify.box import count_boxes
from lmdbresults.store.lmdb.notify.folder import WakeFolder
from lmdbresults.store.lmdb.notify.marks import BOXES

__all__ = ["holders", "readers", "sockets"]

#: The most processes that are named.
_MOST: Final = 10
#: Seconds from which a read is long, and commits since a read began from which it is long if its time is unknown.
_LONG: Final = 60.0
_MANY_COMMITS: Final = 10_000
#: Bytes of a slot of the reader table.
_SLOT_BYTES: Final = 64
_DELETED: Final = " (deleted)"


class _Open(NamedTuple):
    present: list[int]
    """Processes that have the file open."""
    former: list[int]
    """Processes that have a file of that name open, or its lock file, which was deleted or replaced."""
    is_complete: bool
    """Whether all processes of this namespace could be looked at."""


def holders(options: Options, seen: Seen) -> Iterator[Finding]:
    """Yield which processes have the file open, and which have a former file of that name open."""
    found = _scan(options.path)
    if found.former:
        text = f"The file or its lock file was deleted or replaced while it was open in {_names(found.former)}."
        cure = "Stop every process that uses it before starting any: two lock files let two processes write at once."
        yield Finding("processes", ERROR, text, cure)
    stopped = [pid for pid in found.present if ", stopped" in describe(pid)]
    if stopped:
        text = f"Stopped, with the file open: {_names(stopped)}. It keeps its messages, and maybe a lock."
        yield Finding("processes", WARNING, text, "Continue it (kill -CONT) or end it.")
    if found.present:
        yield Finding("processes", OK, f"Open in {_names(found.present)}.")
    elif not seen.is_in_use:
        yield Finding("processes", OK, "No process has it open.")
    else:
        hidden = "in processes of another user or container" if not found.is_complete else "in another container"
        yield Finding("processes", OK, f"Open {hidden}; root sees which.")


def readers(options: Options, seen: Seen, now: float) -> Iterator[Finding]:
    """Yield what the lock file says: the holder of the write lock, long reads, and whether the reader table is full."""
    try:
        writer, slots = read_unopened(options.path)
    except OSError:
        return  # `permissions` says why
    if writer and ", stopped" in describe(writer):
        text = f"{_capitalized(describe(writer))} holds the write lock, so no process can store."
        yield Finding("write lock", ERROR, text, "Continue it (kill -CONT) or end it: then the lock is released.")
    found, size = parse_slots(slots), len(slots) // _SLOT_BYTES
    if found and len(found) > size * 0.8:
        text = f"{len(found)} of {size} slots of the reader table are in use."
        yield Finding("readers", WARNING, text, "Stop every process, and set a larger max_readers in each of them.")
    oldest = min((one for one in found if not one.is_pin), key=lambda reader: reader.txn, default=None)
    if oldest is not None and seen.head.newest is not None:
        yield _long_read(oldest, seen.head.newest.txn - oldest.txn, now)


def sockets(options: Options) -> Iterator[Finding]:
    """Yield how many waiters there are, and how many sockets killed processes have left."""
    folder = WakeFolder(options.path, options.mode)
    if not os.path.isdir(folder.path):
        return
    try:
        named, orphaned = count_boxes(folder)
    except OSError as error:
        text = f"The sockets of waiters in {folder.path} cannot be used: {error.strerror}. Waiters poll instead."
        yield Finding("wake-ups", WARNING, text, "Give this user permission for the folder. They need Linux.")
        return
    text = f"Waiters: {named - orphaned}. Sockets of killed processes: {orphaned}; the next waiter removes them."
    if named > BOXES * 0.8:
        cure = f"Each process that waits takes one of {BOXES}. Further ones poll twice a second."
        yield Finding("wake-ups", WARNING, text, cure)
    else:
        yield Finding("wake-ups", OK, text)


def _long_read(oldest: Reader, commits: int, now: float) -> Finding:
    text = f"The oldest read is of {describe(oldest.pid)}"
    if oldest.since is not None:
        text += f", since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(oldest.since))}"
    text += f"; commits since: {commits}."
    if (oldest.since is not None and now - oldest.since > _LONG and commits) or commits > _MANY_COMMITS:
        cure = "No page that was freed since is reused, so the file grows: end that read, or that process."
        return Finding("readers", WARNING, text, cure)
    return Finding("readers", OK, text)


def _scan(path: str) -> _Open:
    """Look at the descriptors of all processes that this user may look at."""
    names, present, former, is_complete = _identities(path), [], [], True
    with suppress(OSError):
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            try:
                links = [(number, os.readlink(f"/proc/{pid}/fd/{number}")) for number in os.listdir(f"/proc/{pid}/fd")]
            except PermissionError:
                is_complete = False
                continue
            except OSError:  # it has ended meanwhile
                continue
            if any(os.path.basename(link) in names and _leads_to(pid, number, names) for number, link in links):
                present.append(pid)
            if any(link in (path + _DELETED, path + LOCK_SUFFIX + _DELETED) for _, link in links):
                former.append(pid)
    return _Open(present, former, is_complete)


def _identities(path: str) -> dict[str, os.stat_result]:
    """Return the status of the data file, by its name: in another container its path may be another one."""
    with suppress(OSError):
        return {os.path.basename(path): os.stat(path)}
    return {}


def _leads_to(pid: int, number: str, names: Mapping[str, os.stat_result]) -> bool:
    with suppress(OSError):
        found = os.stat(f"/proc/{pid}/fd/{number}")
        return any(os.path.samestat(found, one) for one in names.values())
    return False


def _names(pids: list[int]) -> str:
    named = ", ".join(describe(pid) for pid in islice(pids, _MOST))
    return named if len(pids) <= _MOST else f"{named} and {len(pids) - _MOST} more"


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
