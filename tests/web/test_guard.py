"""Who may see the page, and what a browser may do with it."""

import os
import time
from pathlib import Path

import pytest
from starlette.applications import Starlette

from lmdbresults import LMDBStore
from lmdbresults.errors import ConfigurationError
from lmdbresults.web import create_app, guard
from lmdbresults.web.settings import read_token
from tests.support.web_visitor import Visitor

TOKEN = "correct-horse-battery-staple"
HOST = "jobs.example.org"


@pytest.fixture
def remote(store: LMDBStore) -> Starlette:
    """A page for other machines."""
    return create_app(store, hosts=[HOST], token=TOKEN)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:5556", "[::1]:5556"])
def test_a_page_answers_to_the_names_of_this_machine(store: LMDBStore, host: str) -> None:
    assert Visitor(create_app(store)).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5556", "localhost.evil.example", "", "10.0.0.1"])
@pytest.mark.parametrize("page", ["/", "/events", "/static/page.js", "/nothing"])
def test_a_page_does_not_answer_to_a_name_that_was_rebound_to_it(store: LMDBStore, host: str, page: str) -> None:
    response = Visitor(create_app(store)).get(page, headers={"host": host})
    assert response.status_code == 421
    assert "celery" not in response.text


@pytest.mark.parametrize("options", [{}, {"allow_actions": True}])
def test_a_page_for_other_machines_demands_a_token(store: LMDBStore, options: dict[str, bool]) -> None:
    with pytest.raises(ConfigurationError, match="open to everyone"):
        create_app(store, hosts=["localhost", HOST], **options)


def test_a_short_token_is_refused(store: LMDBStore) -> None:
    with pytest.raises(ConfigurationError, match="at least 16 characters, got 5"):
        create_app(store, token="guess")


def test_an_application_can_decide_itself_which_requests_are_answered(store: LMDBStore) -> None:
    app = create_app(store, hosts=[HOST], authorize=lambda scope: (b"x-user", b"admin") in scope["headers"])
    visitor = Visitor(app, f"http://{HOST}")
    assert visitor.get("/").status_code == 403
    assert visitor.get("/", headers={"x-user": "admin"}).status_code == 200


@pytest.mark.parametrize("page", ["/", "/tasks", "/task?id=x", "/events", "/nothing"])
def test_without_the_token_there_is_nothing_to_see(remote: Starlette, page: str) -> None:
    visitor = Visitor(remote, f"http://{HOST}")
    assert visitor.get(page).status_code == 401
    asked = visitor.get(page, headers={"accept": "text/html"})
    assert (asked.status_code, asked.headers["location"]) == (303, "/login")
    for wrong in ("wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer"):
        assert visitor.get(page, headers={"authorization": wrong}).status_code == 401
    forged = f"lmdbresults-session=9999999999.{'0' * 64}"
    assert visitor.get(page, headers={"cookie": forged}).status_code == 401


@pytest.mark.parametrize("page", ["/login", "/login/", "/login-page", "/static/nothing"])
def test_a_stranger_is_not_told_which_file_is_shown(remote: Starlette, store: LMDBStore, page: str) -> None:
    assert store.options.path not in Visitor(remote, f"http://{HOST}").get(page).text


def test_the_token_is_entered_once(remote: Starlette) -> None:
    visitor = Visitor(remote, f"http://{HOST}")
    assert visitor.ask("POST", "/login", data={"token": "wrong"}).status_code == 403
    entered = visitor.ask("POST", "/login", data={"token": TOKEN}, headers={"origin": f"http://{HOST}"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert visitor.get("/").status_code == 200
    assert visitor.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_is_entered_again_after_the_session(remote: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    entered = Visitor(remote, f"http://{HOST}").ask("POST", "/login", data={"token": TOKEN})
    session = {"cookie": entered.headers["set-cookie"].partition(";")[0]}
    for later, status in ((-60, 200), (60, 401)):
        monkeypatch.setattr(time, "time", lambda later=later: now + guard._SESSION + later)
        assert Visitor(remote, f"http://{HOST}").get("/", headers=session).status_code == status


@pytest.mark.parametrize(("page", "kept"), [("/", "no-store"), ("/static/page.js", "no-cache")])
def test_a_browser_keeps_no_page_and_asks_whether_its_files_are_current(store: LMDBStore, page: str, kept: str) -> None:
    assert Visitor(create_app(store)).get(page).headers["cache-control"] == kept


@pytest.mark.parametrize("page", ["/", "/tasks", "/login", "/static/page.js", "/nothing"])
def test_every_answer_forbids_foreign_and_inline_scripts(store: LMDBStore, page: str) -> None:
    headers = Visitor(create_app(store)).get(page).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_form_of_another_site_is_refused(store: LMDBStore, headers: dict[str, str]) -> None:
    visitor = Visitor(create_app(store, allow_actions=True))
    assert visitor.ask("POST", "/forget", data={"id": "x"}, headers=headers).status_code == 403


def test_methods_that_no_page_uses_are_refused(store: LMDBStore) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert Visitor(create_app(store)).ask(method, "/").status_code == 405


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_token(path)
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_token(path)
    os.chmod(path, 0o600)
    assert read_token(path) == TOKEN
