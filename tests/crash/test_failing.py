"""What a power cut leaves after a failed sync: pages that were not written again never reach the disk."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from lmdbresults import errors
from tests.crash.disk import PAGE, Disk
from tests.crash.recording import Event, Kind, Recording
from tests.crash.workload import NAME, write_files
from tests.support.boots import keys_in_next_boot
from tests.support.failing import run_failing
from tests.support.processes import FORKS_WITH_THREADS

pytestmark = pytest.mark.filterwarnings(FORKS_WITH_THREADS)

IMAGES = 200 if os.environ.get("LMDBRESULTS_FULL") == "1" else 15

#: Stores something that a checkpoint covers, and more, for which the sync fails. The events tell when.
FAILS = """
import sys
from lmdbresults import errors, open_store
from tests.crash.recording import mark
from tests.support.failing import fail_next
store = open_store(sys.argv[1], checkpoint_interval=3600)
for number in range(50):
    store.set(b"covered %d" % number, bytes(300))
store.flush()
for number in range(50):
    store.set(b"later %d" % number, bytes(300))
fail_next(sys.argv[1])
try:
    store.flush()
except errors.StoreError:
    mark("failed")
"""
#: Comes later, and does what it can to have everything be on the disk.
GOES_ON = """
import sys
from contextlib import suppress
from lmdbresults import errors, open_store
from lmdbresults.store.lmdb.durability.sidecar import Sidecar
if sys.argv[2] == "forgetful":
    Sidecar.failure = lambda self: None
for durability in ("checkpoint", "commit", "none"):
    with open_store(sys.argv[1], durability=durability) as store:
        with suppress(errors.StoreError):
            store.set(b"even later", b"value")
        with suppress(errors.StoreError):
            store.flush()
"""
REWRITES = """
import sys
from lmdbresults import Options
from lmdbresults.store.lmdb.maintenance.rewrite import rewrite
from tests.crash.recording import mark
rewrite(Options(path=sys.argv[1]))
mark("written again")
"""
#: Waits for the log, whose next sync fails, and says what was acknowledged.
FAILS_TO_LOG = """
import sys
from contextlib import suppress
from lmdbresults import errors, open_store
from tests.crash.recording import mark
from tests.support.failing import fail_next
store = open_store(sys.argv[1], durability="commit", checkpoint_interval=3600)
for number in range(50):
    store.set(b"covered %d" % number, bytes(300))
fail_next(sys.argv[1] + "-log")
with suppress(errors.StoreError):
    store.set(b"refused", b"value")
mark("failed")
"""
#: Makes copies of a store that was killed, whose commits are in the log only.
COPIES = """
import os, sys
from lmdbresults import open_store
from lmdbresults.store.lmdb.maintenance.salvage import salvage
from tests.crash.recording import mark
if not os.fork():
    store = open_store(sys.argv[1], durability="commit", checkpoint_interval=3600)
    for number in range(50):
        store.set(b"covered %d" % number, bytes(300))
    mark("failed")
    os._exit(0)
os.wait()
salvage(sys.argv[1], sys.argv[1] + "-salvaged")
mark("salvaged")
with open_store(sys.argv[1], durability="commit", checkpoint_interval=3600) as store:
    store.backup(sys.argv[1] + "-backup")
    mark("backed up")
"""
COVERED = sorted(b"covered %d" % number for number in range(50))
ALL = sorted([*COVERED, *(b"later %d" % number for number in range(50))])


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    for name in ("log", "folder"):
        (tmp_path / name).mkdir()
    return Recording(tmp_path / "log", tmp_path / "folder")


def run(recording: Recording, source: str, *arguments: str) -> None:
    run_failing(source, str(recording.folder / NAME), *arguments, former=recording.environment())


def said(event: Event) -> str:
    return str(pickle.loads(bytes(event.data))[0]) if event.kind is Kind.MARK else ""


def images(recording: Recording, place: Path, forgotten: str = NAME) -> Iterator[tuple[str, str]]:
    """Yield what a power cut may leave at one moment and another since the sync that failed, and the stage by then.

    That was the sync of the file ``forgotten``.
    """
    events, disk, stage = recording.events(), Disk(recording.inode, recording.before), ""
    since = next(event for event in events if said(event) == "failed").place
    moments = [event.place for event in events if event.place >= since]
    chosen = {*Random(7).sample(moments, min(IMAGES, len(moments))), moments[-1]}
    for event in events:
        disk.apply(event)
        stage = said(event) or stage
        if said(event) == "failed":
            disk.forget(forgotten)
        if event.place in chosen:
            folder = place / f"image-{event.place}"
            write_files(folder, disk.image(Random(event.place), PAGE))
            yield str(folder / NAME), stage


def test_whatever_others_do_the_file_is_back_at_the_checkpoint_before(recording: Recording, tmp_path: Path) -> None:
    run(recording, FAILS)
    run(recording, GOES_ON, "as usual")
    for path, stage in images(recording, tmp_path):
        assert keys_in_next_boot(path) == COVERED, stage


def test_rewritten_file_is_complete_and_until_then_the_checkpoint_is(recording: Recording, tmp_path: Path) -> None:
    run(recording, FAILS)
    run(recording, GOES_ON, "as usual")
    run(recording, REWRITES)
    found = [(keys_in_next_boot(path), stage) for path, stage in images(recording, tmp_path)]
    assert [keys for keys, stage in found if keys not in (COVERED, ALL)] == []
    assert {tuple(keys) for keys, stage in found if stage in ("written again", "end")} == {tuple(ALL)}


def test_that_a_failure_is_forgotten_would_be_noticed_here(recording: Recording, tmp_path: Path) -> None:
    run(recording, FAILS)
    run(recording, GOES_ON, "forgetful")
    assert not all(is_right(path) for path, _ in images(recording, tmp_path))


def is_right(path: str) -> bool:
    try:
        return keys_in_next_boot(path) in (COVERED, ALL, sorted([*ALL, b"even later"]))
    except (AssertionError, errors.StoreError):
        return False


def test_what_the_log_has_acknowledged_before_its_sync_failed_is_there_whatever_is_rewritten(
    recording: Recording, tmp_path: Path
) -> None:
    run(recording, FAILS_TO_LOG)
    run(recording, GOES_ON, "as usual")
    run(recording, REWRITES)
    found = [keys_in_next_boot(path) for path, _ in images(recording, tmp_path, f"{NAME}-log")]
    assert [keys for keys in found if keys not in (COVERED, sorted([*COVERED, b"refused"]))] == []


def test_copy_that_a_power_failure_leaves_is_complete_and_so_is_the_store(recording: Recording, tmp_path: Path) -> None:
    run(recording, COPIES)
    for path, stage in images(recording, tmp_path, f"{NAME}-lock"):
        assert keys_in_next_boot(path) == COVERED, stage
        for copy, since in (("salvaged", ("salvaged", "backed up", "end")), ("backup", ("backed up", "end"))):
            assert os.path.exists(f"{path}-{copy}") or stage not in since
            if os.path.exists(f"{path}-{copy}"):
                assert keys_in_next_boot(f"{path}-{copy}") == COVERED, stage
