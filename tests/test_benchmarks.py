"""The benchmarks run at a tiny size and find plausible rows; the published docs match the published figures."""

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("celery")
pytest.importorskip("click")

from click.testing import CliRunner

from benchmarks import __main__ as suite
from benchmarks import bench, compare, front, report, rows, scenarios
from benchmarks.bench import SCENARIOS
from benchmarks.peers import frameworks
from benchmarks.pictures import charts
from benchmarks.rows import BARE, CLASSES, OWN, Row, Run, Section
from benchmarks.scenarios.broker import round_trips

#: Celery's Redis backend uses methods that redis-py has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")

ROOT = Path(__file__).parent.parent
#: Scenarios that must have a row of bare LMDB.
WITH_BARE = {
    "steady",
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
    "disk",
}


def test_every_scenario_is_imported_and_has_a_title():
    assert len(SCENARIOS) >= 18
    assert all(each.title and not each.title.endswith(".") for each in SCENARIOS.values())
    modules = {path.stem for path in (ROOT / "benchmarks" / "scenarios").glob("*.py")} - {"__init__"}
    assert modules <= set(vars(scenarios))


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_finds_plausible_rows(name: str) -> None:
    section = SCENARIOS[name].measured("tiny", 1, lambda text: None)
    assert any(row.peer.startswith(OWN) for row in section.rows)
    if name in WITH_BARE:
        assert BARE in {row.peer for row in section.rows}
    for row in section.rows:
        assert row.durability in CLASSES
        assert row.configuration
        assert row.missing or row.median is not None
        if row.p99 is not None:
            assert 0 < row.median <= row.p90 <= row.p99 <= row.maximum
        if row.peer == OWN and row.to_own is not None:
            assert row.to_own == 1
    assert len({row.place for row in section.rows}) == len(section.rows)
    assert report.section_table(section).count("\n") > len(section.rows)


def test_a_peer_that_is_not_installed_becomes_a_row_that_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    section = SCENARIOS["groups"].measured("tiny", 1, lambda text: None)
    reasons = {row.missing for row in section.rows if row.peer == "Redis"}
    assert reasons == {"not installed: redis-server"}
    assert "not installed: redis-server" in report.section_table(section)


HEADER = {"date": "some day", "machine": "some", "load": "some", "files on": "some"}


def made_up(factor: float = 1.0) -> Run:
    def row(peer: str, median: float, **more: float) -> Row:
        return Row(work="store", peer=peer, configuration="default", durability="kill", median=median, **more)

    own = row(OWN, 40.0 * factor, looks=[0.0, 0.1], to_own=1.0, to_bare=4.0 * factor)
    others = row("Redis", 400.0, to_own=10.0 / factor, to_bare=40.0), row(BARE, 10.0, to_own=0.25 / factor, to_bare=1.0)
    return Run(HEADER, {"mode": "short"}, [Section(name="store", title="Store", rows=(own, *others))])


def test_runs_are_compared_by_the_ratio_to_bare_lmdb():
    found = compare.changes(made_up(), made_up(factor=2.0))
    assert [(change.row.peer, change.factor) for change in found] == [(OWN, 2.0)]
    assert "1 of 1 rows" in compare.comparison(found, tolerance=1.5)
    assert "0 of 1 rows" in compare.comparison(found, tolerance=2.5)


def test_a_slower_machine_is_not_a_regression():
    run = made_up()
    slow = tuple(replace(row, median=row.median * 7) for row in run.sections[0].rows)
    found = compare.changes(made_up(), Run(run.header, run.settings, [replace(run.sections[0], rows=slow)]))
    assert [change.factor for change in found] == [1.0]


def test_runs_without_common_rows_cannot_be_compared():
    other = Run({}, {}, [replace(made_up().sections[0], name="get")])
    with pytest.raises(ValueError, match="in common"):
        compare.changes(made_up(), other)


def test_a_run_is_the_same_after_writing_and_reading(tmp_path):
    rows.write(tmp_path / "run.json", made_up())
    assert rows.read(tmp_path / "run.json") == made_up()


def test_compare_exits_with_1_if_lmdbresults_has_become_slower(tmp_path, monkeypatch):
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


def test_compare_refuses_a_run_of_other_sizes(tmp_path):
    rows.write(tmp_path / "base.json", made_up())
    called = CliRunner().invoke(suite.main, ["--full", "--only", "idle", "--compare", str(tmp_path / "base.json")])
    assert called.exit_code == 2
    assert "--full for both" in called.output


def test_a_scenario_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    def fail(self: object, *args: object) -> Section:
        raise RuntimeError("made up")

    monkeypatch.setitem(SCENARIOS, "store", type("Fake", (), {"measured": fail})())
    called = CliRunner().invoke(
        suite.main, ["--tiny", "--only", "store", "--only", "idle", "--json", str(tmp_path / "run.json")]
    )
    assert called.exit_code == 1
    assert [section.name for section in rows.read(tmp_path / "run.json").sections] == ["idle"]


def test_the_command_prints_tables():
    command = [sys.executable, "-m", "benchmarks", "--tiny", "--only", "bytes"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True).stdout
    assert "vs bare LMDB" in output
    assert "diskcache" in output


def test_the_published_docs_match_the_published_figures():
    assert report.DOCS.read_text() == report.docs(report.published())


def published_run() -> Run:
    return rows.merged([rows.read(source) for source in report.published()])


def test_the_published_pictures_match_the_published_figures():
    for path, text in report.pictures(published_run()).items():
        assert path.read_text() == text, f"run python -m benchmarks.report: {path}"


def test_a_run_without_the_rows_of_a_picture_has_no_such_picture():
    drawn = charts.drawn(made_up())
    assert "celery" not in drawn


def trips(own: float | None, other: float) -> Run:
    def row(peer: str, median: float | None) -> Row:
        missing = "" if median else "not within 5 s"
        return Row(work="round trip", peer=peer, configuration="", durability="bounded", median=median, missing=missing)

    found = (row(f"{OWN}, checkpoint", own), row("Redis, everysec", other), row("SQLite", 800_000.0))
    return Run(HEADER, {"mode": "short"}, [Section(name="broker", title="Broker", rows=found)])


def test_the_title_of_a_picture_says_its_figures():
    assert (
        charts.drawn(trips(1_700.0, 3_100.0))["frameworks"].title == "One task, there and back: 1.7 ms against 3.1 ms"
    )


def test_a_picture_says_that_a_bar_is_cut_and_why_there_is_none():
    assert charts.CUT in charts.drawn(trips(1_700.0, 3_100.0))["celery"].render()
    assert charts.CUT not in charts.drawn(trips(100_000.0, 300_000.0))["celery"].render()
    assert "celery" not in charts.drawn(trips(None, 3_100.0))


def test_a_new_scenario_needs_no_place_in_the_order(monkeypatch):
    first, second = list(SCENARIOS)[:2]
    monkeypatch.setattr(
        bench, "SCENARIOS", {"new": SCENARIOS[first], first: SCENARIOS[first], second: SCENARIOS[second]}
    )
    bench.arrange([second, first])
    assert list(bench.SCENARIOS) == [second, first, "new"]


@pytest.mark.parametrize("peer", frameworks.EVERY, ids=lambda peer: peer.name)
def test_other_frameworks_return_what_their_tasks_return(peer, tmp_path):
    with TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:  # pytest's path is too long for a socket
        peer.serve(Path(folder), stack)
        client = peer.open(Path(folder))
        stack.enter_context(client.worker())
        assert len(round_trips(client, 1)) == 1


def test_results_in_the_database_of_django_are_those_that_were_stored(tmp_path):
    code = (
        "import sys; from contextlib import ExitStack; from pathlib import Path; from random import Random\n"
        "from benchmarks.peers import base, django\n"
        "with ExitStack() as stack:\n"
        "    django.RESULTS.serve(Path(sys.argv[1]), stack)\n"
        "    base.check(django.RESULTS.open(Path(sys.argv[1])), Random(1))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, timeout=240, check=True)


def test_the_scenarios_of_a_later_run_replace_those_of_the_first():
    later = Run({**HEADER, "machine": "another"}, {}, [replace(made_up(factor=2.0).sections[0], name="store")])
    run = rows.merged([made_up(), later])
    assert run.sections[0].rows == later.sections[0].rows
    assert run.sections[0].about == {"machine": "another"}


def test_runs_on_one_machine_have_one_header_with_all_their_dates():
    later = Run({**HEADER, "date": "another day"}, {}, [replace(made_up().sections[0], name="get")])
    run = rows.merged([made_up(), later])
    assert run.header["date"] == "some day; another day"
    assert not any(section.about for section in run.sections)


def test_the_readme_matches_the_published_figures():
    text = report.README.read_text()
    assert text == front.filled(text, published_run())


def test_a_readme_without_a_place_for_the_figures_is_not_changed():
    with pytest.raises(ValueError, match="has no"):
        front.filled("# No place\n", made_up())
