"""A page with something to see: a day of invented history, then a real worker that works while you watch.

    python examples/web_demo.py [--port 5556] [--folder FOLDER]

The page is at http://127.0.0.1:5556/, with actions allowed. Ctrl-C stops it.
"""

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, Final

import web_demo_tasks

import lmdbresults
from lmdbresults.record import RECORD_VERSION, Payload, TaskRecord
from lmdbresults.store.transactions import WriteTransaction

WORKER: Final = "-m celery --app web_demo_tasks worker --concurrency 4 --queues celery,media --loglevel INFO -n shop@%h"
MINUTES: Final = 1440
#: How long a run of each task takes.
SECONDS: Final = {"shop.charge_card": 0.16, "shop.send_receipt": 0.02, "media.resize": 0.3, "media.gallery": 0.004}
TRACEBACK: Final = """\
Traceback (most recent call last):
  File "/srv/shop/web_demo_tasks.py", line 41, in charge_card
    raise CardDeclined(f"order {order}: insufficient funds for {amount:.2f} {currency}")
web_demo_tasks.CardDeclined: order 117: insufficient funds for 42.00 EUR
"""


def invent_history(path: Path) -> None:
    """Store results that look as if the shop had been busy for a day, more so by day than by night."""
    chance, now = random.Random(5), datetime.now(timezone.utc)
    names = {"shop.charge_card": 30, "shop.send_receipt": 28, "media.resize": 40, "media.gallery": 9}

    def store(txn: WriteTransaction, minute: int) -> None:
        busy = 26 + 16 * math.cos(minute / MINUTES * 2 * math.pi)  # least half a day ago
        for _ in range(max(round(chance.gauss(busy, busy / 6)), 0)):
            name = chance.choices(list(names), list(names.values()))[0]
            failed = name == "shop.charge_card" and chance.random() < (0.3 if 500 < minute < 540 else 0.06)
            ended = now - timedelta(minutes=minute + chance.random())
            runtime = chance.lognormvariate(math.log(SECONDS[name]), 0.5)
            txn.set(b"celery-task-meta-" + str(uuid.uuid4()).encode(), _record(name, failed, ended, runtime))

    with lmdbresults.open_store(path) as opened:
        for minute in range(1, MINUTES):
            opened.update(partial(store, minute=minute))


def _record(name: str, failed: bool, ended: datetime, runtime: float) -> bytes:
    stored = {"exc_type": "CardDeclined", "exc_message": ["insufficient funds"], "exc_module": "web_demo_tasks"}
    payload = Payload(
        "application/json",
        "utf-8",
        None,
        json.dumps(stored if failed else {"ok": True}).encode(),
        json.dumps({"args": [117, 42.0], "kwargs": {}, "runtime": runtime}, separators=(",", ":")).encode(),
    )
    state, traceback = ("FAILURE", TRACEBACK) if failed else ("SUCCESS", None)
    queue = "media" if name.startswith("media") else "celery"
    return TaskRecord(
        RECORD_VERSION, state, ended.isoformat(), name, "shop@yesterday", queue, 0, None, None, [], traceback, payload
    ).pack()


def keep_busy(stop: threading.Event) -> None:
    """Send orders and pictures until the demo ends."""
    web_demo_tasks.report()
    number = 0
    while not stop.wait(random.uniform(1.0, 4.0)):
        number += 1
        web_demo_tasks.order(number)
        if number % 3 == 0:
            web_demo_tasks.pictures(number)
        if number % 60 == 0:
            web_demo_tasks.report()


@contextmanager
def running(command: list[str], path: Path, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends."""
    environment = {**os.environ, "DEMO_FILE": str(path)}
    process = subprocess.Popen(command, cwd=Path(__file__).parent, env=environment, start_new_session=True, **streams)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def demo(folder: Path, port: int) -> None:
    path = folder / "celery.lmdb"
    web_demo_tasks.configure(str(path))
    invent_history(path)
    stop = threading.Event()
    sender = threading.Thread(target=keep_busy, args=(stop,), daemon=True)
    page = [sys.executable, "-m", "lmdbresults", "web", str(path), "--port", str(port), "--allow-actions"]
    with (
        (folder / "worker.log").open("wb") as log,
        running([sys.executable, *WORKER.split()], path, stdout=log, stderr=log),
        running(page, path) as served,
    ):
        sender.start()
        try:
            served.wait()
        except KeyboardInterrupt:
            print("stopping the worker and the page")
        finally:
            stop.set()
            sender.join(10)


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the page over a lively example.")
    parser.add_argument("--port", type=int, default=5556)
    parser.add_argument("--folder", type=Path, help="where to keep the file; default: a temporary folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stopped)
    if options.folder is not None:
        demo(options.folder, options.port)
        return
    with tempfile.TemporaryDirectory(prefix="lmdbresults-demo-") as name:
        demo(Path(name), options.port)


if __name__ == "__main__":
    main()
