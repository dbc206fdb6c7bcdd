"""Fault points: a process is killed at the chosen one, once."""

import signal
from pathlib import Path

import pytest

from lmdbresults.faultpoints import POINTS, reached
from lmdbresults.testing import DIE_AT, DIE_FLAG, die_as_told, die_at
from tests.support.processes import Child, in_child


def pass_all(flag: Path, point: str) -> str:
    die_as_told({DIE_AT: point, DIE_FLAG: str(flag)})
    for each in POINTS:
        reached(each)
    return "alive"


@pytest.mark.parametrize("point", POINTS)
def test_only_the_first_process_is_killed_at_a_point(tmp_path: Path, point: str) -> None:
    flag = tmp_path / "flag"
    first = Child(pass_all, flag, point)
    first.wait()
    first.close()
    assert (first.status, flag.read_text()) == (-signal.SIGKILL, str(first.pid))
    assert in_child(pass_all, flag, point) == "alive"


def test_an_unknown_point_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown fault point 'nowhere'; known are: task ends, "):
        die_at("nowhere", tmp_path / "flag")


def test_no_point_is_set_by_default() -> None:
    die_as_told({})
    for point in POINTS:
        reached(point)
