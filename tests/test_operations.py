"""docs/operations.md: every command in it is run, every file in it read by whoever it is for, every name exists."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lmdbresults
from lmdbresults import errors, open_store
from tests.crash.damages import DAMAGES
from tests.crash.fuzz import OUTCOMES

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "operations.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def shell(tmp_path: Path):
    """Run lines as they stand in the text, with folders below a temporary one and this interpreter's command."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "lmdbresults").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmdbresults "$@"\n')
    (tools / "lmdbresults").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(lines: str) -> str:
        for folder in ("/var/lib/app", "/var/backups"):
            lines = lines.replace(folder, f"{tmp_path}{folder}")
        done = subprocess.run(
            ["sh", "-e", "-c", lines], capture_output=True, text=True, timeout=110, env=environment, check=False
        )
        assert done.returncode == 0, lines + done.stdout + done.stderr
        return done.stdout

    (tmp_path / "var" / "lib").mkdir(parents=True)
    (tmp_path / "var" / "backups").mkdir()
    return run


@pytest.mark.timeout(300)
def test_every_command_runs_in_the_order_of_the_text(shell, tmp_path: Path):
    make_folder, *others = blocks("sh")
    shell(make_folder)
    path = tmp_path / "var/lib/app/results.lmdb"
    with open_store(path) as store:
        store.set(b"key", b"value")
    said = "".join(map(shell, others))
    assert said.count("is sound") == 4
    assert "Nothing was lost." in said
    for copy in (path, path.with_name("rescued.lmdb"), path.parent / "before" / "results.lmdb"):
        with open_store(copy) as store:
            assert store.get(b"key") == b"value"


def test_every_command_that_is_named_exists(shell):
    named = set(re.findall(r"lmdbresults ([a-z]+)", "".join(blocks("sh"))))
    assert named == {"backup", "check", "rewrite", "salvage", "stats"}
    for name in named:
        assert "Usage" in shell(f"lmdbresults {name} --help")


def test_the_unit_is_one(tmp_path: Path):
    (unit,) = blocks("ini")
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(unit)
    assert parser["Service"]["StateDirectory"] == "app"
    if shutil.which("systemd-analyze"):
        (tmp_path / "app.service").write_text(
            unit.replace("/opt/app/bin/celery", "/bin/true").replace("User=app\n", "")
        )
        command = ["systemd-analyze", "verify", "--man=no", tmp_path / "app.service"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "app.service" not in done.stderr


def test_the_containers_share_what_they_have_to():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load(*blocks("yaml"))["services"]
    assert services["web"]["pid"] == "service:worker"
    assert services["web"]["volumes"] == services["worker"]["volumes"]
    assert services["web"]["user"] == services["worker"]["user"]


def test_every_error_that_is_named_exists():
    named = set(re.findall(r"`([A-Z]\w+[a-z])`", re.sub(r"`(KillMode|MemoryMax|LimitAS|Runtime\w+)[^`]*`", "", TEXT)))
    assert named <= {*errors.__all__, *lmdbresults.__all__}


def test_the_table_of_damage_has_every_kind_and_outcome():
    table = TEXT[TEXT.index("| | files |") :]
    assert all(f"| {kind} |" in table for kind in DAMAGES)
    assert all(f" {outcome} " in table.splitlines()[0] for outcome in OUTCOMES)
