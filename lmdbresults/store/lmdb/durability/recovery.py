"""Recovery: what is done to a file before it is opened, above all after a power failure.

In the boot in which the file was written nothing needs recovery: the operating system has all that killed processes
wrote. In a later boot the file may be a mixture of old and new pages. If checkpoints protected it, it is rolled back to
the last one, and what the log says of later commits is done again (replay.py); otherwise all of it is verified, which
takes a while.
"""

import logging
import os
import time
from enum import Enum
from typing import Final, NamedTuple

from lmdbresults.errors import ConfigurationError, FileDamaged, LockUnavailable, OpenError
from lmdbresults.options import Options
from lmdbresults.process import boot
from lmdbresults.store.lmdb.durability.log import NO_POSITION
from lmdbresults.store.lmdb.durability.log_file import Record
from lmdbresults.store.lmdb.durability.replay import logged_after, replay
from lmdbresults.store.lmdb.durability.sidecar import NO_CHECKPOINT, Checkpoint, Sidecar, SidecarState, new_life
from lmdbresults.store.lmdb.file import meta, paths
from lmdbresults.store.lmdb.file.meta import Head, Meta
from lmdbresults.store.lmdb.file.verify import verify

__all__ = ["Action", "Plan", "decide", "is_from_earlier_boot", "pending", "prepare", "refuse_emptied"]

logger = logging.getLogger("lmdbresults")

#: How often the sidecar is read again when another process should have recovered the file, and did not.
_TRIES: Final = 16
#: Stands for an unknown earlier boot.
_UNKNOWN: Final = "unknown"


class Action(Enum):
    """What recovery does to the data file."""

    KEEP = "leave it as it is"
    RESET = "let LMDB create it again, as nothing was ever committed"
    ROLL_BACK = "return to the last checkpoint"
    VERIFY = "read all of it, as any page may be damaged"


class Plan(NamedTuple):
    """What recovery does."""

    action: Action
    checkpoint: Checkpoint
    """The checkpoint at which the file is afterwards; `NO_CHECKPOINT` but for its generation if there is none."""
    is_pinned: bool
    """Whether checkpoints protect the file from now on."""


def decide(state: SidecarState, head: Head, boot_id: str, *, wants_pins: bool, has_failed: bool) -> Plan:
    """Return what to do to a data file that no process has open, by what it and its sidecar say.

    ``wants_pins``: whether this process needs checkpoints. ``has_failed``: whether a sync has failed in this boot; then
    a checkpoint stays protected, as it is all that is known to be on the disk.
    """
    last, action = state.last, Action.KEEP
    if head.is_blank():
        last, action = _forgotten(last), Action.RESET
    elif not last.is_last_commit_of(head) and (is_from_earlier_boot(last, boot_id) or state.is_garbled):
        if can_roll_back(last, head):
            action = Action.ROLL_BACK
        else:
            last, action = _forgotten(last), Action.VERIFY
    if action is Action.KEEP and not last.is_pinned and not last.is_last_commit_of(head):
        last = _forgotten(last)  # without pins its pages may have been reused
    return Plan(action, last, wants_pins or (has_failed and state.last.is_pinned))


def is_from_earlier_boot(last: Checkpoint, boot_id: str) -> bool:
    """Return whether the file was last used in another boot, so that it may need recovery."""
    return last.boot not in ("", boot_id)


def can_roll_back(last: Checkpoint, head: Head) -> bool:
    """Return whether a checkpoint is one of this file, and of an earlier state of it."""
    newest, saved = head.newest, meta.unpack(last.meta)
    return bool(newest and saved and last.is_pinned and last.is_of(head) and newest.txn > last.txn)


class Pending(NamedTuple):
    """What opening a file would do to it after a power failure."""

    rollback: Meta | None
    """The state to which it would roll it back; None if it would not."""
    records: list[Record]
    """What it would do again after that, by the log."""


def pending(path: str) -> Pending:
    """Return what opening the file would do to it."""
    try:
        sidecar = Sidecar(path)
    except OSError:
        return Pending(None, [])
    try:
        last, head = sidecar.read().last, sidecar.head()
        rolls_back = can_roll_back(last, head)
        if not is_from_earlier_boot(last, boot.boot_id()) or not (rolls_back or last.is_last_commit_of(head)):
            return Pending(None, [])
        return Pending(meta.unpack(last.meta) if rolls_back else None, logged_after(path, last))
    finally:
        sidecar.close()


def refuse_emptied(sidecar: Sidecar, state: SidecarState, path: str) -> None:
    """Raise `FileDamaged` if the file is blank although something was committed to it."""
    if not state.last.txn:
        return
    paths.wait_for_content(sidecar.data)  # a process that recreates the file says so in the sidecar first
    if sidecar.read().last.txn and sidecar.head().is_blank():
        raise FileDamaged(
            f"{path} is empty, but {path}{paths.CHECKPOINT_SUFFIX} says that it had content. Restore it from a backup; "
            "to start with an empty store, delete both while no process uses them."
        )


def prepare(sidecar: Sidecar, options: Options) -> bool | None:
    """Recover the file if it needs that, and share its lock; return whether checkpoints protect it.

    A process that needs no checkpoints gets them where others need them. None: a damaged file was moved aside, so the
    path is free for a new one. Raises `ConfigurationError` where others use the file without checkpoints, `FileDamaged`
    if that is what recovery finds, `LockUnavailable` where others use it in another PID namespace, `OpenError`.
    """
    wants_pins, here = options.durability != "none", (boot.boot_id(), boot.pid_namespace())
    wants_log = options.durability == "commit"
    for _ in range(_TRIES):
        last = sidecar.read().last
        is_in_order = (last.boot, last.namespace) == here and (last.is_pinned, last.is_logged) == (
            wants_pins,
            wants_log,
        )
        if not is_in_order and sidecar.try_lock_exclusive():
            _recover(sidecar, options, wants_pins)
        sidecar.lock_shared()  # waits while another process recovers the file
        if not sidecar.is_path_current():
            return None
        last = sidecar.read().last
        if (last.boot, last.namespace) == here and (last.is_pinned or not wants_pins):
            if last.is_pinned and not wants_pins:
                logger.info("%s: other processes need checkpoints, so durability='none' makes them too.", options.path)
            return last.is_pinned
    raise _refusal(last, options)  # only now, as the processes that did not suit may have closed the file meanwhile


def _refusal(last: Checkpoint, options: Options) -> ConfigurationError | OpenError:
    if last.boot == boot.boot_id() and last.namespace != boot.pid_namespace():
        return LockUnavailable(
            f"{options.path} is open in another PID namespace, such as that of another container: LMDB and chords tell "
            "processes by their number. Give the containers one PID namespace (docker run --pid=container:NAME, "
            "shareProcessNamespace in Kubernetes), or close the file there first."
        )
    if last.boot == boot.boot_id():
        return ConfigurationError(
            f"{options.path} is open in another process with durability='none', so durability="
            f"{options.durability!r} cannot be kept here: use the same in every process, or close the file there first."
        )
    if not last.boot:
        return OpenError(
            f"{options.path}{paths.CHECKPOINT_SUFFIX} was deleted while other processes have the file open. Try again: "
            "the next process that writes recreates it. If none does, close the file everywhere."
        )
    return OpenError(f"{options.path} is being opened by other processes, and none of them succeeds. Try again.")


# -- acting on the plan --------------------------------------------------------------------------------------------


def _recover(sidecar: Sidecar, options: Options, wants_pins: bool) -> None:
    """Recover the file, and note in the sidecar how it is protected from now on. No other process has it open."""
    state, head = sidecar.read(), sidecar.head()
    has_failed, is_later = sidecar.failure() is not None, is_from_earlier_boot(state.last, boot.boot_id())
    plan = decide(state, head, boot.boot_id(), wants_pins=wants_pins, has_failed=has_failed)
    checkpoint = plan.checkpoint
    if plan.action is Action.RESET and (head.first is None or head.second is None):
        os.ftruncate(sidecar.data, 0)  # LMDB does not create a file again that has half a beginning
    elif plan.action is Action.ROLL_BACK:
        _roll_back(sidecar, head, checkpoint, options)
    elif plan.action is Action.VERIFY and not _verify(sidecar, state, options):
        return
    if is_later:
        checkpoint = replay(sidecar, checkpoint, options)
    # In the boot of the log, it may have more than the checkpoint: then it lives on.
    needs_log = checkpoint.is_logged and not is_later and not checkpoint.is_last_commit_of(head)
    is_logged = plan.is_pinned and (options.durability == "commit" or needs_log)
    if is_later or not is_logged or plan.action is not Action.KEEP or not checkpoint.life:
        checkpoint = checkpoint._replace(life=new_life())
        sidecar.note_position(NO_POSITION)  # first: no record of the former life may be followed by one of the next
    checkpoint = checkpoint._replace(
        generation=checkpoint.generation + 1,
        is_pinned=plan.is_pinned,
        is_logged=is_logged,
        boot=boot.boot_id(),
        namespace=boot.pid_namespace(),
    )
    sidecar.write(checkpoint, state, with_lock=True)


def _forgotten(last: Checkpoint) -> Checkpoint:
    return NO_CHECKPOINT._replace(generation=last.generation)


def _roll_back(sidecar: Sidecar, head: Head, checkpoint: Checkpoint, options: Options) -> None:
    saved = meta.unpack(checkpoint.meta)
    assert saved is not None, "decide() made sure"
    assert head.newest is not None, "likewise"
    if head.size < saved.end:
        raise FileDamaged(
            f"{options.path} is shorter than at its last checkpoint: it was truncated. Restore it from a backup."
        )
    for number in (0, 1):  # the page of this commit; and in the other one, the same state with the number before
        page = saved if number == saved.txn & 1 or not saved.txn else saved.numbered(saved.txn - 1)
        os.pwrite(sidecar.data, page.page(number), number * saved.page_size)
    os.fsync(sidecar.data)
    logger.warning(
        "%s was not closed before the machine went down. It was rolled back to its last checkpoint, of %s, %.0f "
        "seconds ago; what was written after it (%d commits or more) is lost, unless the log has it.",
        options.path,
        time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(checkpoint.made_at)),
        time.time() - checkpoint.made_at,
        head.newest.txn - checkpoint.txn,
    )


def _verify(sidecar: Sidecar, state: SidecarState, options: Options) -> bool:
    """Return whether the file is sound; if not, move it aside where the options allow it. Raises `FileDamaged`.

    The sidecar stays. It says first that it knows of no content, so that the new file may be empty. It keeps its
    earlier boot, so that the file is verified again if this process is killed before the file is renamed.
    """
    path = options.path
    logger.warning("%s may have been damaged when the machine went down. All of it is verified now.", path)
    problems = verify(path)
    if not problems:
        return True
    if options.on_damage == "error":
        raise FileDamaged(
            f"{path} was damaged when the machine went down, and was left as it is: {problems[0]} Restore a backup, "
            "copy what can be read with `lmdbresults salvage`, or start with an empty store by on_damage='fresh'."
        )
    last, aside = state.last, f"{path}-damaged-{time.strftime('%Y%m%dT%H%M%S')}"
    changed = _forgotten(last)._replace(generation=last.generation + 1, boot=last.boot or _UNKNOWN)
    sidecar.write(changed, state, with_lock=True)
    os.rename(path, aside)
    paths.sync_folder(os.path.dirname(path))
    logger.error("%s was damaged when the machine went down: %s It was renamed to %s.", path, problems[0], aside)
    return False
