"""What a store holds after a simulated power cut: exactly what its durability promises.

Sixty images each; with LMDBRESULTS_FULL=1 six hundred. The command of power_cut.py makes as many as are wanted.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.crash.history import History
from tests.crash.power_cut import Simulation, simulate, table
from tests.crash.recording import Recording
from tests.crash.workload import record

IMAGES = 600 if os.environ.get("LMDBRESULTS_FULL") == "1" else 60

OPTIONS = {"checkpoint_interval": 0.05, "checkpoint_bytes": 1 << 20}


@pytest.fixture(scope="module", params=["checkpoint", "commit"])
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recording, dict[str, Any]]:
    """A store that was recorded once for several tests, and its options."""
    options = {**OPTIONS, "durability": request.param}
    return record(tmp_path_factory.mktemp("recorded"), 7, options), options


def are_noticed(place: Path, recording: Recording, options: dict[str, Any], ignores_sync: Iterable[str] = ()) -> bool:
    """Return whether one of some images is not as it should be."""
    simulation = Simulation(place, options, ignores_sync)
    try:
        return any(outcome.verdict.kind != "consistent" for outcome in simulation.run(recording, 40, 7))
    finally:
        simulation.close()


@pytest.mark.timeout(480 + 3 * IMAGES)
@pytest.mark.parametrize("durability", ["checkpoint", "commit", "mixed"])
def test_every_image_holds_exactly_what_is_promised(
    tmp_path: Path, durability: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = list(simulate(tmp_path, durability, IMAGES, seed=1))
    with capsys.disabled():
        print(f"\npower cuts, {durability}:\n{table(outcomes)}")
    assert [outcome for outcome in outcomes if outcome.verdict.kind != "consistent"] == []
    assert len(outcomes) > IMAGES


@pytest.mark.timeout(480 + 3 * IMAGES)
def test_without_durability_damage_is_told_and_nothing_wrong_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = list(simulate(tmp_path, "none", IMAGES // 2, seed=1))
    with capsys.disabled():
        print(f"\npower cuts, none:\n{table(outcomes)}")
    assert {outcome.verdict.kind for outcome in outcomes} <= {"consistent", "error"}
    assert all(
        outcome.verdict.detail.startswith("FileDamaged") for outcome in outcomes if outcome.verdict.kind == "error"
    )


def test_the_workload_does_all_that_is_judged(recorded: tuple[Recording, dict[str, Any]]) -> None:
    counts = History(recorded[0].events()).counts()
    assert counts["transactions"] > 100
    assert counts["single writes"] > 50
    assert counts["flushes"] > 1
    assert counts["checkpoints"] > 5


# -- that the simulation can fail -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ignored", ["results.lmdb", "-checkpoint", "-log"])
def test_a_disk_that_ignores_syncs_is_noticed(
    tmp_path: Path, recorded: tuple[Recording, dict[str, Any]], ignored: str
) -> None:
    if ignored == "-log" and recorded[1]["durability"] != "commit":
        return  # there is none
    assert are_noticed(tmp_path, *recorded, ignores_sync=[ignored])


def test_checkpoints_whose_pages_are_used_again_are_noticed(tmp_path: Path) -> None:
    options = {**OPTIONS, "durability": "checkpoint"}
    assert are_noticed(tmp_path, record(tmp_path, 7, options, module="tests.crash.careless_writer"), options)
