"""The application of the page's demo: a shop that resizes pictures, charges cards and fails now and then."""

# Celery has no type annotations.
# mypy: disallow-untyped-decorators=False

import os
import random
import time
from typing import Any

from celery import Celery, Task, chain, chord, group

app = Celery("shop")


def configure(path: str) -> None:
    """Keep messages and results in one file, and store what the page can show."""
    file = f"lmdb://{path}"
    app.conf.update(
        broker_url=file,
        result_backend=file,
        result_expires=7 * 86400,
        result_extended=True,  # names, workers, queues and arguments
        task_track_started=True,
        worker_prefetch_multiplier=2,
        task_routes={"media.*": {"queue": "media"}},
    )


class CardDeclined(Exception):
    """Raised when a bank refuses."""


@app.task(name="shop.charge_card")
def charge_card(order: int, amount: float, currency: str = "EUR") -> dict[str, Any]:
    time.sleep(random.uniform(0.02, 0.3))
    if order % 9 == 0:
        raise CardDeclined(f"order {order}: insufficient funds for {amount:.2f} {currency}")
    return {"order": order, "charged": amount, "currency": currency}


@app.task(name="shop.send_receipt", bind=True, max_retries=3)
def send_receipt(self: Task, charged: dict[str, Any]) -> str:
    if random.random() < 0.2:
        raise self.retry(countdown=1, exc=ConnectionError("mail.example.com: connection refused"))
    return f"receipt of order {charged['order']} sent"


@app.task(name="media.fetch")
def fetch(picture: int) -> str:
    time.sleep(random.uniform(0.05, 0.2))
    return f"picture-{picture}.jpg"


@app.task(name="media.resize")
def resize(picture: int, width: int) -> str:
    time.sleep(random.lognormvariate(-1.2, 0.6))
    if picture % 7 == 3 and width == 640:
        raise OSError(f"picture-{picture}.jpg: truncated file")
    return f"picture-{picture}-{width}.jpg"


@app.task(name="media.gallery")
def gallery(pictures: list[str]) -> dict[str, int]:
    return {"pictures": len(pictures)}


@app.task(name="reports.import_rows", bind=True)
def import_rows(self: Task, rows: int) -> str:
    for row in range(0, rows, 100):
        self.update_state(state="PROGRESS", meta={"row": row, "rows": rows})
        time.sleep(0.4)
    return f"{rows} rows"


@app.task(name="reports.slow_part")
def slow_part(number: int) -> int:
    time.sleep(0.2 if number % 5 else 30)
    return number


@app.task(name="reports.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


def order(number: int) -> None:
    """Send what one order needs."""
    chain(charge_card.s(number, round(random.uniform(5, 200), 2)), send_receipt.s()).delay()


def pictures(number: int) -> None:
    """Send a chord: pictures in three sizes, then the gallery."""
    chord([resize.s(number, width) for width in (160, 320, 640)], gallery.s()).delay()


def report() -> None:
    """Send a chord that is in flight for a while."""
    chain(fetch.si(1), chord([slow_part.si(part) for part in range(12)], total.s())).delay()
    group(slow_part.s(part) for part in (1, 2, 3, 4)).delay()
    import_rows.delay(3000)


if "DEMO_FILE" in os.environ:  # set for the worker; the client calls configure()
    configure(os.environ["DEMO_FILE"])
