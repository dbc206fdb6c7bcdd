"""The state of a file: its content, how a power failure would find it, and whether others can open it as well."""

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from lmdbresults.errors import StoreError
from lmdbresults.options import Options
from lmdbresults.process import boot
from lmdbresults.store.findings import ERROR, OK, WARNING, Finding, Level
from lmdbresults.store.lmdb.durability import recovery
from lmdbresults.store.lmdb.durability.sidecar import Sidecar, SidecarState
from lmdbresults.store.lmdb.engine.opening import look_inside
from lmdbresults.store.lmdb.file import paths
from lmdbresults.store.lmdb.file.lmdb_errors import SyncFailure
from lmdbresults.store.lmdb.file.meta import Head

__all__ = ["Seen", "content", "durability", "look", "namespace"]

#: Seconds after which a checkpoint is late, beyond the four intervals that another process may take to make it.
_PATIENCE: Final = 5.0
#: The PID namespace of a machine, as opposed to that of a container.
_OF_THE_MACHINE: Final = 0xEFFFFFFC


class Seen(NamedTuple):
    """A data file and its sidecar, read in one go."""

    head: Head
    sidecar: SidecarState
    failure: SyncFailure | None
    """The sync that has failed in this boot."""
    is_in_use: bool
    """Whether a process has the file open, in any namespace."""

    @property
    def is_of_this_boot(self) -> bool:
        """Return whether the file was last opened since the machine was started."""
        return self.sidecar.last.boot == boot.boot_id()

    @property
    def is_elsewhere(self) -> bool:
        """Return whether processes of another PID namespace have the file open."""
        return self.is_in_use and self.is_of_this_boot and self.sidecar.last.namespace != boot.pid_namespace()


def look(path: str) -> Seen:
    """Return what a file and its sidecar say; both must exist. Raises `NewerFormat`, OSError."""
    sidecar = Sidecar(path)
    try:
        return Seen(sidecar.head(), sidecar.read(), sidecar.failure(), not sidecar.try_lock_exclusive())
    finally:
        sidecar.close()


def content(options: Options, found: paths.Found, seen: Seen | None) -> Iterator[Finding]:
    """Yield whether the file is a store that this version reads."""
    if not found.has_file:
        text = "It does not exist. The first process that opens it creates it."
        yield Finding("file", WARNING, text, "Check the spelling of the path, or start that process.")
        return
    if not found.has_content:
        yield Finding("file", OK, "Nothing was stored in it yet.")
        return
    if seen is not None and (seen.is_elsewhere or not seen.is_of_this_boot):
        return  # it cannot be opened from here, or is recovered first
    try:
        paths.check_content(options.path)
        look_inside(options, found.has_lock)
    except StoreError as refusal:
        yield Finding("file", ERROR, str(refusal))
        return
    yield Finding("file", OK, "A store of this version. `lmdbresults check` verifies all of it.")
    missing = [name for name, exists in (("-lock", found.has_lock), ("-checkpoint", found.has_sidecar)) if not exists]
    if missing:
        text = f"Beside it there is no {' and no '.join(missing)}, as beside a copy."
        cure = "If it is not a copy, a job has deleted it: stop every process that uses the file, then start them."
        yield Finding("file", WARNING, text, cure)


def namespace(seen: Seen) -> Iterator[Finding]:
    """Yield whether processes of another PID namespace use the file."""
    if seen.is_elsewhere:
        text = "The file is open in another PID namespace, such as that of another container; here it is refused."
        cure = "Share one namespace: docker run --pid=container:NAME, or shareProcessNamespace in Kubernetes."
        yield Finding("namespace", ERROR, text, cure)
    elif boot.pid_namespace() not in (0, _OF_THE_MACHINE):
        text = "This is the PID namespace of a container. Other containers that use the file must share it."
        yield Finding("namespace", OK, text)


def durability(options: Options, seen: Seen, now: float) -> Iterator[Finding]:
    """Yield what a power failure at the moment ``now`` would take, and what the last one has left to do."""
    last, subject = seen.sidecar.last, "durability"
    if seen.failure is not None:
        text = f"An fsync has failed at {_at(seen.failure.at)} ({seen.failure.reason}), so nothing can be stored."
        cure = "Fix the disk, stop every process that uses the file, run `lmdbresults rewrite`, start them."
        yield Finding("disk", ERROR, text, cure)
    if seen.sidecar.is_lock_stuck:
        text = "The process that makes the checkpoints is stopped, so a power failure loses more than it should."
        yield Finding("checkpoint", WARNING, text, "Continue or end the stopped process.")
    if last.made_at > now + _PATIENCE:
        text = f"The last checkpoint is of {_at(last.made_at)}, in the future: results expire later than they should."
        yield Finding("clock", WARNING, text, "Set the clock of this machine.")
    if seen.head.is_blank():
        return
    if recovery.is_from_earlier_boot(last, boot.boot_id()):
        yield from _left_by_a_reboot(seen)
    elif not last.is_pinned and options.durability != "none":
        text = "The file was opened with durability=none: a power failure may destroy it."
        level: Level = ERROR if seen.is_in_use else WARNING
        yield Finding(subject, level, text, "Use one durability in every process; checkpoint is the default.")
    elif not last.is_pinned:
        yield Finding(subject, OK, "durability=none: a power failure may destroy the file.")
    else:
        yield from _checkpoint(options, seen, now)


def _left_by_a_reboot(seen: Seen) -> Iterator[Finding]:
    last = seen.sidecar.last
    if last.is_last_commit_of(seen.head):
        yield Finding("durability", OK, "It was closed before the machine was started again.")
    elif recovery.can_roll_back(last, seen.head):
        text = f"It was not closed before the machine went down; its last checkpoint is of {_at(last.made_at)}."
        yield Finding("durability", OK, f"{text} The next process that opens it recovers it.")
    else:
        text = "It was not closed before the machine went down, and no checkpoint protects it."
        cure = "The next process that opens it verifies all of it. If it is damaged: restore a backup, or salvage."
        yield Finding("durability", WARNING, text, cure)


def _checkpoint(options: Options, seen: Seen, now: float) -> Iterator[Finding]:
    last, newest = seen.sidecar.durable, seen.head.newest
    if newest is None or last.is_last_commit_of(seen.head):
        yield Finding("checkpoint", OK, "The last checkpoint has everything: a power failure loses nothing.")
        return
    age = now - last.made_at
    text = f"The last checkpoint was made {age:.1f} seconds ago, at {_at(last.made_at)}; commits since: "
    text += f"{newest.txn - last.txn}."
    if seen.sidecar.last.is_logged:
        yield Finding("checkpoint", OK, f"{text} The log has those that were acknowledged (durability=commit).")
    elif age <= 4 * options.checkpoint_interval + _PATIENCE:
        yield Finding("checkpoint", OK, text)
    else:
        cure = "The next process that opens the file or writes to it makes one: `lmdbresults stats` is enough."
        yield Finding("checkpoint", WARNING, f"{text} A power failure loses them.", cure)


def _at(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
