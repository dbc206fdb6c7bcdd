"""``lmdbresults doctor``: text for people, JSON for programs, and an exit status."""

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import run
from tests.support.redis_servers import redis_server
from tests.support.stores import filled


def test_doctor_prints_each_finding_with_its_cure(tmp_path: Path):
    path = filled(tmp_path / "results.lmdb", 5)
    path.chmod(0o666)
    lines = run("doctor", path, code=1).stdout.splitlines()
    assert lines[0] == str(path)
    assert any(line.startswith("error") and "permissions" in line for line in lines)
    assert any(line.strip().startswith("Cure: chmod o-rw") for line in lines)
    assert lines[-1].startswith("Things that are wrong, or could go wrong: ")


def test_doctor_prints_json_for_programs(tmp_path: Path):
    path = filled(tmp_path / "results.lmdb", 5)
    answer = json.loads(run("doctor", "--json", f"lmdb://{path}?durability=none", code=1).stdout)
    assert answer["path"] == str(path)
    assert {"subject": "processes", "level": "ok", "text": "No process has it open.", "cure": ""} in answer["findings"]


def test_doctor_refuses_a_url_that_the_application_could_not_use(tmp_path: Path):
    assert "durabilty" in run("doctor", f"lmdb://{tmp_path}/x.lmdb?durabilty=none", code=2).stderr


def test_doctor_examines_a_server(tmp_path: Path):
    pytest.importorskip("redis")
    with redis_server(tmp_path, "--appendonly", "yes") as server:
        done = run("doctor", server.url).stdout
        assert "Nothing is wrong here." in done
        assert "appendfsync everysec" in done
        server.call("CONFIG", "SET", "appendonly", "no")
        server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        done = run("doctor", server.url, code=1).stdout
        assert "appendonly yes" in done
        assert "noeviction" in done
    assert "error" in run("doctor", server.url, code=1).stdout
