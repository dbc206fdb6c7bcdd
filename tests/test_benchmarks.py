"""The benchmarks run at a tiny size and bring sane rows; what is published is what was measured. Nothing is timed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("celery")
pytest.importorskip("click")
pytest.importorskip("rich")

from click.testing import CliRunner

from benchmarks import __main__ as suite
from benchmarks import compare, publish, rows, scenarios, tables, targets
from benchmarks.bench import SCENARIOS
from benchmarks.rows import CLASSES, LIMIT, OURS, Row, Run, Section

#: Celery's Redis backend calls what redis-py would rather have called otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")

ROOT = Path(__file__).parent.parent
#: What must be there in any case, by scenario: ours, and the limit where the work has one.
WITH_LIMIT = {
    "store",
    "progress",
    "get",
    "plain",
    "bytes",
    "mixed",
    "large",
    "get_many",
    "wakeups",
    "sustained",
    "growth",
}
WITH_LIMIT |= {"disk"}


def test_every_scenario_is_imported_once_and_has_a_title():
    assert len(SCENARIOS) >= 18
    assert all(each.title and not each.title.endswith(".") for each in SCENARIOS.values())
    modules = {path.stem for path in (ROOT / "benchmarks" / "scenarios").glob("*.py")} - {"__init__"}
    assert modules <= set(vars(scenarios))


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_brings_sane_rows(name: str) -> None:
    section = SCENARIOS[name].measured("tiny", 1, lambda text: None)
    assert {OURS} <= {row.peer for row in section.rows}
    if name in WITH_LIMIT:
        assert LIMIT in {row.peer for row in section.rows}
    for row in section.rows:
        assert row.durability in CLASSES
        assert row.configuration
        assert row.missing or row.median is not None
        if row.p99 is not None:
            assert 0 < row.median <= row.p90 <= row.p99 <= row.maximum
            assert list(row.quantiles) == sorted(row.quantiles)
        if row.peer == OURS and row.to_ours is not None:
            assert row.to_ours == 1
    assert len({row.place for row in section.rows}) == len(section.rows)
    assert tables.of_section(section).rows


def test_a_peer_that_is_not_installed_is_a_row_that_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    section = SCENARIOS["groups"].measured("tiny", 1, lambda text: None)
    told = {row.missing for row in section.rows if row.peer == "Redis"}
    assert told == {"not installed: redis-server"}
    assert "not installed: redis-server" in {row[-1] for row in tables.of_section(section).rows}


HEADER = {"date": "some day", "machine": "some", "load": "some", "files on": "some"}


def made_up(factor: float = 1.0) -> Run:
    def row(peer: str, median: float, **more: float) -> Row:
        return Row(work="store", peer=peer, configuration="as it comes", durability="kill", median=median, **more)

    ours = row(OURS, 40.0 * factor, to_ours=1.0, to_limit=4.0 * factor)
    others = row("Redis", 400.0, to_ours=10.0 / factor, to_limit=40.0), row(LIMIT, 10.0, to_limit=1.0)
    return Run(HEADER, {"mode": "short"}, [Section(name="store", title="Store", rows=(ours, *others))])


def test_a_regression_is_found_by_the_ratio_to_the_limit_alone():
    found = compare.changes(made_up(), made_up(factor=2.0))
    assert [(change.row.peer, change.factor) for change in found] == [(OURS, 2.0)]
    assert compare.regressions(found, tolerance=1.5) == found
    assert compare.regressions(found, tolerance=2.5) == []


def test_a_slower_machine_is_no_regression():
    run = made_up()
    slow = tuple(replace(row, median=row.median * 7) for row in run.sections[0].rows)
    found = compare.changes(made_up(), Run(run.header, run.settings, [replace(run.sections[0], rows=slow)]))
    assert [change.factor for change in found] == [1.0]


def test_runs_with_nothing_in_common_are_not_called_equal():
    other = Run({}, {}, [replace(made_up().sections[0], name="get")])
    with pytest.raises(ValueError, match="in common"):
        compare.changes(made_up(), other)


def test_a_run_survives_being_written_and_read(tmp_path):
    rows.write(tmp_path / "run.json", made_up())
    assert rows.read(tmp_path / "run.json") == made_up()


def test_targets_are_judged_by_the_figures_of_the_run():
    outcomes = {outcome.work: outcome for outcome in targets.outcomes(made_up())}
    redis = outcomes["Celery classes, store, none against Redis on a Unix socket"]
    assert (redis.found, redis.verdict) == (10.0, "missed")
    assert outcomes["Celery classes, get uncached, against Redis"].verdict == "not measured"
    faster = targets.outcomes(made_up(factor=0.5))[0]
    assert (faster.found, faster.verdict) == (20.0, "met")


def test_the_command_fails_if_ours_has_lost_against_the_limit(tmp_path, monkeypatch):
    run = made_up(factor=3.0)
    fake = type("Fake", (), {"measured": lambda self, *args: run.sections[0]})()
    monkeypatch.setitem(SCENARIOS, "store", fake)
    base = tmp_path / "base.json"
    rows.write(base, made_up())
    called = CliRunner().invoke(suite.main, ["--only", "store", "--compare", str(base)])
    assert called.exit_code == 1
    assert "1 of 1" in called.output
    rows.write(base, run)
    called = CliRunner().invoke(suite.main, ["--only", "store", "--compare", str(base)])
    assert called.exit_code == 0, called.output


def test_a_run_of_other_sizes_is_not_compared(tmp_path):
    rows.write(tmp_path / "base.json", made_up())
    called = CliRunner().invoke(suite.main, ["--full", "--only", "idle", "--compare", str(tmp_path / "base.json")])
    assert called.exit_code == 2
    assert "--full to both" in called.output


def test_a_scenario_that_fails_leaves_the_others_and_the_json(tmp_path, monkeypatch):
    def fail(self: object, *args: object) -> Section:
        raise RuntimeError("made up")

    monkeypatch.setitem(SCENARIOS, "store", type("Fake", (), {"measured": fail})())
    called = CliRunner().invoke(
        suite.main, ["--tiny", "--only", "store", "--only", "idle", "--json", str(tmp_path / "run.json")]
    )
    assert called.exit_code == 1
    assert [section.name for section in rows.read(tmp_path / "run.json").sections] == ["idle"]


def test_the_command_runs_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "benchmarks", "--tiny", "--only", "bytes", "--plot", tmp_path]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "to limit" in told
    assert {path.name for path in tmp_path.iterdir()} >= {"ratios.png", "bytes-latency.png"}


def test_the_published_docs_are_what_the_published_figures_make():
    source = publish.newest()
    assert publish.DOCS.read_text() == publish.docs(rows.read(source), str(source.relative_to(ROOT)))


def test_the_table_of_the_readme_is_what_the_published_figures_make():
    text = publish.README.read_text()
    assert text == publish.readme(text, rows.read(publish.newest()))


def test_a_readme_without_a_place_for_the_table_is_not_touched():
    with pytest.raises(ValueError, match="has no"):
        publish.readme("# No place\n", made_up())
