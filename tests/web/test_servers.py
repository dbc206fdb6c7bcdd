"""The page over a store on a server."""

from pathlib import Path

import pytest

from lmdbresults.store import open_store
from lmdbresults.web import create_app
from tests.support import redis_server
from tests.support.web_files import put_task
from tests.support.web_visitor import Visitor


def test_a_store_on_a_server_is_shown_by_its_url(tmp_path: Path) -> None:
    with redis_server.server(tmp_path) as socket, open_store(f"unix://{socket}") as store:
        put_task(store, "one", name="shop.charge", ago=0)
        visitor = Visitor(create_app(f"unix://{socket}"))
        for page in ("/", "/tasks", "/task?id=one"):
            assert "shop.charge" in visitor.text(page)
        assert "No queues are stored here" in visitor.text("/queues?name=celery")


def test_the_password_of_a_server_is_not_shown() -> None:
    pytest.importorskip("redis")
    page = Visitor(create_app("redis://user:secret@localhost:1/0?retry_timeout=0")).text("/", 503)
    assert "redis://localhost:1" in page
    assert "secret" not in page
