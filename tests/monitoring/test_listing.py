"""Lists of tasks: newest first, by filters, a page at a time."""

import random
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from lmdbresults import states
from lmdbresults.errors import ConfigurationError
from lmdbresults.monitoring import Filters
from lmdbresults.monitoring.listing import matches
from lmdbresults.record import TaskHead, TaskRecord


def ids(monitor: Any, limit: int = 100, **filters: Any) -> list[str]:
    return [row.id for row in monitor.tasks(Filters(**filters), limit=limit).rows]


def test_tasks_are_listed_newest_first_those_that_have_not_ended_before_all_others(monitor, end):
    for task_id in ("b", "c", "a"):
        end(task_id)
    end("running", state=states.STARTED)
    assert ids(monitor) == ["running", "a", "c", "b"]
    assert ids(monitor, 2) == ["running", "a"]


def test_a_row_has_what_a_list_needs(monitor, end, clock):
    end("one", "proj.add", group="group", parent_id="parent", hostname="w@h", delivery_info={"routing_key": "q"})
    (row,) = monitor.tasks().rows
    ended = datetime.fromtimestamp(clock.now, timezone.utc)
    assert row == ("one", "SUCCESS", ended, None, "proj.add", "w@h", "q", 0, "group", "parent")


FILTERS: list[dict[str, Any]] = [
    {"states": frozenset({"FAILURE"})},
    {"states": frozenset({"STARTED", "SUCCESS"})},
    {"name": "proj.add"},
    {"worker": "w1"},
    {"queue": "slow"},
    {"group": "g1"},
    {"text": "ADD"},
    {"text": "7"},
    {"text": "é"},
    {"text": "meta"},
    {"since": datetime.fromtimestamp(1_700_000_125, timezone.utc)},
    {"until": datetime.fromtimestamp(1_700_000_125, timezone.utc)},
    {"since": datetime.fromtimestamp(1_700_000_050, timezone(timedelta(hours=9))), "name": "proj.add", "text": "task"},
]


@pytest.fixture
def many(backend, end):
    """Two hundred tasks in several zones; some large, some old, some that have not ended."""
    chance = random.Random(1)
    zones = [timezone.utc, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))]
    for number in range(200):
        backend.app.zone = chance.choice(zones)
        end(
            f"task-{number}",
            chance.choice(["proj.add", "proj.Älter É", "proj.é" * 60, "a"]),
            chance.choice([*states.READY_STATES, "STARTED", "RETRY", "UPLOADING"]),
            result="x" * chance.choice([1, 1, 40_000]),
            hostname=chance.choice(["w1", "w2"]),
            delivery_info={"routing_key": chance.choice(["slow", "fast"])},
            group=chance.choice(["g1", "g2", None]),
        )


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("wanted", [{}, *FILTERS])
def test_each_filter_and_each_page_agrees_with_a_plain_scan(backend, monitor, wanted):
    everything = []
    for listed in backend.iter_results():
        date = listed.date_done
        head = TaskHead(listed.state, None, *listed[3:])
        if matches(Filters(**wanted), listed.id, head, date):
            everything.append((date or datetime.max.replace(tzinfo=timezone.utc), listed.id))
    expected = [task_id for _, task_id in sorted(everything, reverse=True)]
    found, after = [], None
    while True:
        page = monitor.tasks(Filters(**wanted), limit=17, after=after)
        found += [row.id for row in page.rows]
        after = page.next
        if after is None:
            break
    assert found == expected
    assert expected or wanted == {"text": "meta"}


def test_expired_tasks_are_not_listed(monitor, end, clock):
    end("old")
    end("old and running", state=states.STARTED)
    clock.advance(3599)
    end("new")
    clock.advance(1)
    assert ids(monitor) == ["new"]


def test_ids_of_any_length_and_form_are_listed(backend, monitor, end):
    for task_id in ("x" * 2000, "é", "a.b c\x1b[31m"):
        end(task_id)
    assert ids(monitor) == ["a.b c\x1b[31m", "é", "x" * 2000]


def test_a_damaged_record_is_left_out_and_counted(backend, monitor, end):
    end("sound")
    end("damaged")
    data = backend.store.get(b"celery-task-meta-damaged")
    backend.store.set(b"celery-task-meta-damaged", data[:20])
    backend.store.set(b"celery-task-meta-other", b"\x9c\x01")
    page = monitor.tasks()
    assert ([row.id for row in page.rows], page.damaged) == (["sound"], 2)


@pytest.mark.parametrize("state", [states.SUCCESS, states.FAILURE])
@pytest.mark.parametrize("date", ["2026-99-99 +00:00", "2026-99-99 -05:00", "9999-12-31 -13:00", "0001-01-01 +13:00"])
def test_a_date_that_is_damaged_or_out_of_range_spoils_no_list_and_no_figure(backend, monitor, end, state, date):
    end("sound", hostname="w")
    end("damaged", state=state, hostname="w")
    key, date_done = b"celery-task-meta-damaged", date.replace(" ", "T12:00:00.000000")
    backend.store.set(key, TaskRecord.unpack(backend.store.get(key))._replace(date_done=date_done).pack())
    for since in (None, datetime.min.replace(tzinfo=timezone.utc)):
        assert "sound" in ids(monitor, since=since)
    found = monitor.overview()
    assert (found.total, found.workers[0].count) == (2, 2)


def test_what_does_not_lead_to_a_page_is_refused(monitor):
    for after in ("?", "YWJj", "ä"):
        with pytest.raises(ConfigurationError, match="does not lead to a page"):
            monitor.tasks(after=after)


def test_every_filter_is_tested_above():
    assert {field.name for field in fields(Filters)} == {name for wanted in FILTERS for name in wanted}
