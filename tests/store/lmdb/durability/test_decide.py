"""What recovery decides to do, by what the data file and its sidecar say: without any file."""

import mmap

import pytest

from lmdbresults.store.lmdb.durability.recovery import Action, decide
from lmdbresults.store.lmdb.durability.sidecar import NO_CHECKPOINT, Checkpoint, SidecarState, parse
from lmdbresults.store.lmdb.file.meta import Head, Meta

OURS, OTHER = b"ours".ljust(16), b"another file".ljust(16)
NOW, BEFORE = "this boot", "an earlier boot"
EMPTY = parse(b"")


def meta_of(txn: int) -> Meta:
    """A meta page of a file of ten pages."""
    return Meta(0, 9, 4096, bytes.fromhex("dec0efbe01000000") + bytes(16) + b"\x00\x10" + bytes(110)).numbered(txn)


def head_of(*txns: int, identity: bytes = OURS) -> Head:
    """The beginning of a file with these commits in its meta pages."""
    first, second = (meta_of(txns[0]), meta_of(txns[1])) if txns else (None, None)
    newest = max(first, second) if first and second else None
    return Head(40960, b"\x01" * 2 * mmap.PAGESIZE, first, second, newest, identity)


def checkpoint_of(txn: int, boot: str = BEFORE, *, is_pinned: bool = True, identity: bytes = OURS) -> Checkpoint:
    return Checkpoint(5, txn, is_pinned, False, 0, 0.0, boot, 0, identity, meta_of(txn).data)


def state_of(last: Checkpoint) -> SidecarState:
    return EMPTY._replace(last=last, durable=last)


def decided(state: SidecarState, head: Head, *, wants_pins: bool = True, has_failed: bool = False) -> tuple:
    plan = decide(state, head, NOW, wants_pins=wants_pins, has_failed=has_failed)
    return plan.action, plan.checkpoint.txn, plan.is_pinned


BLANK = Head(0, b"", None, None, None, bytes(16))
FORGOTTEN = 0


@pytest.mark.parametrize(
    ("last", "head", "action", "txn"),
    [
        pytest.param(NO_CHECKPOINT, BLANK, Action.RESET, FORGOTTEN, id="a new file"),
        pytest.param(checkpoint_of(8), BLANK, Action.RESET, FORGOTTEN, id="an emptied file"),
        pytest.param(checkpoint_of(7, NOW), head_of(8, 9), Action.KEEP, 7, id="killed in this boot"),
        pytest.param(checkpoint_of(9), head_of(8, 9), Action.KEEP, 9, id="closed before the reboot"),
        pytest.param(checkpoint_of(7), head_of(8, 9), Action.ROLL_BACK, 7, id="not closed before the reboot"),
        pytest.param(checkpoint_of(7), head_of(8, 7), Action.ROLL_BACK, 7, id="the meta of the last commit was lost"),
        pytest.param(checkpoint_of(9), head_of(8, 7), Action.VERIFY, FORGOTTEN, id="older than its checkpoint"),
        pytest.param(
            checkpoint_of(7, identity=OTHER), head_of(8, 9), Action.VERIFY, FORGOTTEN, id="the sidecar of another file"
        ),
        pytest.param(
            checkpoint_of(7, is_pinned=False), head_of(8, 9), Action.VERIFY, FORGOTTEN, id="not pinned, not closed"
        ),
        pytest.param(checkpoint_of(9, is_pinned=False), head_of(8, 9), Action.KEEP, 9, id="not pinned, but closed"),
        pytest.param(
            checkpoint_of(7, NOW, is_pinned=False), head_of(8, 9), Action.KEEP, FORGOTTEN, id="not pinned, in this boot"
        ),
        pytest.param(checkpoint_of(7), head_of(), Action.VERIFY, FORGOTTEN, id="no meta page is valid"),
        pytest.param(NO_CHECKPOINT, head_of(8, 9), Action.KEEP, FORGOTTEN, id="no sidecar"),
    ],
)
def test_action_and_checkpoint_follow_from_the_file_and_its_sidecar(
    last: Checkpoint, head: Head, action: Action, txn: int
) -> None:
    assert decided(state_of(last), head) == (action, txn, True)
    assert decided(state_of(last), head, wants_pins=False)[:2] == (action, txn)


def test_under_a_garbled_sidecar_the_file_is_verified() -> None:
    garbled = EMPTY._replace(is_garbled=True)
    assert decided(garbled, head_of(8, 9)) == (Action.VERIFY, FORGOTTEN, True)


def test_durability_none_needs_no_pins_unless_a_sync_has_failed_over_a_checkpoint() -> None:
    pinned, free = state_of(checkpoint_of(7, NOW)), state_of(checkpoint_of(7, NOW, is_pinned=False))
    assert decided(pinned, head_of(8, 9), wants_pins=False)[2] is False
    assert decided(pinned, head_of(8, 9), wants_pins=False, has_failed=True)[2] is True
    assert decided(free, head_of(8, 9), wants_pins=False, has_failed=True)[2] is False


def test_generation_of_a_forgotten_checkpoint_is_kept() -> None:
    plan = decide(state_of(checkpoint_of(8)), BLANK, NOW, wants_pins=True, has_failed=False)
    assert plan.checkpoint == NO_CHECKPOINT._replace(generation=5)
