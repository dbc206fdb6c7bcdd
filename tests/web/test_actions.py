"""What visitors may do if actions are allowed, and only then."""

import pytest

from lmdbresults import LMDBStore, open_store
from lmdbresults.web import create_app
from tests.support.web_files import put_task
from tests.support.web_visitor import Visitor

celery = pytest.importorskip("celery")

from kombu import Exchange, Queue  # noqa: E402

from lmdbresults.integrations.celery.control import CeleryControl  # noqa: E402

ARGUMENTS = {"args": [117, "EUR"], "kwargs": {"again": True}}


@pytest.fixture
def store(path: str) -> LMDBStore:
    with open_store(path) as store:
        store.queues.declare("orders")
        put_task(store, "failed", "FAILURE", name="shop.charge", queue="orders", arguments=ARGUMENTS)
        put_task(store, "done", name="shop.charge", arguments=ARGUMENTS)
        yield store


@pytest.fixture
def control(store: LMDBStore) -> CeleryControl:
    """A control whose broker is the file."""
    return CeleryControl.of_file(f"lmdb://{store.options.path}")


@pytest.fixture
def visitor(store: LMDBStore, control: CeleryControl) -> Visitor:
    return Visitor(create_app(store, allow_actions=True, control=control))


def test_a_page_only_shows_unless_actions_are_allowed(store: LMDBStore) -> None:
    visitor = Visitor(create_app(store))
    assert "<form method" not in visitor.text("/task?id=failed")
    for action in ("forget", "revoke", "retry"):
        refused = visitor.ask("POST", f"/{action}", data={"id": "failed"})
        assert refused.status_code == 403
        assert "--allow-actions" in refused.text
    assert "FAILURE" in visitor.text("/task?id=failed")


@pytest.mark.parametrize("key", ["", "0" * 64, "wörong"])
def test_a_form_without_the_key_of_the_visitor_changes_nothing(visitor: Visitor, key: str) -> None:
    visitor.text("/task?id=failed")
    assert visitor.ask("POST", "/forget", data={"id": "failed", "key": key}).status_code == 403
    assert "FAILURE" in visitor.text("/task?id=failed")


def test_the_key_of_another_visitor_is_of_no_use(store: LMDBStore, visitor: Visitor) -> None:
    app = create_app(store, allow_actions=True)
    mine, other = Visitor(app), Visitor(app)
    other.text("/")
    key = mine.text("/task?id=failed").partition('name="key" value="')[2].partition('"')[0]
    assert other.ask("POST", "/forget", data={"id": "failed", "key": key}).status_code == 403


def test_actions_are_not_done_by_a_link(visitor: Visitor) -> None:
    assert visitor.get("/forget?id=failed").status_code == 405


def test_a_result_can_be_forgotten(visitor: Visitor) -> None:
    assert visitor.send_form("/task?id=failed", "/forget", id="failed").headers["location"] == "/tasks"
    visitor.text("/task?id=failed", 404)
    again = visitor.send_form("/task?id=done", "/forget", id="failed")
    assert again.status_code == 409


def test_a_failed_task_is_sent_again_with_its_name_and_arguments(visitor: Visitor, control: CeleryControl) -> None:
    sent = visitor.send_form("/task?id=failed", "/retry", id="failed")
    assert sent.status_code == 303, sent.text
    with control._app.connection_for_read() as connection:
        message = Queue("orders", channel=connection.default_channel).get(no_ack=True)
    headers, (args, kwargs, _) = message.headers, message.payload
    assert (headers["task"], sent.headers["location"]) == ("shop.charge", f"/task?id={headers['id']}")
    assert (args, kwargs) == ([117, "EUR"], {"again": True})


def test_only_failed_tasks_with_a_stored_name_are_sent_again(store: LMDBStore, visitor: Visitor) -> None:
    put_task(store, "nameless", "FAILURE", arguments=ARGUMENTS)
    put_task(store, "no arguments", "FAILURE", name="shop.charge")
    for id_ in ("done", "nameless", "no arguments", "unknown"):
        assert visitor.send_form("/task?id=done", "/retry", id=id_).status_code == 409
    assert store.queues.peek("orders") == []


def test_workers_are_told_to_revoke_a_task(store: LMDBStore, visitor: Visitor, control: CeleryControl) -> None:
    with control._app.connection_for_read() as connection:
        probe = Queue("probe", Exchange("celery.pidbox", type="fanout"), channel=connection.default_channel)
        probe.declare()
        assert visitor.send_form("/task?id=done", "/revoke", id="waits", terminate="1").status_code == 303
        told = probe.get(no_ack=True).payload
    assert told["method"] == "revoke"
    assert told["arguments"]["task_id"] == "waits"
    assert told["arguments"]["terminate"] is True


def test_messages_are_not_sent_into_a_file_that_is_not_the_broker(path: str) -> None:
    with open_store(f"{path}-results") as store:
        put_task(store, "failed", "FAILURE", name="shop.charge", arguments=ARGUMENTS)
        control = CeleryControl.of_file(f"lmdb://{path}-results")
        visitor = Visitor(create_app(store, allow_actions=True, control=control))
        refused = visitor.send_form("/task?id=failed", "/retry", id="failed")
        assert refused.status_code == 409
        assert "another broker" in refused.text


def test_a_broker_that_cannot_be_reached_is_an_error_on_the_page(store: LMDBStore) -> None:
    app = celery.Celery(broker="amqp://127.0.0.1:1//", set_as_current=False)
    app.conf.task_publish_retry = False
    app.conf.broker_connection_retry = False
    app.conf.broker_transport_options = {"max_retries": 0}
    visitor = Visitor(create_app(store, allow_actions=True, control=CeleryControl(app)))
    failed = visitor.send_form("/task?id=failed", "/retry", id="failed")
    assert failed.status_code == 502
    assert "refused" in failed.text
