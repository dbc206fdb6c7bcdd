"""docs/interface.md, made from the rows of the interface and the tests that prove them: ``python -m tests.interface``.

A test says by ``@pytest.mark.interface("row")`` which rows it proves.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support import celery_behaviours, celery_behaviours_keyvalue
from tests.support.celery_behaviours import Behaviour
from tests.support.interface_rows import NOT_YET, PROVEN_ELSEWHERE, SECTIONS

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "interface.md"
MARKER = "interface"
#: By the class of Celery's tests.
BEHAVIOURS = {**celery_behaviours.CLASSES, **celery_behaviours_keyvalue.CLASSES}

INTRODUCTION = """\
# The interface of a result backend

Made by `make interface`; a test fails if it is not up to date, or if a row has no test.

`lmdbresults.backends`, `lmdbresults.results` and `lmdbresults.app` do what the base module of Celery's result backends
does, under the same names, where Celery is not installed as well. Each row below is one promise, with the tests that
prove it. Paths are below `tests/`.
"""

CELERY = """\
## What Celery's own tests ask of a backend

`t/unit/backends/test_base.py` of Celery 5.7.0 is a source of behaviours: each of its tests, in its order, by what it
asks, and the tests of ours that ask the same, or the reason why there are none. The Celery backend of this package
inherits from the class that those tests are about; `tests/celery` is about what it changes.
"""


class Test(NamedTuple):
    """A test, and the rows that it says it proves."""

    file: str
    name: str
    rows: tuple[str, ...]


def all_tests() -> list[Test]:
    """Return every test below this folder, in the order in which they stand."""
    return [test for path in sorted(TESTS.rglob("test_*.py")) for test in _tests_of(path)]


def _tests_of(path: Path) -> Iterator[Test]:
    tree = ast.parse(path.read_text())
    shorthands = {
        target.id: _rows(node.value, {})
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            rows = [row for decorator in node.decorator_list for row in _rows(decorator, shorthands)]
            yield Test(path.relative_to(TESTS).as_posix(), node.name, tuple(rows))


def _rows(decorator: ast.expr, shorthands: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the rows in ``@pytest.mark.interface(...)``, in ``@interface(...)``, or in a name for either."""
    if isinstance(decorator, ast.Name):
        return shorthands.get(decorator.id, ())
    if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func).rpartition(".")[2] != MARKER:
        return ()
    return tuple(str(ast.literal_eval(argument)) for argument in decorator.args)


def tests_by_row() -> dict[str, list[Test]]:
    """Return the tests of each row that has any."""
    found = defaultdict(list)
    for test in all_tests():
        for row in {*test.rows, *(row for row, names in PROVEN_ELSEWHERE.items() if test.name in names)}:
            found[row].append(test)
    return dict(found)


def render() -> str:
    """Return the document."""
    by_row = tests_by_row()
    named = {test.name: test for test in all_tests()}
    parts = [INTRODUCTION]
    for section, rows in SECTIONS.items():
        table = [f"| {row} | {behaviour} | {_links(by_row.get(row, []))} |" for row, behaviour in rows.items()]
        parts.append("\n".join([f"## {section}\n", "| | what it does | proven by |", "|---|---|---|", *table, ""]))
    parts.append("\n".join(["## Not yet\n", *(f"- **{row}**: {text}" for row, text in NOT_YET.items()), ""]))
    parts.append(CELERY)
    for heading, behaviours in BEHAVIOURS.items():
        table = [f"| {each.asks} | {_answer(each, named)} | {_code(each.celery)} |" for each in behaviours]
        columns = "| what is asked | our tests, or why there are none | Celery's tests |"
        parts.append("\n".join([f"### {heading}\n", columns, "|---|---|---|", *table, ""]))
    return "\n".join(parts)


def _links(tests: list[Test]) -> str:
    files: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        files[test.file].append(_words(test.name))
    return "<br>".join(f"[{file}](../tests/{file}): {'; '.join(names)}" for file, names in files.items())


def _answer(behaviour: Behaviour, named: Mapping[str, Test]) -> str:
    tests = _links([named[name] for name in behaviour.tests])
    return "<br>".join(part for part in (tests, behaviour.why) if part)


def _words(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split())


if __name__ == "__main__":
    DOCUMENT.write_text(render())
