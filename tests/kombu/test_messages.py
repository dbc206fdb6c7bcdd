"""What arrives is what was sent: bodies, headers and properties, in the order of their priorities and times."""

import time
import uuid
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from tests.support.kombu_parts import consuming, is_silent, publish, queue, receive, waiting


@pytest.mark.parametrize("body", [{"text": "snowman ☃", "list": [1, None, 2.5]}, "", "plain", 7, None, [["deep"] * 3]])
@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_body_arrives_as_it_was_sent(connection: Any, body: Any, serializer: str) -> None:
    publish(connection, body, serializer=serializer)
    with consuming(connection) as received:
        assert receive(connection, received, 1) == [body]


@pytest.mark.parametrize("compression", ["gzip", "bzip2"])
def test_a_compressed_body_arrives_as_it_was_sent(connection: Any, compression: str) -> None:
    publish(connection, "x" * 100_000, compression=compression)
    with consuming(connection) as received:
        assert receive(connection, received, 1) == ["x" * 100_000]


def test_bytes_arrive_as_they_were_sent(connection: Any) -> None:
    publish(connection, bytes(range(256)), content_type="application/data", content_encoding="binary")
    with consuming(connection, accept=None) as received:
        assert receive(connection, received, 1) == [bytes(range(256))]


def test_a_large_body_arrives_as_it_was_sent(connection: Any) -> None:
    publish(connection, "large" * 500_000)
    with consuming(connection) as received:
        assert receive(connection, received, 1) == ["large" * 500_000]


def test_headers_and_properties_arrive_as_they_were_sent(connection: Any) -> None:
    headers = {
        "time": datetime(2026, 5, 1, 12, tzinfo=timezone.utc),
        "decimal": Decimal("1.50"),
        "id": uuid.UUID(int=7),
        "nested": {"a": [1, {"b": None}]},
        "surrogate": "\ud800",
    }
    publish(connection, ["body"], headers=headers, correlation_id="c", reply_to="r")
    with consuming(connection) as received:
        (message,) = receive(connection, received, 1).messages
    assert message.headers == headers
    assert (message.properties["correlation_id"], message.properties["reply_to"]) == ("c", "r")
    assert message.content_type == "application/json"
    assert message.content_encoding == "utf-8"


def test_a_large_integer_in_headers_arrives_as_it_was_sent(connection: Any) -> None:
    publish(connection, "body", headers={"large": 2**70, "text": "x"})
    with consuming(connection) as received:
        assert receive(connection, received, 1).messages[0].headers == {"large": 2**70, "text": "x"}


def test_a_message_says_how_it_was_delivered(connection: Any) -> None:
    publish(connection, "body", priority=3)
    with consuming(connection) as received:
        (message,) = receive(connection, received, 1).messages
    delivered = {"exchange": "", "routing_key": "work", "redelivered": False, "priority": 3}
    assert message.delivery_info == message.properties["delivery_info"] == delivered
    assert message.properties["delivery_tag"] == message.delivery_tag


def test_a_higher_priority_comes_first(connection: Any) -> None:
    for number, priority in enumerate([0, 9, 5, 9, None, 99, -1]):
        publish(connection, number, priority=priority)
    with consuming(connection) as received:
        assert receive(connection, received, 7) == [1, 3, 5, 2, 0, 4, 6]


def test_an_expired_message_is_not_delivered(connection: Any) -> None:
    publish(connection, "short", expiration=0.001)
    published = time.time()
    publish(connection, "long", expiration=60)
    while time.time() < published + 0.002:
        pass
    with consuming(connection) as received:
        assert receive(connection, received, 1)[-1] == "long"


def test_a_task_that_expires_is_left_to_the_worker_to_revoke(connection: Any) -> None:
    published = time.time()
    publish(connection, "task", headers={"expires": "2020-01-01T00:00:00Z"}, expiration=0.001)
    while time.time() < published + 0.002:
        pass
    with consuming(connection) as received:
        assert receive(connection, received, 1) == ["task"]


def eta(seconds: float) -> dict[str, str]:
    return {"eta": (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat()}


def test_a_task_with_an_eta_stays_in_the_store_until_then(connection: Any, no_second_look: None) -> None:
    publish(connection, "later", headers=eta(3600))
    publish(connection, "past", headers={"eta": "2020-01-01T00:00:00Z"})
    publish(connection, "odd", headers={"eta": "tomorrow"})
    with consuming(connection) as received:
        assert receive(connection, received, 2) == ["past", "odd"]
        assert is_silent(connection)
    assert waiting(connection) == 0


def test_a_task_with_an_eta_arrives_then(connection: Any, no_second_look: None) -> None:
    with consuming(connection) as received:
        assert is_silent(connection)
        publish(connection, "first", headers=eta(0.4))
        publish(connection, "second", headers=(headers := eta(0.2)))
        assert receive(connection, received, 1)[0] == "second"
        assert datetime.now(timezone.utc) >= datetime.fromisoformat(headers["eta"])
        assert receive(connection, received, 2)[1] == "first"


def test_a_rejected_message_goes_to_the_dead_letters_and_says_why(connection: Any) -> None:
    dead = queue("dead")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    publish(connection, "poison", to=queue(queue_arguments=arguments))
    dead(connection.default_channel).declare()
    with consuming(connection, queue(queue_arguments=arguments), ack=False) as received:
        receive(connection, received, 1).messages[0].reject()
    with consuming(connection, dead) as received:
        (message,) = receive(connection, received, 1).messages
    (death,) = message.headers["x-death"]
    assert (death["queue"], death["reason"], death["count"]) == ("work", "rejected", 1)


def test_a_queue_drops_its_oldest_messages_beyond_max_length(connection: Any) -> None:
    publish(connection, *range(5), to=queue(max_length=2))
    with consuming(connection, queue(max_length=2)) as received:
        assert receive(connection, received, 2) == [3, 4]
        assert is_silent(connection)
