"""The page in a real browser, served by the real command, over a file that changes meanwhile."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api") if os.environ.get("CI") != "true" else None
from playwright.sync_api import Page, expect  # noqa: E402

from lmdbresults import open_backend  # noqa: E402
from lmdbresults.app import App, Request  # noqa: E402
from lmdbresults.results import AsyncResult  # noqa: E402
from tests.support.web_files import HOSTILE, TRACEBACK, put_task  # noqa: E402
from tests.web.conftest import serving  # noqa: E402

#: Milliseconds after which a test gives up: no test is about how fast, and the machine may be busy.
PATIENCE = 60_000.0
expect.set_options(timeout=PATIENCE)
PAGES = ["/", "/tasks", "/task?id=failed", "/group?id=header", "/groups", "/queues?name=celery"]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A backend over a file with some tasks, and a chord of 12 parts of which one has failed and two are missing."""
    backend: Any = open_backend(tmp_path_factory.mktemp("web") / "results.lmdb", app=App(result_extended=True))
    store = backend.store
    store.queues.declare("celery")
    for number in range(30):
        put_task(store, f"done-{number}", name="shop.charge", worker="w1@host", queue="celery", ago=number * 60)
    arguments = {"args": [117, "EUR"], "kwargs": {}}
    fields = {"name": "shop.refund", "queue": "celery", "traceback": TRACEBACK, "arguments": arguments}
    for id_ in ("failed", "to be retried", "to be forgotten"):
        put_task(store, id_, "FAILURE", ago=30, result={"no": "funds"}, **fields)
    make_chord(backend)
    yield backend
    backend.process_cleanup()


@pytest.fixture(scope="module")
def address(backend: Any) -> Iterator[str]:
    """The page over that file, with actions allowed."""
    with serving(backend.store.options.path, "--allow-actions") as address:
        yield address


def make_chord(backend: Any) -> None:
    header = [AsyncResult(f"part-{place}", backend) for place in range(12)]
    backend.apply_chord(("header", header), backend.app.signature("shop.total", task_id="total"))
    for place in range(10):
        end_part(backend, place)


def end_part(backend: Any, place: int) -> None:
    chord = {"task": "shop.total", "options": {"task_id": "total"}, "chord_size": 12}
    request = Request(f"part-{place}", "shop.part", group="header", group_index=place, chord=chord)
    if place == 3:
        backend.mark_as_failure(f"part-{place}", ValueError("no"), request=request)
    else:
        backend.mark_as_done(f"part-{place}", place, request=request)


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Page]]:
    """Opens a page of a fresh visitor. A script that fails, or that the policy stops, fails the test."""
    problems, contexts = list[str](), list[Any]()

    def visit(page: str, **options: Any) -> Page:
        context = browser.new_context(base_url=address, **options)
        contexts.append(context)
        opened_page: Page = context.new_page()
        opened_page.set_default_timeout(PATIENCE)
        opened_page.on("pageerror", lambda error: problems.append(str(error)))
        opened_page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        opened_page.on("dialog", lambda dialog: problems.append(dialog.message))
        opened_page.goto(page)
        return opened_page

    yield visit
    for context in contexts:
        context.close()
    assert [problem for problem in problems if "404" not in problem] == []


@contextmanager
def turning(page: Page) -> Iterator[None]:
    """Wait for the page that the block leads to, until it has loaded: before that it has no body, and no keys."""
    with page.expect_navigation():
        yield


def rows(page: Page) -> Any:
    return page.locator(".rows tbody tr:has(a.task)")


def test_the_list_is_filtered_by_clicks_and_by_typing(visit: Callable[..., Page]) -> None:
    page = visit("/tasks")
    expect(rows(page).filter(has_text="shop.charge")).to_have_count(30)
    with turning(page):
        page.get_by_text("FAILURE", exact=True).first.click()
    expect(rows(page).filter(has_text="shop.charge")).to_have_count(0)
    expect(rows(page).filter(has_text="shop.refund").first).to_be_visible()
    with turning(page):
        page.get_by_role("link", name="Clear").click()
    expect(page).to_have_url(re.compile("/tasks$"))
    page.keyboard.press("/")
    page.keyboard.type("DONE-2")
    with turning(page):
        page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(11)
    page.get_by_label("Since").fill("10m")
    with turning(page):
        page.get_by_role("button", name="Filter").click()
    expect(rows(page)).to_have_count(1)


def test_a_result_appears_without_reloading(visit: Callable[..., Page], backend: Any) -> None:
    overview, tasks, pending = visit("/"), visit("/tasks?name=shop.late"), visit("/task?id=late")
    for page in (overview, tasks, pending):
        expect(page.locator("#pulse")).to_have_attribute("data-live", "live")
        page.evaluate("window.isSame = true")
    expect(tasks.locator("#live")).to_contain_text("No task fits")
    tasks_before = int(overview.locator(".tiles b").first.inner_text())
    put_task(backend.store, "late", "STARTED", name="shop.late", worker="w1@host")
    expect(pending.locator(".lead")).to_contain_text("STARTED")
    expect(rows(tasks)).to_contain_text("STARTED")
    put_task(backend.store, "late", name="shop.late", worker="w1@host", ago=0)
    expect(pending.locator(".lead")).to_contain_text("SUCCESS")
    expect(rows(tasks)).to_contain_text("SUCCESS")
    expect(overview.locator(".tiles b").first).to_have_text(str(tasks_before + 1))
    assert all(page.evaluate("window.isSame") for page in (overview, tasks, pending))


def test_a_hidden_tab_holds_no_connection_and_is_up_to_date_when_it_is_shown(
    visit: Callable[..., Page], backend: Any
) -> None:
    page = visit("/task?id=hidden")
    expect(page.locator("#pulse")).to_have_attribute("data-live", "live")
    is_hidden = (
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/events")):
        page.evaluate(is_hidden, True)
    put_task(backend.store, "hidden", name="shop.hidden", ago=0)
    with page.expect_request(re.compile("/events$")):
        page.evaluate(is_hidden, False)
    expect(page.locator(".lead")).to_contain_text("SUCCESS")


def test_the_canvas_of_a_chord_is_a_picture_of_what_is_done_and_missing(
    visit: Callable[..., Page], backend: Any
) -> None:
    page = visit("/group?id=header")
    boxes = page.locator(".picture a.box")
    expect(boxes.filter(has_text="chord")).to_contain_text("10 of 12")
    expect(page.locator(".picture a.box.failure").filter(has_text="shop.part")).to_have_count(1)
    expect(page.locator(".facts")).to_contain_text("10, 11")
    expect(page.locator(".picture .more")).to_contain_text("success")
    end_part(backend, 10)
    expect(boxes.filter(has_text="chord")).to_contain_text("11 of 12")
    with turning(page):
        page.locator(".picture a.box.failure").filter(has_text="shop.part").click()
    expect(page).to_have_url(re.compile("/task[?]id=part-3$"))
    expect(page.locator("h1")).to_have_text("shop.part")
    expect(page.locator(".picture a.asked")).to_contain_text("FAILURE")


def test_a_failed_task_is_retried_and_forgotten_after_a_question(visit: Callable[..., Page], backend: Any) -> None:
    page = visit("/task?id=to+be+retried")
    expect(page.locator(".traceback .error").last).to_have_text("shop.CardDeclined: no funds")
    expect(page.get_by_role("button", name="Retry", exact=True)).not_to_be_visible()
    page.get_by_text("Retry…").click()
    with turning(page):
        page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator(".lead")).to_contain_text("PENDING")
    (message,) = backend.store.queues.peek("celery")
    assert b"117" in message.body
    page.goto("/task?id=to+be+retried")
    page.get_by_text("Forget…").click()
    with turning(page):
        page.get_by_role("button", name="Forget", exact=True).click()
    expect(page).to_have_url(re.compile("/tasks$"))
    assert backend.get_task_meta("to be retried")["status"] == "PENDING"


def test_hostile_texts_stay_texts(visit: Callable[..., Page], backend: Any) -> None:
    fields = dict.fromkeys(("name", "worker", "queue", "group_id", "parent_id"), HOSTILE)
    content = {HOSTILE: [HOSTILE]}
    put_task(backend.store, HOSTILE, "FAILURE", result=content, arguments=content, traceback=HOSTILE, ago=0, **fields)
    page = visit("/tasks")
    with turning(page):
        rows(page).first.locator("a.task").click()
    task = page.url
    expect(page.locator("h1")).to_contain_text("<script>document.title='owned'</script>")
    for link in ("Group", "Parent"):
        with turning(page):
            page.locator(".facts.list div").filter(has_text=link).locator("a").click()
        expect(page.locator(".lead")).to_contain_text("onerror")
        page.goto(task)
    for path in ("/", "/groups", "/queues"):
        page.goto(path)
        expect(page.locator("#pulse")).to_have_attribute("data-live", "live")
        assert "owned" not in page.title()
        assert page.locator("img[src=x]").count() == 0


def test_dates_are_in_the_zone_of_the_reader(visit: Callable[..., Page]) -> None:
    shown = {
        zone: visit("/task?id=failed", timezone_id=zone).locator(".now time") for zone in ("UTC", "Australia/Adelaide")
    }
    clocks = {zone: re.search(r"\d\d:(\d\d):\d\d$", element.inner_text()) for zone, element in shown.items()}
    assert abs(int(clocks["UTC"][1]) - int(clocks["Australia/Adelaide"][1])) == 30
    assert "Australia/Adelaide" in shown["Australia/Adelaide"].get_attribute("title")


def test_a_page_can_be_read_without_javascript_and_on_a_phone(visit: Callable[..., Page]) -> None:
    size = {"width": 360, "height": 740}
    phone, plain = visit("/", viewport=size), visit("/", java_script_enabled=False)
    for path in PAGES:
        phone.goto(path)
        assert phone.evaluate("document.documentElement.scrollWidth") <= size["width"], path
    plain.goto("/tasks?state=FAILURE")
    expect(rows(plain).first.locator("time")).to_contain_text("UTC")
    plain.goto("/task?id=to+be+forgotten")
    plain.get_by_text("Forget…").click()
    with turning(plain):
        plain.get_by_role("button", name="Forget", exact=True).click()
    expect(plain).to_have_url(re.compile("/tasks$"))


def test_keys_move_open_and_change_the_colours(visit: Callable[..., Page]) -> None:
    page = visit("/tasks", color_scheme="light")
    for key in ("j", "j", "k"):
        page.keyboard.press(key)
    with turning(page):
        page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/task[?]id="))
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    with turning(page):
        page.keyboard.press("q")
    expect(page).to_have_url(re.compile("/queues$"))
    expect(page.locator("nav a[aria-current]")).to_have_text("Queues")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_another_machine_must_log_in(browser: Any, backend: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("correct-horse-battery-staple")
    with serving(backend.store.options.path, "--token-file", token) as address:
        page = browser.new_page(base_url=address)
        page.set_default_timeout(PATIENCE)
        page.goto("/tasks")
        expect(page.locator("h1")).to_have_text("Log in")
        page.get_by_label("Token").fill("wrong")
        with turning(page):
            page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_be_visible()
        page.get_by_label("Token").fill(token.read_text())
        with turning(page):
            page.keyboard.press("Enter")
        expect(page.locator("nav a[aria-current]")).to_have_text("Overview")
        page.close()
