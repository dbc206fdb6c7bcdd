"""What stands between a request and a page: the name that it was sent to, who may see it, and what a browser may do.

Everything that the page shows is hostile input, so a browser runs only the script that comes with the package, and
sends forms only here.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmdbresults.web.settings import Settings

__all__ = ["Guard", "Sessions", "path_in"]

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
#: Where a visitor logs in, and what comes before the files that this page needs.
_LOGIN: Final = "/login"
_STATIC: Final = "/static/"
#: Seconds until one must log in again.
_SESSION: Final = 12 * 3600
_COOKIE: Final = "lmdbresults-session"
_FORM_COOKIE: Final = "lmdbresults-form"


def path_in(scope: Mapping[str, object]) -> str:
    """Return the path of a request below where the page is mounted."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


class Sessions:
    """Cookies: that a visitor knows the token, and that a form comes from a page of ours."""

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._key = hashlib.sha256(b"lmdbresults session\0" + self._token).digest() if self._token else b""
        self._form_key = secrets.token_bytes(32)

    def is_token(self, text: str) -> bool:
        """Return whether a visitor knows the token."""
        return self._token is not None and hmac.compare_digest(self._token, text.strip().encode("utf-8", "replace"))

    def log_in(self, response: Response, scope: Scope) -> None:
        """Let the visitor who gets this response be known from now on."""
        until = str(int(time.time()) + _SESSION)
        _set_cookie(response, scope, _COOKIE, f"{until}.{_sign(self._key, until)}", _SESSION)

    def is_known(self, headers: Headers) -> bool:
        """Return whether a request has the cookie of `log_in`, or the token itself as ``Authorization: Bearer``."""
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(credentials):
            return True
        until, _, signature = _cookie(headers, _COOKIE).partition(".")
        return (
            hmac.compare_digest(_sign(self._key, until), signature) and until.isdecimal() and int(until) > time.time()
        )

    def form_key(self, headers: Headers) -> tuple[str, str]:
        """Return the value of the cookie that a visitor has or gets, and what a form must hold beside it."""
        cookie = _cookie(headers, _FORM_COOKIE)
        if len(cookie) != 32 or not cookie.isalnum():
            cookie = secrets.token_hex(16)
        return cookie, _sign(self._form_key, cookie)

    def keep_form_key(self, response: Response, scope: Scope, cookie: str) -> None:
        """Set the cookie of `form_key`."""
        _set_cookie(response, scope, _FORM_COOKIE, cookie, None)

    def is_from_a_form(self, headers: Headers, key: str) -> bool:
        """Return whether what a form held fits the cookie of the visitor."""
        cookie = _cookie(headers, _FORM_COOKIE)
        return bool(cookie) and hmac.compare_digest(
            _sign(self._form_key, cookie).encode(), key.encode("utf-8", "replace")
        )


def _sign(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode("utf-8", "replace"), "sha256").hexdigest()


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None and found.value.isascii() else ""


def _set_cookie(response: Response, scope: Scope, name: str, value: str, seconds: int | None) -> None:
    path = str(scope.get("root_path", "")) or "/"
    is_secure = scope.get("scheme") == "https"
    response.set_cookie(name, value, max_age=seconds, path=path, secure=is_secure, httponly=True, samesite="strict")


class Guard:
    """Refuses requests that were sent to another name, come from another site, or from a visitor without the token."""

    def __init__(self, app: ASGIApp, settings: Settings, sessions: Sessions) -> None:
        self._app = app
        self._settings = settings
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        is_static = path_in(scope).startswith(_STATIC)  # routing changes the scope

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-cache" if is_static else "no-store")
            await send(message)

        answer = self._refusal(scope, Headers(scope=scope)) or self._app
        return await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name(hosts[0]) not in self._settings.hosts:
            text = f"This page does not answer to the name {_name(hosts[0] if hosts else '')!r}."
            return _refuse(421, f"{text} Allow it with --allow-host, or as one of the hosts of create_app.")
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return _refuse(405, "Only GET, HEAD and POST.")
        if scope["method"] == "POST" and not _is_from_here(headers, hosts[0]):
            return _refuse(403, "This form was sent by another site.")
        if self._settings.authorize is not None and not self._settings.authorize(scope):
            return _refuse(403, "You may not see this page.")
        if self._settings.token is None or self._sessions.is_known(headers) or _is_open(path_in(scope)):
            return None
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(f"{scope.get('root_path', '')}/login", 303)
        return _refuse(401, "Send the token as 'Authorization: Bearer TOKEN'.", {"www-authenticate": "Bearer"})


def _name(host: str) -> str:
    """Return the name in a Host header."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _is_from_here(headers: Headers, host: str) -> bool:
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        return False
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def _is_open(path: str) -> bool:
    """Return whether a visitor needs a path to log in."""
    return path == _LOGIN or path.startswith(_STATIC)


def _refuse(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(text + "\n", status, headers)
