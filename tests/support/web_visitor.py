"""A visitor of the page without a browser: requests to the application itself, with cookies that are kept."""

import asyncio
import re
from typing import Any

import httpx
from starlette.types import ASGIApp

__all__ = ["Visitor"]


class Visitor:
    """Asks an application, and remembers its cookies."""

    def __init__(self, app: ASGIApp, base: str = "http://localhost:5556") -> None:
        self._app = app
        self._base = base
        self._cookies = httpx.Cookies()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the response to a request; redirects are not followed."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url=self._base, cookies=self._cookies) as client:
                response = await client.request(method, path, **options)
                self._cookies.update(client.cookies)
                return response

        return asyncio.run(asked())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("GET", path, **options)

    def text(self, path: str, status: int = 200) -> str:
        """Return a page."""
        response = self.get(path)
        assert response.status_code == status, response.text
        return response.text

    def send_form(self, page: str, action: str, **fields: str) -> httpx.Response:
        """Send a form as the browser does that has loaded a page."""
        key = re.search(r'name="key" value="([^"]+)"', self.text(page))
        assert key is not None, "the page has no forms"
        return self.ask("POST", action, data={"key": key[1], **fields}, headers={"origin": self._base})
