"""Every row of docs/interface.md has a test: a test says by ``@pytest.mark.interface("row")`` which rows it proves."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
DOCUMENT = (TESTS.parent / "docs" / "interface.md").read_text()
MARKER = "interface"


def documented_rows() -> list[str]:
    rows = re.findall(r"^\| ([^|]+) \|", DOCUMENT, flags=re.MULTILINE)
    return [row for row in rows if row.strip()]


def proven_rows() -> set[str]:
    return {
        row
        for path in TESTS.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] == MARKER
        for row in map(ast.literal_eval, call.args)
    }


def test_no_row_is_documented_twice():
    assert len(documented_rows()) == len(set(documented_rows())) > 50


def test_every_row_has_a_test():
    assert set(documented_rows()) - proven_rows() == set()


def test_every_test_names_rows_that_exist():
    assert proven_rows() - set(documented_rows()) == set()
