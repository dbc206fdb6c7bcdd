"""What a store holds after a simulated power cut: exactly what its durability promises.

Sixty images each; with LMDBRESULTS_FULL=1 six hundred. The command of power_cut.py makes as many as are wanted.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.crash.history import History
from tests.crash.power_cut import Outcome, Simulation, simulate, table
from tests.crash.workload import record

IMAGES = 600 if os.environ.get("LMDBRESULTS_FULL") == "1" else 60

OPTIONS = {"checkpoint_interval": 0.05, "checkpoint_bytes": 1 << 20}


def cut(
    place: Path, durability: str, images: int = 24, module: str = "tests.crash.writer", **rest: Any
) -> list[Outcome]:
    """Record a store and return what becomes of it in power cuts."""
    options = {**OPTIONS, "durability": durability}
    simulation = Simulation(place, options, **rest)
    try:
        return list(simulation.run(record(place, 7, options, module=module), images, 7))
    finally:
        simulation.close()


@pytest.mark.timeout(60 + 3 * IMAGES)
@pytest.mark.parametrize("durability", ["checkpoint", "commit", "mixed"])
def test_every_image_holds_exactly_what_is_promised(
    tmp_path: Path, durability: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = list(simulate(tmp_path, durability, IMAGES, seed=1))
    with capsys.disabled():
        print(f"\npower cuts, {durability}:\n{table(outcomes)}")
    assert [outcome for outcome in outcomes if outcome.verdict.kind != "consistent"] == []
    assert len(outcomes) > IMAGES


@pytest.mark.timeout(60 + 3 * IMAGES)
def test_without_durability_damage_is_told_and_nothing_wrong_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = list(simulate(tmp_path, "none", IMAGES, seed=1))
    with capsys.disabled():
        print(f"\npower cuts, none:\n{table(outcomes)}")
    assert {outcome.verdict.kind for outcome in outcomes} <= {"consistent", "error"}
    assert all(
        outcome.verdict.detail.startswith("FileDamaged") for outcome in outcomes if outcome.verdict.kind == "error"
    )


def test_the_workload_does_all_that_is_judged(tmp_path: Path) -> None:
    counts = History(record(tmp_path, 3, {**OPTIONS, "durability": "checkpoint"}).events()).counts()
    assert counts["transactions"] > 100
    assert counts["single writes"] > 50
    assert counts["flushes"] > 1
    assert counts["checkpoints"] > 5


# -- that the simulation can fail -----------------------------------------------------------------------------------


def are_noticed(outcomes: list[Outcome]) -> bool:
    return any(outcome.verdict.kind != "consistent" for outcome in outcomes)


@pytest.mark.parametrize("ignored", ["results.lmdb", "-checkpoint"])
@pytest.mark.parametrize("durability", ["checkpoint", "commit"])
def test_a_disk_that_ignores_syncs_is_noticed(tmp_path: Path, durability: str, ignored: str) -> None:
    assert are_noticed(cut(tmp_path, durability, ignores_sync=[ignored]))


def test_checkpoints_whose_pages_are_used_again_are_noticed(tmp_path: Path) -> None:
    assert are_noticed(cut(tmp_path, "checkpoint", module="tests.crash.careless_writer"))
