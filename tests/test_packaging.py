"""The source distribution can test itself, the wheel is typed and small, the index page has no dead links."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import lmdbresults

pytest.importorskip("setuptools")

ROOT = Path(__file__).parent.parent
NOT_SOURCE = (".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
BUILD = """
import os, sys
source, target = sys.argv[1:]  # before setuptools replaces them
os.chdir(source)
from setuptools.build_meta import build_sdist, build_wheel
build_sdist(target)
build_wheel(target)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution and the wheel, built from a copy of this tree."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    command = [sys.executable, "-c", BUILD, source, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def test_the_source_distribution_has_tests_docs_and_everything_that_they_use(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("tests", "docs", "benchmarks", "examples", "lmdbresults", "site", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    expected = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    expected |= {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "pyproject.toml",
        "setup.cfg",
        "setup.py",
    }
    assert expected - found == set()


def test_the_wheel_has_the_whole_package_its_license_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
    files = [path for path in (ROOT / "lmdbresults").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= set(names)  # with py.typed, templates, styles
    assert any(name.endswith("/LICENSE") for name in names)
    roots = {name.partition("/")[0].partition("-")[0] for name in names}
    assert roots == {"lmdbresults", "lmdbresults_pytest.py", "lmdbresults_scheme.py"}


def test_the_text_of_the_package_index_has_the_version_and_no_relative_links(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    assert metadata["Version"] == lmdbresults.__version__
    text = str(metadata.get_payload())
    assert "lmdbresults" in text
    assert [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")] == []
