"""Opening a file after whatever has happened to it: a loss of power above all.

Nothing is to be done in the boot in which the file was written, since the operating system still has all that a
process that was killed has written. In a later boot the file may be a mixture of old and new pages. If checkpoints
guarded it, it is put back to the last one; otherwise it is looked through, which takes a while.
"""

import logging
import os
import time
from typing import Final

from lmdbresults.errors import ConfigurationError, FileDamaged, OpenError
from lmdbresults.options import Options
from lmdbresults.process import boot
from lmdbresults.store.lmdb.durability.sidecar import NO_CHECKPOINT, Checkpoint, Sidecar
from lmdbresults.store.lmdb.file import meta, paths
from lmdbresults.store.lmdb.file.meta import Meta
from lmdbresults.store.lmdb.file.verify import verify

__all__ = ["is_from_earlier_boot", "pending_rollback", "prepare", "refuse_emptied"]

logger = logging.getLogger("lmdbresults")

#: How often the sidecar is looked at again, when whoever was to write it is gone.
_TRIES: Final = 16
#: Stands for a boot of which nothing is known but that it was another one.
_UNKNOWN: Final = "unknown"


def prepare(sidecar: Sidecar, options: Options) -> bool | None:
    """Say that the file is in use, once it is in order; return whether checkpoints guard it.

    Whoever wants none gets them nevertheless where others rely on them. None: a damaged file was put aside, so that
    everything is to be begun anew. Raises `ConfigurationError` where others use the file without, and `FileDamaged`.
    """
    wants_pins = options.durability != "none"
    for _ in range(_TRIES):
        if not _is_in_order(sidecar, wants_pins) and sidecar.try_lock_exclusive():
            _mend(sidecar, options, wants_pins)
        sidecar.lock_shared()  # waits for whoever mends the file
        if not sidecar.is_path_current():
            return None
        last = sidecar.last()
        if last.boot == boot.boot_id() and (last.is_pinned or not wants_pins):
            _tell_of_more(last, wants_pins, options)
            return last.is_pinned
    raise _refusal(last, options)  # not at once, as whoever did not suit may have closed the file meanwhile


def is_from_earlier_boot(sidecar: Sidecar) -> bool:
    """Return whether the file was last used in another boot, so that it may have to be put in order."""
    return sidecar.last().boot not in ("", boot.boot_id())


def pending_rollback(path: str) -> Meta | None:
    """Return the state to which a file would be put back if it were opened now; None: it is not to be put back."""
    try:
        sidecar = Sidecar(path)
    except OSError:
        return None
    try:
        last = sidecar.last()
        return meta.unpacked(last.meta) if is_from_earlier_boot(sidecar) and _can_go_back(sidecar, last) else None
    finally:
        sidecar.close()


def refuse_emptied(sidecar: Sidecar, path: str) -> None:
    """Raise `FileDamaged` if a file in which nothing was committed, and which was there before, had some once."""
    if sidecar.last().txn:
        paths.wait_for_content(sidecar.data)  # whoever begins it anew says so in the sidecar before
    if sidecar.last().txn and meta.is_blank(sidecar.data):
        raise FileDamaged(
            f"{path} is empty, and {path}{paths.CHECKPOINT_SUFFIX} says that it was not. Restore it from a backup; "
            "to start anew, delete both while no process uses them."
        )


def _is_in_order(sidecar: Sidecar, wants_pins: bool) -> bool:
    last = sidecar.last()
    return last.boot == boot.boot_id() and last.is_pinned == wants_pins


def _refusal(last: Checkpoint, options: Options) -> ConfigurationError | OpenError:
    if last.boot == boot.boot_id():
        return ConfigurationError(
            f"{options.path} is open in another process with durability='none', so durability="
            f"{options.durability!r} cannot be kept here: use the same in every process, or close the file there first."
        )
    if not last.boot:
        return OpenError(
            f"{options.path}{paths.CHECKPOINT_SUFFIX} was deleted while others have the file open. Try again, as "
            "whoever writes makes it anew; if nobody does, close the file everywhere."
        )
    return OpenError(f"{options.path} is opened by others all the time, and by none of them to the end. Try again.")


def _tell_of_more(last: Checkpoint, wants_pins: bool, options: Options) -> None:
    if last.is_pinned and not wants_pins:
        logger.info(
            "%s is guarded by checkpoints for other processes, so durability='none' does that too.", options.path
        )


def _mend(sidecar: Sidecar, options: Options, wants_pins: bool) -> None:
    """Put the file in order, and say in the sidecar how it is guarded from now on. Nobody else has it open."""
    last = sidecar.last()
    if sidecar.failure() is not None:
        wants_pins = wants_pins or last.is_pinned  # or the checkpoint would be overwritten, which is all that is left
    if meta.is_blank(sidecar.data):
        if len(sidecar.metas()) < 2:
            os.ftruncate(sidecar.data, 0)  # LMDB does not begin anew where there is half a beginning
        last = _forgotten(last)
    elif is_from_earlier_boot(sidecar) or sidecar.is_garbled():
        last = _after_boot(sidecar, last, options)
        if not sidecar.is_path_current():
            return  # it was put aside
    if not last.is_pinned and not sidecar.is_at(last):
        last = _forgotten(last)  # without pins its pages may have been used again
    changed = last._replace(generation=last.generation + 1, is_pinned=wants_pins, boot=boot.boot_id())
    sidecar.write(changed, with_turn=True)


def _forgotten(last: Checkpoint) -> Checkpoint:
    return NO_CHECKPOINT._replace(generation=last.generation)


def _after_boot(sidecar: Sidecar, last: Checkpoint, options: Options) -> Checkpoint:
    """Undo what a loss of power may have done; return the checkpoint at which the file is then."""
    if sidecar.is_at(last):
        return last  # it was closed in peace, or not written to since
    if _can_go_back(sidecar, last):
        _go_back(sidecar, last, options)
        return last
    logger.warning("%s may have been damaged when the machine went down. It is looked through now.", options.path)
    problems = verify(options.path)
    if problems:
        _put_aside(sidecar, last, options, problems[0])
    return _forgotten(last)


def _can_go_back(sidecar: Sidecar, last: Checkpoint) -> bool:
    """Return whether the last checkpoint is one of this file, and of a former state of it."""
    metas = sidecar.metas()
    return bool(metas and last.is_pinned and last.has_meta and sidecar.is_of(last) and metas[-1].txn > last.txn)


def _go_back(sidecar: Sidecar, last: Checkpoint, options: Options) -> None:
    saved, lost = meta.unpacked(last.meta), sidecar.metas()[-1].txn - last.txn
    assert saved is not None, "the caller has seen to that"
    if os.fstat(sidecar.data).st_size < saved.end:
        raise FileDamaged(
            f"{options.path} is shorter than at its last checkpoint: it was cut short. Restore it from a backup."
        )
    for number in (0, 1):  # the page of this commit, and for the other one the same state under the number before
        page = saved if number == saved.txn & 1 or not saved.txn else saved.numbered(saved.txn - 1)
        os.pwrite(sidecar.data, page.page(number), number * saved.page_size)
    os.fsync(sidecar.data)
    logger.warning(
        "%s was not closed before the machine went down. It is back at its last checkpoint, of %s, %.0f seconds ago; "
        "what was written after it (%d commits or more) is lost.",
        options.path,
        time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(last.made_at)),
        time.time() - last.made_at,
        lost,
    )


def _put_aside(sidecar: Sidecar, last: Checkpoint, options: Options, problem: str) -> None:
    """Make way for a new file if that is wished. Raises `FileDamaged` if not.

    The sidecar stays. As it says from now on that it knows of no content, the new file may be empty; and as it is of
    another boot still, the file is looked through again if this process is killed before it is renamed.
    """
    if options.on_damage == "error":
        raise FileDamaged(
            f"{options.path} was damaged when the machine went down, and was left as it is: {problem} Restore a "
            "backup, or have `lmdbresults salvage` get out what can be read, or begin anew with on_damage='fresh'."
        )
    aside = f"{options.path}-damaged-{time.strftime('%Y%m%dT%H%M%S')}"
    boot_before = last.boot or _UNKNOWN
    sidecar.write(_forgotten(last)._replace(generation=last.generation + 1, boot=boot_before), with_turn=True)
    os.rename(options.path, aside)
    paths.sync_folder(os.path.dirname(options.path))
    logger.error("%s was damaged when the machine went down: %s It is now %s.", options.path, problem, aside)
