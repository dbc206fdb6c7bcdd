"""What the pages show, and what they never do with what they show."""

import re
import shutil
from pathlib import Path

import msgpack
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from lmdbresults import LMDBStore, open_store
from lmdbresults.monitoring.values import Runtime
from lmdbresults.store.memory import MemoryStore
from lmdbresults.store.queues import Message
from lmdbresults.web import create_app
from lmdbresults.web.charts import ranges
from tests.support.web_files import HOSTILE, TRACEBACK, Exploit, put_task
from tests.support.web_visitor import Visitor


@pytest.fixture
def store(path: str) -> LMDBStore:
    """A store by the wall clock, as dates are shown by it."""
    with open_store(path, durability="none") as store:
        yield store


@pytest.fixture
def visitor(store: LMDBStore) -> Visitor:
    return Visitor(create_app(store))


def ids(page: str) -> list[str]:
    """Return the ids of the tasks in a list."""
    return re.findall(r'<a class="task" href="[^"]*/task\?id=([^"]+)"', page)


class TestPages:
    """What is on a page."""

    def test_the_overview_counts_tasks_by_state(self, store: LMDBStore, visitor: Visitor) -> None:
        for number in range(1200):
            put_task(store, f"s{number}", name="shop.charge")
        put_task(store, "f", "FAILURE", name="shop.refund", traceback=TRACEBACK, worker="w1@host")
        page = visitor.text("/")
        assert "1\u202f201" in page
        assert "shop.refund" in page
        assert "shop.CardDeclined" in page
        assert "w1@host" in page

    def test_an_empty_file_says_what_to_do(self, store: LMDBStore, visitor: Visitor) -> None:
        assert "app.conf.result_backend" in visitor.text("/")
        assert "No task is stored yet" in visitor.text("/tasks")
        assert "No chord is in flight" in visitor.text("/chords")
        assert "No queues" in visitor.text("/queues")
        assert "belongs to a group" in visitor.text("/groups")

    def test_the_list_is_filtered_and_newest_first(self, store: LMDBStore, visitor: Visitor) -> None:
        put_task(store, "old", name="a.b", ago=7200)
        put_task(store, "new", name="a.b", ago=5)
        put_task(store, "bad", "FAILURE", name="a.c", worker="w2", queue="slow", ago=60)
        put_task(store, "runs", "STARTED", name="a.c", group_id="g1")
        assert ids(visitor.text("/tasks")) == ["runs", "new", "bad", "old"]
        assert ids(visitor.text("/tasks?state=FAILURE&state=STARTED")) == ["runs", "bad"]
        assert ids(visitor.text("/tasks?name=a.b&since=1h")) == ["new"]
        assert ids(visitor.text("/tasks?worker=w2&queue=slow")) == ["bad"]
        assert ids(visitor.text("/tasks?text=BA")) == ["bad"]
        assert ids(visitor.text("/tasks?group=g1")) == ["runs"]
        assert "No task fits" in visitor.text("/tasks?name=nothing")
        assert "is not an age" in visitor.text("/tasks?since=yesterday")
        assert "is not an age" in visitor.text("/tasks?since=0001-01-01T00:00%2B14:00")  # before the first year in UTC

    def test_a_long_list_is_read_page_by_page(self, store: LMDBStore, visitor: Visitor) -> None:
        for number in range(250):
            put_task(store, f"t{number:03}", ago=number, name="n" if number % 2 else "m")
        found, page = list[str](), visitor.text("/tasks?name=n")
        while found.extend(ids(page)) or (older := re.search(r'rel="next" href="([^"]+)"', page)):
            page = visitor.text(older[1].replace("&amp;", "&"))
        assert found == [f"t{number:03}" for number in range(1, 250, 2)]

    def test_a_failed_task_shows_its_traceback_and_arguments(self, store: LMDBStore, visitor: Visitor) -> None:
        stored = {"exc_type": "CardDeclined", "exc_message": ["no funds"], "exc_module": "shop"}
        arguments = {"args": [117], "kwargs": {"currency": "EUR"}}
        put_task(store, "f", "FAILURE", result=stored, arguments=arguments, traceback=TRACEBACK, name="shop.charge")
        page = visitor.text("/task?id=f")
        assert '<span class="error">shop.CardDeclined: no funds</span>' in page
        assert "shop.CardDeclined: no funds</pre>" in page
        assert "[117]" in page
        assert "&#39;currency&#39;: &#39;EUR&#39;" in page

    def test_an_unknown_task_is_pending(self, visitor: Visitor) -> None:
        page = visitor.text("/task?id=unknown", 404)
        assert "PENDING" in page
        assert "unknown" in page

    def test_queues_and_their_messages_are_shown_without_taking_them(self, store: LMDBStore, visitor: Visitor) -> None:
        store.queues.declare("tasks")
        store.queues.publish([Message(b"{}", "tasks"), Message(b"{}", "tasks")])
        assert "tasks" in visitor.text("/queues")
        assert visitor.text("/queues?name=tasks").count(">ready<") == 2
        assert store.queues.state("tasks").ready == 2
        visitor.text("/queues?name=unknown")

    def test_a_task_that_waits_is_shown_with_its_queue_and_when_it_was_sent(
        self, store: LMDBStore, visitor: Visitor
    ) -> None:
        store.queues.declare("tasks")
        sent = [msgpack.packb([{"id": id_, "task": "shop.charge"}]) for id_ in ("first", "second", "third")]
        store.queues.publish([Message(sent[0], "tasks"), Message(sent[1], "tasks"), Message(sent[2], "tasks", due=2e9)])
        store.queues.take(["tasks"], 1)
        assert "taken by" in visitor.text("/task?id=first")
        assert "waiting in" in visitor.text("/task?id=second")
        assert "delayed until" in visitor.text("/task?id=third")
        assert "It has not started" in visitor.text("/task?id=fir", 404)
        put_task(store, "first", "STARTED")
        assert visitor.text("/task?id=first").count("time not stored") == 1  # of its start

    def test_no_page_leads_outside_or_holds_scripts_or_styles(self, store: LMDBStore, visitor: Visitor) -> None:
        put_task(store, "one", "FAILURE", name="a", traceback=TRACEBACK)
        for path in ("/", "/tasks", "/task?id=one", "/groups", "/chords", "/queues", "/login", "/nothing"):
            page = visitor.get(path).text
            assert re.findall(r"""(?:src|href|action)=["'](?![/#])""", page) == []
            assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?! src=)", page) == []


class TestHostileTexts:
    """Everything in a file is written by others."""

    @pytest.fixture
    def hostile(self, store: LMDBStore) -> None:
        """A task in which every text is hostile, and a queue of such a name."""
        fields = dict.fromkeys(("name", "worker", "queue", "group_id", "parent_id"), HOSTILE)
        content = {HOSTILE: [HOSTILE]}
        put_task(
            store, HOSTILE, "FAILURE", result=content, arguments=content, traceback=HOSTILE + "\n" + HOSTILE, **fields
        )
        put_task(store, "of its own", HOSTILE, **fields)
        store.queues.declare("<script>")

    @pytest.mark.parametrize("page", ["/", "/tasks", "/task", "/group", "/groups", "/queues", "/tasks?text="])
    def test_hostile_texts_are_inert_in_every_field(self, hostile: None, visitor: Visitor, page: str) -> None:
        response = visitor.get(page, params={"id": HOSTILE, "name": "", "text": HOSTILE if "text" in page else ""})
        assert response.status_code == 200
        text = re.sub(r'value="[^"]*"', "", response.text)  # what a form sends must be exact
        assert "<script>" not in text
        assert "<img src=x" not in text
        assert 'onerror="' not in text
        assert not set("\u202e\x1b\x00") & set(text)
        assert "{{7*7}}" in text or page == "/queues"

    def test_pickled_results_are_never_decoded(self, store: LMDBStore, visitor: Visitor, tmp_path: Path) -> None:
        put_task(store, "pickled", pickled=Exploit(str(tmp_path / "owned")))
        assert "Not shown" in visitor.text("/task?id=pickled")
        assert not (tmp_path / "owned").exists()

    def test_a_large_result_is_not_decoded(self, store: LMDBStore, visitor: Visitor) -> None:
        put_task(store, "large", result="x" * 2_000_000)
        page = visitor.text("/task?id=large")
        assert "too large" in page
        assert len(page) < 20_000

    def test_large_arguments_are_not_decoded(self, store: LMDBStore, visitor: Visitor) -> None:
        put_task(store, "large", result=1, arguments={"args": ["x" * 2_000_000], "kwargs": {}})
        page = visitor.text("/task?id=large")
        assert "more than 1000000 bytes" in page
        assert len(page) < 20_000

    @pytest.mark.parametrize("depth", [20, 100, 700])
    def test_a_deeply_nested_result_does_not_break_its_page(
        self, store: LMDBStore, visitor: Visitor, depth: int
    ) -> None:
        result: list[object] = [list(range(100))]
        for _ in range(depth):
            result = [result]
        put_task(store, "deep", result=result, name="digs")
        page = visitor.text("/task?id=deep")
        assert "digs" in page
        assert "97" in page or depth > 20

    def test_a_damaged_record_does_not_hide_the_others(self, store: LMDBStore, visitor: Visitor) -> None:
        put_task(store, "sound")
        store.set(b"celery-task-meta-damaged", b"\x9c\x01garbage")
        assert ids(visitor.text("/tasks")) == ["sound"]
        assert "DecodeError" not in visitor.text("/")
        assert visitor.get("/task?id=damaged").status_code == 503


class TestFiles:
    """A file that comes, goes and is replaced."""

    def test_a_missing_file_is_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / "results.lmdb"
        visitor = Visitor(create_app(path))
        assert "does not exist" in visitor.text("/", 503)
        assert not path.exists()
        with open_store(path, durability="none") as store:
            put_task(store, "first")
            assert ids(visitor.text("/tasks")) == ["first"]

    def test_a_file_that_is_not_ours_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "results.lmdb"
        path.write_bytes(b"x" * 10_000)
        assert "cannot be read" in Visitor(create_app(path)).text("/", 503)
        assert path.read_bytes() == b"x" * 10_000

    def test_a_replaced_file_is_opened_again(self, tmp_path: Path) -> None:
        path, other = tmp_path / "results.lmdb", tmp_path / "other.lmdb"
        for file, id_ in ((path, "before"), (other, "after")):
            with open_store(file, durability="none") as store:
                put_task(store, id_)
        visitor = Visitor(create_app(path))
        assert ids(visitor.text("/tasks")) == ["before"]
        for file in tmp_path.glob("results.lmdb*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        other.rename(path)
        assert ids(visitor.text("/tasks")) == ["after"]

    def test_a_store_that_is_not_a_file_can_be_shown(self) -> None:
        with MemoryStore() as store:
            put_task(store, "one", name="a.b")
            visitor = Visitor(create_app(store))
            assert ids(visitor.text("/tasks")) == ["one"]
            assert "a.b" in visitor.text("/")


def test_a_page_can_be_mounted_in_another_application(store: LMDBStore) -> None:
    put_task(store, "one", "FAILURE", name="a.b")
    app = Starlette(routes=[Mount("/admin/jobs", create_app(store, allow_actions=True))])
    visitor = Visitor(app)
    page = visitor.text("/admin/jobs/tasks")
    assert 'href="/admin/jobs/static/style.css' in page
    assert visitor.get("/admin/jobs/static/style.css").status_code == 200
    forgotten = visitor.send_form("/admin/jobs/task?id=one", "/admin/jobs/forget", id="one")
    assert forgotten.headers["location"] == "/admin/jobs/tasks"
    assert "No task is stored yet" in visitor.text("/admin/jobs/tasks")


def test_a_scale_of_run_times_has_no_more_labels_than_fit():
    for shortest in (1e-4, 1e-2, 0.5):
        for longest in (1.0, 300.0, 9e5):
            ticks = ranges([Runtime(2, shortest, longest, longest, longest)]).ticks
            assert 2 <= len(ticks) <= 5
            assert ticks[0][0] == 0
            assert ticks[-1][0] <= 100
