"""The benchmarks run, and check what they measure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATIENCE

pytest.importorskip("celery")
pytest.importorskip("rich")

ROOT = Path(__file__).parent.parent


def test_the_plain_backend_is_measured_beside_the_bare_transactions(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["--rounds", "1", "--existing", "10", "--json", report]
    command = [sys.executable, "-m", "benchmarks.plain_backend", *arguments]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=True)
    results = json.loads(report.read_text())["results"]
    assert results.keys() == {"store", "get"}
    for rows in results.values():
        assert [row["peer"] for row in rows] == ["ours", "bare, same puts", "bare, record only"]
        assert all(row["median"] > 0 for row in rows)


def test_waking_is_measured_beside_redis_and_a_bare_datagram(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.wakeups", "--rounds", "1", "--idle", "0.1", "--json", report]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=True)
    results = json.loads(report.read_text())["results"]
    assert results.keys() == {"commit to awake", "call to awake", "AsyncResult.get()"}
    for rows in results.values():
        assert [row["peer"] for row in rows] == ["ours", "Redis", "limit"]
        assert all("missing" in row or row["median"] > 0 for row in rows)


def test_chords_of_all_sizes_are_measured_beside_redis(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.chords", "--rounds", "1", "--largest", "100", "--json", report]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=True)
    found = json.loads(report.read_text())
    assert found["results"].keys() | found["missing"].keys() == {"plain", "Celery", "Redis"}
    assert found["missing"].keys() <= {"Redis"}
    for rows in found["results"].values():
        assert [row["size"] for row in rows] == [10, 100]
        assert all(0 < row["opening"] + row["end"] < row["whole"] for row in rows)
