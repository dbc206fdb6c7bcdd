"""What comes back for a result is, field by field, what Celery's own file backend gives back for the same calls."""

from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import states
from celery.app.task import Context
from celery.result import AsyncResult, GroupResult
from kombu.utils.json import register_type

from tests.support.celery_needed import ALL_CONTENT, SERIALIZERS
from tests.support.celery_tasks import OwnError, make_app

pytestmark = pytest.mark.any_engine


class Place:
    """What json can write once kombu has been told how."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self.name == other.name

    def __repr__(self) -> str:
        return f"Place({self.name!r})"


register_type(Place, "place", lambda place: place.name, Place)

WHEN = datetime(2026, 2, 3, 4, 5, 6, tzinfo=timezone.utc)


def request_in(app: Any, **fields: Any) -> Context:
    """Return the request of a task in a group, which has a parent and has sent a task and a group itself."""
    parent = AsyncResult("grandchild", app=app)
    children = [AsyncResult("child", app=app, parent=parent), GroupResult("g", [AsyncResult("c", app=app)], app=app)]
    return Context(
        id="id",
        task="add",
        args=(1, 2),
        kwargs={"key": ["value"]},
        hostname="worker@host",
        retries=2,
        group="group",
        parent_id="parent",
        delivery_info={"routing_key": "queue"},
        _children=children,
        **fields,
    )


Operation = Callable[[Any, Any], Any]

OPERATIONS: dict[str, Operation] = {
    "success": lambda app, backend: backend.mark_as_done("id", {"a": [1, None, "ü"]}, request=request_in(app)),
    "success without request": lambda app, backend: backend.mark_as_done("id", None),
    "success of a bare request": lambda app, backend: backend.store_result("id", 1.5, "SUCCESS", request=Context()),
    "started": lambda app, backend: backend.mark_as_started("id", pid=1, hostname="worker@host"),
    "failure": lambda app, backend: backend.mark_as_failure("id", OwnError("x", 1), "Traceback: ü", request_in(app)),
    "failure of a builtin": lambda app, backend: backend.mark_as_failure("id", KeyError("x"), "Traceback"),
    "failure without traceback": lambda app, backend: backend.mark_as_failure("id", OwnError()),
    "retry": lambda app, backend: backend.mark_as_retry("id", OwnError("x"), "Traceback", request_in(app)),
    "revoked": lambda app, backend: backend.mark_as_revoked("id", "terminated", request_in(app)),
    "custom state": lambda app, backend: backend.store_result("id", {"done": 1}, "PROGRESS", request=request_in(app)),
    "stamped": lambda app, backend: backend.mark_as_done(
        "id", 1, request_in(app, stamps={"stamp": ["x"], "other": "y"}, stamped_headers=["stamp"])
    ),
    "stamps named like fields": lambda app, backend: backend.mark_as_done(
        "id", 1, request_in(app, stamps={"state": "x", "payload": ["y"]}, stamped_headers=["state", "payload"])
    ),
    "result handle": lambda app, backend: backend.store_result("id", AsyncResult("other", app=app), "SUCCESS"),
    "group handle": lambda app, backend: backend.store_result(
        "id", GroupResult("group", [AsyncResult("member", app=app)], app=app), "SUCCESS"
    ),
}

#: What not every serializer can write: then both refuse, with the same error.
VALUES = {
    "types": {"at": WHEN, "uuid": UUID(int=5), "decimal": Decimal("1.50"), "bytes": b"\x00\xff", "tuple": (1, 2)},
    "infinity": [float("inf")],
    "large number": 2**100,
    "number as key": {1: 2},
    "empty": "",
    "empty bytes": b"",
    "NUL": "\0",
    "lone surrogate": "\udcff",
    "deep": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],
    "set": {1},
    "registered with kombu": Place("Ulm"),
    "mark of a type that is not registered": {"__type__": "unheard-of", "__value__": 1},
    "object": object,
    "exception": OwnError("x"),
}


def outcome(backend: Any, operation: Callable[[], Any]) -> Any:
    """Return what is to be compared after an operation: the meta, alone and among many, or the error."""
    try:
        operation()
        meta = backend.get_task_meta("id", cache=False)
    except Exception as error:
        return type(error), str(error)
    many = backend._mget_to_results(list(backend.mget([backend.get_key_for_task("id")])), ["id"])
    return comparable(meta), {task_id: comparable(found) for task_id, found in many.items()}


def comparable(meta: dict[str, Any]) -> dict[str, Any]:
    result, date = meta["result"], meta["date_done"]
    if isinstance(result, BaseException):
        result = type(result), result.args
    if date is not None:
        date = "a date", datetime.fromisoformat(date).utcoffset()
    # A child is a tuple or a list, depending on the serializer; both are read alike.
    return {**meta, "result": result, "date_done": date, "children": lists(meta["children"])}


def lists(tree: Any) -> Any:
    return [lists(branch) for branch in tree] if isinstance(tree, (list, tuple)) else tree


@pytest.fixture
def both(tmp_path: Path) -> Any:
    """Makes two applications that differ in their backend only: ours, and Celery's over files."""
    (tmp_path / "files").mkdir()
    urls = f"lmdb://{tmp_path}/results.lmdb?durability=none", f"file://{tmp_path}/files"
    made = []

    def make(**settings: Any) -> Any:
        apps = [make_app({"result_backend": url, "accept_content": ALL_CONTENT, **settings}) for url in urls]
        made.extend(apps)
        return apps

    yield make
    for app in made[::2]:
        assert app.backend.store.check() == []
        app.backend.store.close()


@pytest.mark.parametrize("extended", [False, True], ids=["plain", "extended"])
@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_meta_is_what_celery_gives_back(both: Any, name: str, serializer: str, extended: bool) -> None:
    ours, theirs = (
        outcome(app.backend, lambda app=app: OPERATIONS[name](app, app.backend))
        for app in both(result_serializer=serializer, result_extended=extended)
    )
    assert isinstance(theirs[0], dict), theirs
    assert ours == theirs


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_from_celery_or_are_refused_alike(both: Any, name: str, serializer: str) -> None:
    ours, theirs = (
        outcome(app.backend, lambda app=app: app.backend.store_result("id", VALUES[name], states.SUCCESS))
        for app in both(result_serializer=serializer)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    "settings", [{"enable_utc": False, "timezone": "Asia/Tokyo"}, {"timezone": "America/Lima"}], ids=str
)
def test_dates_are_in_the_zone_in_which_celery_writes_them(both: Any, settings: dict[str, Any]) -> None:
    ours, theirs = (outcome(app.backend, lambda app=app: app.backend.mark_as_done("id", 1)) for app in both(**settings))
    assert ours == theirs


def test_children_come_back_as_handles_of_tasks_and_groups_with_their_parents(both: Any) -> None:
    ours, _ = both()
    ours.backend.mark_as_done("id", 1, request=request_in(ours))
    child, group = ours.AsyncResult("id").children
    assert (child.id, child.parent.id) == ("child", "grandchild")
    assert isinstance(group, GroupResult)
    assert (group.id, [member.id for member in group]) == ("g", ["c"])
