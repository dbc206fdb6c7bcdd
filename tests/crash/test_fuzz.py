"""Damaged files, opened and read by processes of their own; see fuzz.py. The long form: LMDBRESULTS_FULL=1."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.fuzz import FORBIDDEN, HARMLESS, MEMORY, Case, cases, table
from tests.support.processes import FORKS_WITH_THREADS

FULL = os.environ.get("LMDBRESULTS_FULL") == "1"

pytestmark = [pytest.mark.timeout(3600), pytest.mark.filterwarnings(FORKS_WITH_THREADS)]


@pytest.fixture(scope="module")
def found() -> Iterator[list[Case]]:
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    yield list(cases(2000 if FULL else 104, 1, folder))
    shutil.rmtree(folder)


def test_no_damage_has_a_wrong_value_returned_or_hangs_or_raises_what_is_not_ours(found: list[Case]):
    assert [case for case in found if case.outcome in FORBIDDEN] == [], table(found)


def test_short_file_other_format_or_hostile_name_ends_no_process(found: list[Case]):
    assert [case for case in found if case.kind in HARMLESS and "crash" in case.told] == []


@pytest.mark.parametrize("kind", ["truncated", "another format"])
def test_such_files_are_refused(found: list[Case], kind: str):
    assert {case.outcome for case in found if case.kind == kind} == {"open refused"}


def test_a_hostile_name_is_as_good_as_any_or_too_long(found: list[Case]):
    assert {case.outcome for case in found if case.kind == "a hostile name"} <= {"no effect", "open refused"}


def test_what_says_where_the_checkpoint_was_is_not_needed_without_a_loss_of_power(found: list[Case]):
    assert {case.outcome for case in found if "checkpoint" in case.kind} == {"no effect"}


def test_verify_finds_whatever_came_of_damage(found: list[Case]):
    """But for one thing: by a bit of its number, the last commit may count as older than the one before."""
    others = [case for case in found if case.kind != "a hostile name" and case.outcome != "no effect"]
    unseen = [case for case in others if case.verified != "found"]
    assert [case for case in unseen if (case.kind, case.outcome) != ("bits flipped in meta pages", "stale value")] == []


def test_verifying_and_rescuing_a_damaged_file_never_dies_and_brings_nothing_that_was_not_written(found: list[Case]):
    bad = {"crash", *FORBIDDEN}
    assert [case for case in found if bad & set(case.salvaged) or bad & {case.verified}] == []
