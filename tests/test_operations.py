"""docs/operations.md and its neighbours: commands print the shown output, configurations are valid, names exist."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lmdbresults
from lmdbresults import errors, open_store

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "operations.md").read_text()
GUIDES = ROOT / "docs" / "guides"
FOLDERS = ("/var/lib/app", "/var/backups")


def blocks(kind: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", text, flags=re.DOTALL)


def commands_and_outputs() -> Iterator[tuple[str, str]]:
    """Yield each block of commands with the output shown below it, or ""."""
    pattern = r"```(?:sh|python)\n(.*?)```(?:\n\n```text\n(.*?)```)?"
    yield from re.findall(pattern, TEXT, flags=re.DOTALL)


def masked(output: str) -> str:
    """Return output without figures and columns, which differ between machines and file systems."""
    without_times = re.sub(r"\b[\d.]+ (ms|s|min|h|d)\b", "TIME", output)
    return re.sub(r" +", " ", re.sub(r"\d+", "N", without_times))


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], str]:
    """Run a block with its folders moved into a temporary one, and with the command of this interpreter."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "lmdbresults").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmdbresults "$@"\n')
    (tools / "lmdbresults").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(block: str) -> str:
        for folder in FOLDERS:
            block = block.replace(folder, f"{tmp_path}{folder}")
        command = [sys.executable, "-c", block] if "import " in block else ["sh", "-e", "-c", block]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
        assert done.returncode == 0, block + done.stdout + done.stderr
        return done.stdout.replace(str(tmp_path), "")

    (tmp_path / "var" / "lib").mkdir(parents=True)
    (tmp_path / "var" / "backups").mkdir()
    return run


def test_every_block_runs_and_prints_the_shown_output(run, tmp_path: Path):
    for block, shown in commands_and_outputs():
        assert masked(run(block)) == masked(shown), block
    path = tmp_path / "var/lib/app/results.lmdb"
    for copy in (path, path.with_name("salvaged.lmdb"), path.parent / "before" / "results.lmdb"):
        with open_store(copy) as store:
            assert store.get(b"invoice:7") == b"paid"


def test_every_named_command_exists(run):
    named = set(re.findall(r"lmdbresults ([a-z]+)", "".join(blocks("sh"))))
    assert named == {"backup", "check", "queues", "rewrite", "salvage", "stats"}
    for name in named:
        assert "Usage" in run(f"lmdbresults {name} --help")


def test_the_systemd_unit_is_valid(tmp_path: Path):
    (unit,) = blocks("ini", (GUIDES / "systemd.md").read_text())
    parser = configparser.ConfigParser(interpolation=None, strict=False)  # Environment may be repeated
    parser.read_string(unit)
    assert parser["Service"]["StateDirectory"] == "app"
    if shutil.which("systemd-analyze"):
        (tmp_path / "app.service").write_text(
            unit.replace("/opt/app/bin/celery", "/bin/true").replace("User=app\n", "")
        )
        command = ["systemd-analyze", "verify", "--man=no", tmp_path / "app.service"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert "app.service" not in done.stderr


def test_the_containers_share_pid_namespace_volumes_and_user():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load(*blocks("yaml", (GUIDES / "containers.md").read_text()))["services"]
    assert services["web"]["pid"] == "service:worker"
    assert services["web"]["volumes"] == services["worker"]["volumes"]
    assert services["web"]["user"] == services["worker"]["user"]


def test_every_named_error_exists():
    text = TEXT + (ROOT / "docs" / "faq.md").read_text().split("## Messages")[0]
    named = set(re.findall(r"`([A-Z]\w+[a-z])`", text))
    assert named <= {*errors.__all__, *lmdbresults.__all__}
