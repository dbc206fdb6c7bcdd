"""What README and docs say is run or compared with the code."""

import dataclasses
import re
from pathlib import Path

import pytest

import lmdbresults
from lmdbresults import Options, backends, errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("example", python_blocks(README), ids=lambda block: block.strip().splitlines()[0])
def test_every_python_example_of_the_readme_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "celery" in example:
        pytest.importorskip("celery")
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})


def test_the_readme_has_examples():
    assert len(python_blocks(README)) >= 2


def test_the_readme_shows_the_pool_as_it_is():
    shown = python_blocks(README)[-1]
    assert (ROOT / "examples" / "pool.py").read_text().endswith(shown)


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert named
    assert named <= targets


def test_the_option_table_of_the_readme_is_complete():
    described = set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
    given_in_urls = {field.name for field in dataclasses.fields(Options)} - {"path", "clock"}
    assert described == given_in_urls


def test_every_link_in_the_docs_leads_to_a_file():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_file_that_the_design_describes_exists():
    house = re.search(r"## The house\n\n```\nlmdbresults/\n(.*?)```", DESIGN, flags=re.DOTALL).group(1)
    folder = section = ROOT / "lmdbresults"
    for line in house.splitlines():
        is_in_section = line.startswith("    ")
        path = (section if is_in_section else folder) / line.split()[0]
        assert path.exists(), path
        section = section if is_in_section else path


def test_every_name_that_looks_like_one_of_ours_exists():
    named = set(re.findall(r"`((?:Store|Record|Forked|Nested|Open|Not)\w+)`", README + DESIGN))
    known = {*errors.__all__, *lmdbresults.__all__, *backends.__all__}
    assert named - known == set()
