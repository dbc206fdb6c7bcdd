"""Connections: how a program comes to one, its options, its errors, and what a fork shares."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, pools
from kombu.exceptions import OperationalError

from lmdbresults import ConfigurationError, StoreFull, open_store
from lmdbresults.errors import FolderMissing, QueueFull
from lmdbresults.integrations.kombu import Transport, identity_of, outbox
from lmdbresults.store import queues
from tests.support.kombu_parts import PATIENCE, consuming, is_silent, publish, queue, receive, waiting


def run(code: str, *arguments: str) -> str:
    """Run code in a new interpreter; return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.strip()


# -- the scheme ----------------------------------------------------------------------------------------------------


def test_celery_knows_the_scheme_without_a_line_in_the_program(url: str) -> None:
    code = "import celery, sys; print(celery.Celery(broker=sys.argv[1]).connection().transport.driver_type)"
    assert run(code, url) == "lmdb"


def test_plain_kombu_knows_the_scheme_after_an_import(url: str) -> None:
    code = (
        "import kombu, sys, lmdbresults.integrations.kombu; print(kombu.Connection(sys.argv[1]).connect().driver_type)"
    )
    assert run(code, url) == "lmdb"


def test_the_transport_can_be_named(url: str) -> None:
    code = """if True:
        import kombu, sys
        connection = kombu.Connection(sys.argv[1], transport="lmdbresults.integrations.kombu:Transport")
        print(connection.connect().driver_type)"""
    assert run(code, url) == "lmdb"


def test_programs_with_another_broker_do_not_import_the_package() -> None:
    code = "import kombu.messaging, sys; print('lmdbresults_scheme' in sys.modules, 'lmdbresults' in sys.modules)"
    assert run(code) == "True False"


def test_workers_exchange_what_they_know_at_their_start(url: str) -> None:
    code = """if True:
        import celery, sys
        from celery.worker.consumer.mingle import Mingle
        from celery.worker.consumer.gossip import Gossip
        app = celery.Celery(broker=sys.argv[1])
        print(Mingle.compatible_transport(Mingle, app), Gossip.compatible_transport(Gossip, app))"""
    assert run(code, url) == "True True"


# -- addresses and options -----------------------------------------------------------------------------------------


def test_a_connection_shows_its_url(connection: Any, url: str) -> None:
    assert connection.as_uri() == connection.connect().client.as_uri() == url
    assert connection.info()["transport"] == "lmdb"


def test_options_of_the_store_come_from_the_url_and_from_the_transport_options(tmp_path: Path) -> None:
    address = f"lmdb://{tmp_path}/messages.lmdb?durability=none"
    with Connection(address, transport_options={"durability": "commit", "max_size": "8MiB"}) as connection:
        options = connection.default_channel.store.options
    assert (options.durability, options.max_size) == ("none", 8 << 20)


def test_options_for_other_brokers_are_ignored(connect: Callable[..., Any]) -> None:
    others = {"visibility_timeout": 3600, "polling_interval": 0.1, "master_name": "m", "max_retries": 3}
    publish(connect(queue_order_strategy="priority", **others), 1, retry=True, retry_policy={"max_retries": 2})


def test_a_misspelt_option_is_an_error(connect: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="broker_transport_options has 'durabilty': is 'durability' meant"):
        connect(durabilty="none").connect()


def test_a_prefix_separates_applications_in_one_file(connect: Callable[..., Any]) -> None:
    one, other = connect(global_keyprefix="one"), connect(global_keyprefix="other")
    publish(one, 1)
    publish(other, 2)
    with consuming(one) as received:
        assert receive(one, received, 1) == [1]
        assert is_silent(one)
    assert one.default_channel.identity != other.default_channel.identity


def test_the_same_url_is_a_broker_and_a_store(connection: Any, url: str) -> None:
    publish(connection, 1)
    with open_store(url) as store:
        assert store.queues.state("work") == queues.QueueState(1, store.queues.peek("work")[0].body.__len__(), 0)
        assert identity_of(store) == connection.default_channel.identity


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    address = f"lmdb://{tmp_path}/no/folder/messages.lmdb"
    with pytest.raises(FolderMissing, match="no/folder"):
        Connection(address).connect()
    with pytest.raises(OperationalError, match="no/folder"):
        Connection(address).ensure_connection(max_retries=1, interval_start=0, interval_step=0)


def test_kombu_goes_on_to_the_next_of_several_urls(tmp_path: Path, url: str, connect: Callable[..., Any]) -> None:
    connection = connect(f"lmdb://{tmp_path}/no/folder/messages.lmdb;{url.partition('?')[0]}")
    publish(connection.ensure_connection(interval_start=0), 1)
    assert waiting(connection) == 1


# -- publishing ----------------------------------------------------------------------------------------------------


def test_a_full_store_is_an_error_that_the_retry_policy_knows(tmp_path: Path) -> None:
    tried = []
    with Connection(f"lmdb://{tmp_path}/small.lmdb?max_size=1MiB&durability=none") as connection:
        policy = {"max_retries": 2, "interval_start": 0, "errback": lambda error, interval: tried.append(error)}
        with pytest.raises(OperationalError) as raised:
            publish(connection, *["x" * 50_000] * 30, retry=True, retry_policy=policy)
        assert isinstance(raised.value.__cause__, StoreFull)
        assert {type(error) for error in tried} == {StoreFull}
        count = waiting(connection)
        with consuming(connection) as received:  # taking and acknowledging still work
            receive(connection, received, count)
        publish(connection, "x" * 50_000)


def test_a_full_queue_that_refuses_is_an_error(connection: Any) -> None:
    small = queue(queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    publish(connection, 1, to=small)
    with pytest.raises(QueueFull):
        publish(connection, 2, to=small)


def test_a_queue_that_others_have_deleted_is_created_again(connect: Callable[..., Any]) -> None:
    connection, other = connect(), connect()
    publish(connection, 1)
    queue()(other.default_channel).delete()
    publish(connection, 2)
    assert waiting(connection) == 1


def test_a_message_for_an_unknown_queue_is_dropped(connection: Any) -> None:
    connection.Producer().publish(1, routing_key="unknown")
    assert connection.default_channel.store.queues.state("unknown") is None


def test_a_batch_is_published_in_one_transaction(connection: Any) -> None:
    channel = connection.default_channel
    queue()(channel).declare()
    batch = channel.create_publish_batch(max_size=3)
    for number in range(5):
        batch.publish(channel.prepare_message(str(number)), exchange="", routing_key="work")
    assert waiting(connection) == 3
    batch.discard()
    batch.publish(channel.prepare_message("5"), exchange="", routing_key="work")
    moment = channel.store.moment()
    batch.flush()
    batch.close()
    assert (waiting(connection), channel.store.moment()) == (4, moment + 1)


def test_what_is_published_inside_a_larger_transaction_goes_to_its_outbox(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    box: set[Any] = set()
    queue()(connection.default_channel).declare()
    monkeypatch.setattr(outbox, "find", lambda store, message: box if "inside" in message["headers"] else None)
    publish(connection, 1)
    publish(connection, 2, headers={"inside": True})
    assert waiting(connection) == 1
    connection.default_channel.store.update(lambda txn: queues.publish(txn, box))
    with consuming(connection) as received:
        assert receive(connection, received, 2) == [1, 2]


def test_a_pool_of_connections_publishes_from_many_threads(url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def send(number: int) -> None:
        with pools.producers[Connection(url)].acquire(block=True) as producer:
            producer.publish(number, routing_key="work", declare=[queue()])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(200)))
    with Connection(url) as connection:
        assert waiting(connection) == 200
    pools.reset()


# -- forks ---------------------------------------------------------------------------------------------------------


def in_child(action: Callable[[], object]) -> None:
    """Run something in a forked child, which must succeed."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_forked_child_publishes_by_the_connection_of_its_parent(connection: Any) -> None:
    publish(connection, 1)
    in_child(lambda: publish(connection, 2))
    with consuming(connection) as received:
        assert receive(connection, received, 2) == [1, 2]


def test_a_forked_child_leaves_the_messages_of_its_parent_alone(connection: Any) -> None:
    publish(connection, 1, 2)
    with consuming(connection, prefetch=1, ack=False) as received:
        receive(connection, received, 1)
        in_child(connection.close)
        assert waiting(connection) == 1
        received.messages[0].ack()
        receive(connection, received, 2).messages[1].ack()
    assert waiting(connection) == 0


def test_a_forked_child_leaves_a_message_alone_that_its_parent_has_fetched(connection: Any) -> None:
    publish(connection, 1)
    message = connection.default_channel.basic_get("work")
    in_child(connection.close)
    assert waiting(connection) == 0
    message.ack()
    assert waiting(connection) == 0


def test_a_forked_child_consumes_by_a_connection_of_its_own(connection: Any, connect: Callable[..., Any]) -> None:
    publish(connection, 1, 2)

    def take_one() -> None:
        own = connect()
        with consuming(own, prefetch=1) as received:
            receive(own, received, 1)
        own.close()

    with consuming(connection, prefetch=1, ack=False) as received:
        receive(connection, received, 1)
        in_child(take_one)
    assert waiting(connection) == 1


def test_the_transport_is_described(connection: Any) -> None:
    assert connection.transport.driver_version()
    assert Transport.implements.asynchronous
    assert connection.transport.supports_ev
    assert not connection.transport.supports_heartbeats
