"""The clients of the soak: ``python -m tests.stress.soak_clients ROLE SEED`` goes on until it is killed.

The environment says which file they use, as for a worker (`tests.support.celery_tasks`).
"""

import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from celery import chain, chord, group, uuid
from celery.exceptions import TimeoutError as ResultTimeout
from kombu import Consumer, Producer, Queue

from tests.support.celery_tasks import add, app, echo, ignored, total

__all__ = ["ROLES", "SIDE"]

#: A queue that only plain kombu programs use.
SIDE: Final = Queue("side", routing_key="side")
#: Seconds between two actions of a client, at most; the machine has other work.
_PAUSE: Final = 0.3


def publish(chance: random.Random) -> None:
    """Send tasks of all shapes, and wait for some."""
    number = chance.randrange(1000)
    sent = [
        lambda: add.delay(number, 1),
        lambda: add.apply_async((number,), countdown=chance.random()),
        lambda: add.apply_async((number,), priority=chance.randrange(10)),
        lambda: echo.delay("x" * chance.choice((10, 1000, 30_000))),
        lambda: ignored.delay(),
        lambda: group(add.s(n, n) for n in range(3)).apply_async(),
        lambda: chain(add.s(1), add.s(2), add.s(3)).apply_async(),
        lambda: chord([add.s(n, n) for n in range(4)], total.s()).apply_async(),
    ]
    result = chance.choice(sent)()
    if chance.random() < 0.5:
        with suppress(ResultTimeout):
            result.get(timeout=chance.random(), propagate=False)


def wait(chance: random.Random) -> None:
    """Wait in several threads for results that never come."""

    def wait_in_vain() -> None:
        with suppress(ResultTimeout):
            app.AsyncResult(uuid()).get(timeout=chance.random())

    threads = [threading.Thread(target=wait_in_vain, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def consume(chance: random.Random) -> None:
    """Publish to the queue of plain programs, and consume more from it; hold some messages for a while."""
    held: list[Any] = []
    with app.connection_for_write() as connection, connection.channel() as channel:
        producer = Producer(channel)
        for number in range(5):
            producer.publish(number, routing_key="side", declare=[SIDE], expiration=60)
        channel.basic_qos(0, 10, False)
        with Consumer(channel, [SIDE], callbacks=[lambda _, message: held.append(message)]):
            for _ in range(20):
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.05)
                if len(held) > chance.randrange(8):
                    held.pop(0).ack()


def inspect(chance: random.Random) -> None:
    """Ask the workers."""
    asked = app.control.inspect(timeout=1.0)
    chance.choice((asked.ping, asked.active, asked.reserved, asked.stats, asked.active_queues))()


def watch(chance: random.Random) -> None:
    """Receive the events of workers and tasks for a while."""
    with app.connection_for_read() as connection, suppress(TimeoutError):
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: None})
        receiver.capture(limit=50, timeout=2.0, wakeup=True)


ROLES: Final[dict[str, Callable[[random.Random], None]]] = {
    "publisher": publish,
    "waiter": wait,
    "consumer": consume,
    "inspector": inspect,
    "watcher": watch,
}


def main(role: str, seed: int) -> None:
    """Go on until the process is killed."""
    chance, act = random.Random(seed), ROLES[role]
    app.set_current()
    while True:
        act(chance)
        time.sleep(chance.random() * _PAUSE)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
