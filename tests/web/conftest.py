"""The page as a user starts it, and a browser. A missing Chromium skips on a laptop and fails in CI."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

#: Chromium as root, without any connection of its own.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def serving(*arguments: object) -> Iterator[str]:
    """Run ``lmdbresults web`` during the block; yield the address of the page."""
    command = [sys.executable, "-m", "lmdbresults", "web", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://\S+:\d+", line)
        assert address is not None, f"it does not say where the page is: {line}"
        try:
            yield address[0]
        finally:
            process.terminate()
        assert process.wait(timeout=240) == -signal.SIGTERM


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None and os.environ.get("CI") != "true":
        pytest.skip("not installed: chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS, timeout=100_000)
        yield browser
        browser.close()
