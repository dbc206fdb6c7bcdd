"""From one store to another: all of it, with the time that is left; again and during writes the union, newest first."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import LMDBStore, open_backend, open_store
from lmdbresults.app import Request
from lmdbresults.backends.store import StoreBackend
from lmdbresults.copying import copy, verify
from lmdbresults.copying.items import GROUP, RESULT, VALUE, Item, wins
from lmdbresults.copying.sides import Merged
from lmdbresults.copying.stores import StoreSource, StoreTarget
from lmdbresults.record import RECORD_VERSION, Payload, TaskRecord
from lmdbresults.results import AsyncResult, GroupResult
from tests.support.celery_needed import FULL

#: Results that are copied while the copy is killed.
MANY = 20_000 if FULL else 3_000


@pytest.fixture
def one(tmp_path: Path) -> Iterator[LMDBStore]:
    with open_store(tmp_path / "one.lmdb", durability="none") as store:
        yield store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[LMDBStore]:
    with open_store(tmp_path / "other.lmdb", durability="none") as store:
        yield store


def record(state: str = "SUCCESS", date: str | None = "2026-01-02T00:00:00+00:00", text: bytes = b"1") -> bytes:
    nothing = (None,) * 7
    return TaskRecord(
        RECORD_VERSION, state, date, *nothing, None, Payload("application/json", "utf-8", None, text)
    ).pack()


def test_what_others_write_to_each_time_is_reported_and_the_rest_is_copied(one: LMDBStore, other: LMDBStore):
    def replace_many(writes: Any) -> list[bool]:
        """As of a server where another client is always faster with one key."""
        for key, _, value, ttl in writes:
            if key != b"contended":
                other.set(key, value, ttl)
        return [key != b"contended" for key, *_ in writes]

    for key in (b"contended", b"calm"):
        one.set(key, b"value")
    other.replace_many = replace_many  # type: ignore[attr-defined]
    summary = copy(StoreSource(one), StoreTarget(other))
    assert summary.merged == {VALUE: Merged(1)}
    (problem,) = summary.problems
    assert problem.startswith("value contended: ")
    assert other.get(b"calm") == b"value"


def test_everything_is_copied_with_the_time_that_is_left(one: LMDBStore, other: LMDBStore):
    for number in range(1200):
        one.set(b"celery-task-meta-%d" % number, record(text=b"%d" % number), 50.0 + number)
    one.set(b"celery-task-meta-for-ever", record())
    one.set(b"celery-taskset-meta-g", b"a group", 70.0)
    one.set(b"key of an application", b"x" * 100_000, 80.0)
    summary = copy(StoreSource(one), StoreTarget(other))
    assert summary.merged == {RESULT: Merged(1201), GROUP: Merged(1), VALUE: Merged(1)}
    assert sorted(other.scan()) == sorted(one.scan())
    keys = [key for key, _ in one.scan()]
    assert other.ttls(keys) == pytest.approx(one.ttls(keys), abs=1.0)
    assert list(verify(StoreSource(one), StoreTarget(other))) == []
    again = copy(StoreSource(one), StoreTarget(other))
    assert again.merged == {RESULT: Merged(0, 1201), GROUP: Merged(0, 1), VALUE: Merged(0, 1)}


NEWER, OLDER = "2026-01-02T00:00:00+00:00", "2026-01-01T23:00:00-05:00"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (record("FAILURE", NEWER), record("STARTED", None)),
        (record("SUCCESS", OLDER), record("FAILURE", NEWER)),
        (record("FAILURE", OLDER), record("FAILURE", NEWER)),
    ],
    ids=["an ended one over a running one", "a success over all", "the later one, whatever its time zone"],
)
def test_of_two_versions_the_newest_wins_in_either_direction(first: bytes, second: bytes):
    one, other = Item(RESULT, b"x", first, 9e9), Item(RESULT, b"x", second, 9e9)
    assert wins(one, other)
    assert not wins(other, one)


def test_of_two_running_versions_the_one_that_was_stored_later_wins():
    early, late = Item(RESULT, b"x", record("STARTED", None), 100.0), Item(RESULT, b"x", record("RETRY", None), 200.0)
    assert wins(late, early)
    assert not wins(early, late)


def test_a_dry_run_writes_nothing_and_says_what_a_copy_would(one: LMDBStore, other: LMDBStore):
    one.set(b"celery-task-meta-a", record())
    dry = copy(StoreSource(one), StoreTarget(other), dry_run=True)
    assert list(other.scan()) == []
    assert copy(StoreSource(one), StoreTarget(other)).merged == dry.merged


def test_results_that_ended_before_since_are_left_out(one: LMDBStore, other: LMDBStore):
    one.set(b"celery-task-meta-old", record(date="2026-01-01T00:00:00+00:00"))
    one.set(b"celery-task-meta-new", record(date="2026-01-03T00:00:00+00:00"))
    one.set(b"celery-task-meta-running", record("STARTED", None))
    moment = 1767312000.0  # 2026-01-02
    assert copy(StoreSource(one), StoreTarget(other), since=moment).older == 1
    assert [key for key, _ in other.range()] == [b"celery-task-meta-new", b"celery-task-meta-running"]


def test_with_since_a_result_that_cannot_be_read_is_copied_as_it_is(one: LMDBStore, other: LMDBStore):
    key = b"celery-task-meta-damaged"
    one.set(key, b"no record", 60.0)
    assert copy(StoreSource(one), StoreTarget(other), since=0.0).items == 1
    assert other.get(key) == b"no record"
    assert list(verify(StoreSource(one), StoreTarget(other), since=0.0)) == []


def test_what_is_written_meanwhile_on_both_sides_ends_in_the_union(one: LMDBStore, other: LMDBStore):
    is_over = threading.Event()

    def write(store: LMDBStore, name: str) -> None:
        number = 0
        while not is_over.is_set() or number < 50:
            store.set(f"celery-task-meta-{name}-{number}".encode(), record(text=b"%d" % number))
            store.set(f"celery-task-meta-both-{number}".encode(), record(text=name.encode()), keep_prefix=b"\x9c")
            number += 1

    writers = [threading.Thread(target=write, args=each) for each in ((one, '"one"'), (other, '"other"'))]
    for writer in writers:
        writer.start()
    for _ in range(3):
        copy(StoreSource(one), StoreTarget(other), batch=50)
    is_over.set()
    for writer in writers:
        writer.join()
    before = dict(other.scan())
    copy(StoreSource(one), StoreTarget(other))
    after = dict(other.scan())
    assert after.keys() == before.keys() | dict(one.scan()).keys()
    assert {key: after[key] for key in before} == before  # a success is never replaced


def test_a_copy_that_is_killed_ten_times_and_repeated_is_equal(tmp_path: Path, one: LMDBStore):
    one.update(lambda txn: [txn.set(b"celery-task-meta-%d" % n, record(text=b"%d" % n), 1e6) for n in range(MANY)])
    target, choose, kills = tmp_path / "target.lmdb", random.Random(19), 0
    command = [sys.executable, "-c", COPY, one.options.path, str(target)]
    while kills < 10:
        with subprocess.Popen([*command, str(choose.randrange(1, 3 + kills))], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            if process.stdout.readline() != b"batch\n":
                break
            os.kill(process.pid, signal.SIGKILL)
        kills += 1
    assert kills == 10
    with open_store(target, durability="none") as store:
        assert len(list(store.scan())) < MANY, "every copy was killed before its end"
        copy(StoreSource(one), StoreTarget(store))
        assert sorted(store.scan()) == sorted(one.scan())
        assert store.check() == []


#: Copies in small batches, and says so after some of them, then waits to be killed.
COPY = """
import sys, time
from lmdbresults import open_store
from lmdbresults.copying import copy
from lmdbresults.copying.stores import StoreSource, StoreTarget
source, target, batches = sys.argv[1:]
count = 0
def progress(done, total):
    global count
    count += 1
    if count == int(batches):
        print("batch", flush=True)
        time.sleep(600)
copy(StoreSource(open_store(source, durability="none")), StoreTarget(open_store(target, durability="none")),
     progress=progress, batch=100)
"""


# -- chords ------------------------------------------------------------------------------------------------------------


def test_an_open_chord_moves_whole_and_ends_where_it_is(tmp_path: Path):
    ran: list[object] = []
    backends = []
    for name in ("one", "other"):
        backend = open_backend(tmp_path / f"{name}.lmdb", durability="none")
        backend.app.task(ran.append, name="body")
        backends.append(backend)
    old, new = backends
    header = [AsyncResult(each, old) for each in "abc"]
    nested = GroupResult("inner", header[1:], old)
    old.apply_chord(("chord", [header[0], nested]), old.app.signature("body").set(task_id="body"))
    _return(old, "c", 3, 2)
    assert _differences(old, new) == ["result c: it is missing", "chord chord: it is missing"]
    for _ in range(2):  # repeating it changes nothing
        assert copy(StoreSource(old.store), StoreTarget(new.store)).problems == []
    assert _differences(old, new) == []
    _return(new, "a", 1, 0)
    _return(old, "b", 2, 1)  # by a worker that has the file still
    assert "chord chord: of 2 parts that have returned, some are missing" in _differences(old, new)
    assert ran == []
    copy(StoreSource(old.store), StoreTarget(new.store))
    new.chords.recover(now=True)
    assert ran == [[1, [2, 3]]]
    assert copy(StoreSource(old.store), StoreTarget(new.store)).chords == 0
    assert _differences(old, new) == []  # it has ended there
    for backend in backends:
        backend.process_cleanup()


def _differences(one: StoreBackend, other: StoreBackend) -> list[str]:
    return list(verify(StoreSource(one.store), StoreTarget(other.store)))


def _return(backend: object, id_: str, value: object, index: int) -> None:
    chord = {"task": "body", "options": {"task_id": "body"}, "args": [], "kwargs": {}, "chord_size": 3}
    request = Request(id=id_, group="chord", group_index=index, chord=chord)
    backend.mark_as_done(id_, value, request)
