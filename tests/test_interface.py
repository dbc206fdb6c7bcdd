"""Every row of the interface has a test, and docs/interface.md says which."""

from tests import interface
from tests.support.interface_rows import NOT_YET, PROVEN_ELSEWHERE, SECTIONS

ROWS = {row for rows in SECTIONS.values() for row in rows}
BEHAVIOURS = [behaviour for behaviours in interface.BEHAVIOURS.values() for behaviour in behaviours]


def test_every_row_has_a_test():
    assert ROWS - interface.tests_by_row().keys() == set()


def test_every_test_proves_rows_that_exist():
    assert {row for test in interface.all_tests() for row in test.rows} - ROWS == set()


def test_what_is_not_done_yet_is_no_row():
    assert NOT_YET.keys() & ROWS == set()


def test_every_test_that_is_named_exists():
    named = {name for names in PROVEN_ELSEWHERE.values() for name in names}
    named |= {name for behaviour in BEHAVIOURS for name in behaviour.tests}
    assert named - {test.name for test in interface.all_tests()} == set()


def test_every_behaviour_of_celery_has_a_test_or_a_reason():
    assert [behaviour.celery for behaviour in BEHAVIOURS if not behaviour.tests and not behaviour.why] == []


def test_no_test_of_celery_is_gone_through_twice():
    for behaviours in interface.BEHAVIOURS.values():
        names = [name for behaviour in behaviours for name in behaviour.celery.split()]
        assert len(names) == len(set(names))


def test_the_document_is_up_to_date():
    assert interface.DOCUMENT.read_text() == interface.render(), "run: make interface"
