"""Whether who holds a claim is alive."""

import os

import pytest

from lmdbresults.process import identity as owner
from lmdbresults.process.identity import NOBODY, holding, present_owner
from tests.support.processes import child


def test_a_process_is_alive_until_it_has_ended_whether_its_parent_has_noticed_or_not() -> None:
    with child(os.getpid) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        zombie = present_owner()._replace(pid=process.pid, started=str(int(present_owner().started or 0) + 1))
        assert not zombie.is_alive()
    assert not zombie.is_alive()
    assert present_owner().is_alive()


@pytest.mark.skipif(not present_owner().started, reason="this system does not tell when a process began")
@pytest.mark.parametrize("other", [{"started": "1"}, {"boot": "another"}])
def test_another_process_with_the_same_id_is_another_one(other: dict[str, str]) -> None:
    assert not present_owner()._replace(**other).is_alive()


def test_nobody_is_not_alive() -> None:
    assert not NOBODY.is_alive()


def test_a_process_whose_start_is_kept_secret_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = present_owner()
    monkeypatch.setattr(owner, "_started", lambda pid: "")
    assert mine.is_alive()


def test_what_a_block_held_dies_with_it_and_not_with_one_inside() -> None:
    with holding():
        outer = present_owner()
        with holding():
            inner = present_owner()
            assert inner.is_alive()
        assert (inner.is_alive(), present_owner() == outer, outer.is_alive()) == (False, True, True)
    assert not outer.is_alive()
    assert present_owner().is_alive()
