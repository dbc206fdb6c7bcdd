"""Make the screenshots of docs/monitoring.md: `python -m tests.web.screenshots`. Needs the extra dev, and Chromium.

The demo runs in a folder of its own until a chord is in flight; then a headless browser visits its pages.
"""

import io
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.web.conftest import ARGUMENTS

ROOT: Final = Path(__file__).parents[2]
TARGET: Final = ROOT / "docs" / "screenshots"
#: Bytes of a picture at most, and seconds in which the demo gets going.
MOST_BYTES: Final = 150_000
PATIENCE: Final = 120
DESK: Final = {"viewport": {"width": 1280, "height": 860}}
#: Shows paths of this machine as those of a server.
HIDE_PATHS: Final = """(folders) => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    let text = walk.currentNode.data;
    for (const folder of folders) text = text.replaceAll(folder, "/srv/shop");
    walk.currentNode.data = text.replace(/^.*[/]celery.lmdb$/, "/var/lib/shop/celery.lmdb");
  }
}"""
PHONE: Final = {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 1}


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "web_demo.py", "--port", "0", "--folder", folder]
        demo = subprocess.Popen(command, cwd=ROOT / "examples", stdout=subprocess.PIPE, text=True)
        try:
            address = re.search(r"http://\S+:\d+", demo.stdout.readline())[0]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
                take_all(browser, address)
        finally:
            demo.send_signal(signal.SIGTERM)
            demo.wait(30)


def take_all(browser: Browser, address: str) -> None:
    page = visit(browser, address, "/chords", DESK)
    chord = first(page, "/chords", ".rows tr:has-text('of 12') a.task")
    take(visit(browser, address, chord, {"viewport": {"width": 1280, "height": 760}}), "chord")  # while it is in flight
    failed = first(page, "/tasks?state=FAILURE&name=media.resize", ".rows a.task")
    overview = visit(browser, address, "/", DESK)
    overview.locator("a[href*='worker=']").nth(1).wait_for()  # the figures may be those from the start of the demo
    take(overview, "overview", whole=True)
    take(visit(browser, address, "/tasks?since=1h", DESK), "tasks")
    take(visit(browser, address, failed, DESK), "failed-task", whole=True)
    take(visit(browser, address, "/", {**DESK, "color_scheme": "dark"}), "dark")
    take(visit(browser, address, "/tasks", PHONE), "phone")


def visit(browser: Browser, address: str, path: str, options: dict[str, Any]) -> Page:
    page = browser.new_context(base_url=address, timezone_id="Europe/Lisbon", **options).new_page()
    page.goto(path)
    page.locator("#pulse[data-live=live]").wait_for()
    return page


def first(page: Page, path: str, selector: str) -> str:
    """Return where the first link on a page leads, once there is one."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        page.goto(path)
        if page.locator(selector).count():
            return page.locator(selector).first.get_attribute("href")
        time.sleep(1)
    raise TimeoutError(f"{path} stays empty")


def take(page: Page, name: str, *, whole: bool = False) -> None:
    """Save a picture, in 256 colours if it is too large."""
    page.wait_for_timeout(1200)  # the mark of a change fades
    page.evaluate(HIDE_PATHS, [str(ROOT / ".venv"), str(ROOT / "examples"), sys.prefix])
    picture = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    path = TARGET / f"{name}.png"
    picture.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MOST_BYTES, f"{path.name} is too large"
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
