"""README and docs: examples run, and names match the code."""

import configparser
import dataclasses
import re
from pathlib import Path

import pytest

import lmdbresults
from lmdbresults import Options, backends, errors, testing
from tests.crash.damages import DAMAGES
from tests.crash.fuzz import OUTCOMES
from tests.support.processes import run_script

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DESIGN = ROOT / "docs" / "design"
PAGES = [*sorted(ROOT.glob("[A-Z]*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_broker_page_shows_a_valid_app(tmp_path):
    pytest.importorskip("celery")
    for example in python_blocks((ROOT / "docs" / "broker.md").read_text()):
        done = run_script("import os, sys; os.chdir(sys.argv[2]); exec(sys.argv[1])", example, tmp_path)
        assert done.returncode == 0, done.stderr


def test_the_readme_is_short():
    assert len(README.splitlines()) < 150


def test_the_page_of_plain_processes_shows_the_pool_example():
    example = (ROOT / "examples" / "pool.py").read_text()
    assert any(example.endswith(block) for block in python_blocks((ROOT / "docs" / "start" / "plain.md").read_text()))


def test_every_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(
        re.findall(r"(?:`|^)make ([a-z-]+)(?=`|$)", "".join(page.read_text() for page in PAGES), flags=re.MULTILINE)
    )
    assert named
    assert named <= targets


def test_the_table_of_options_is_complete():
    page = (ROOT / "docs" / "reference" / "options.md").read_text()
    described = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    given_in_urls = {field.name for field in dataclasses.fields(Options)} - {"path", "clock"}
    assert described == given_in_urls


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_a_heading(page):
    for path, _, anchor in (link.partition("#") for link in links_in(page)):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors_in(target), f"{path}#{anchor}"


def links_in(page: Path) -> list[str]:
    return re.findall(r"\]\((?!http)([^)]+)\)", page.read_text())


def anchors_in(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_navigation_of_the_site_has_every_page():
    named = set(re.findall(r"</([^>]+)>", (ROOT / "site" / "navigation.md").read_text()))
    assert named | {"docs/index"} == {str(page.relative_to(ROOT).with_suffix("")) for page in PAGES}


def test_every_extra_that_a_page_names_exists():
    pages = "".join(page.read_text() for page in PAGES)
    named = {extra for extras in re.findall(r"lmdbresults\[([\w,]+)\]", pages) for extra in extras.split(",")}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert named <= set(setup["options.extras_require"])


def test_the_design_links_to_all_of_its_pages():
    assert {DESIGN / link for link in links_in(DESIGN / "README.md")} >= {*DESIGN.glob("*.md")} - {DESIGN / "README.md"}


@pytest.mark.parametrize("page", sorted(DESIGN.glob("*.md")), ids=lambda page: page.name)
def test_every_file_that_the_design_names_exists(page):
    named = re.findall(r"`([\w/]+(?:/|\.py|\.md))`", page.read_text())
    assert [name for name in named if not any((root / name).exists() for root in (ROOT, ROOT / "lmdbresults"))] == []


def test_the_tree_of_the_design_matches_the_package():
    tree = re.search(r"```\nlmdbresults/\n(.*?)```", (DESIGN / "README.md").read_text(), flags=re.DOTALL).group(1)
    folder, found = "", {"": set(), "store/": set()}
    for indent, name in re.findall(r"^( {2}| {4})([\w/.]+)", tree, flags=re.MULTILINE):
        found[folder if len(indent) == 4 else ""].add(name)
        folder = name if name.endswith("/") and len(indent) == 2 else folder
    assert found == {folder: modules_in(ROOT / "lmdbresults" / folder) for folder in found}


def modules_in(folder: Path) -> set[str]:
    files = {path.name for path in folder.glob("*.py") if not path.name.startswith("__")}
    return files | {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}


def test_the_table_of_damage_has_every_kind_and_outcome():
    table = (DESIGN / "damage.md").read_text()
    assert all(f"| {kind} |" in table for kind in DAMAGES)
    assert f"| | files | {' | '.join(OUTCOMES[::-1])} | found by `check` |" in table


def test_every_named_class_of_the_package_exists():
    text = "".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"`((?:Store|Record|Forked|Nested|Open|Not|Disk|File)\w+)`", text))
    known = {*errors.__all__, *lmdbresults.__all__, *backends.__all__, *testing.__all__}
    assert named - known == set()
