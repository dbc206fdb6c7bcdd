"""Every page that a user follows: its files, commands and programs, from top to bottom, print what the page shows."""

import os
from pathlib import Path

import pytest

from tests.support.pages import ROOT, follow, missing_packages

pytest.importorskip("celery")

DOCS = ROOT / "docs"
#: Pages with a test of their own, or without commands.
ELSEWHERE = {"guides/testing.md", "guides/systemd.md", "guides/containers.md"}
PAGES = [
    ROOT / "README.md",
    DOCS / "cli.md",
    *sorted((DOCS / "start").glob("*.md")),
    *sorted((DOCS / "guides").glob("*.md")),
]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if f"{page.parent.name}/{page.name}" not in ELSEWHERE], ids=lambda page: page.stem
)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path):
    missing = missing_packages(page)
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"not installed: {', '.join(missing)}")
    follow(page, tmp_path)
