"""Whether the owner of a claim is alive."""

import os

import pytest

from lmdbresults.process import identity
from lmdbresults.process.identity import NO_OWNER, current_owner, lease
from tests.support.processes import child


def test_a_zombie_is_not_alive() -> None:
    with child(os.getpid) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        zombie = current_owner()._replace(pid=process.pid, started=str(int(current_owner().started or 0) + 1))
        assert not zombie.is_alive()
    assert not zombie.is_alive()
    assert current_owner().is_alive()


@pytest.mark.skipif(not current_owner().started, reason="this system has no start times")
@pytest.mark.parametrize("other", [{"started": "1"}, {"boot": "another"}])
def test_another_process_with_the_same_pid_is_not_the_owner(other: dict[str, str]) -> None:
    assert not current_owner()._replace(**other).is_alive()


def test_no_owner_is_never_alive() -> None:
    assert not NO_OWNER.is_alive()


def test_a_process_of_unknown_start_time_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = current_owner()
    monkeypatch.setattr(identity, "_start_time", lambda pid: "")
    assert mine.is_alive()


def test_a_lease_lives_until_its_block_ends_whatever_blocks_are_nested_in_it() -> None:
    with lease():
        outer = current_owner()
        with lease():
            inner = current_owner()
            assert inner.is_alive()
        assert (inner.is_alive(), current_owner() == outer, outer.is_alive()) == (False, True, True)
    assert not outer.is_alive()
    assert current_owner().is_alive()
