"""Ends of tasks under kills at every fault point: what an end sends is sent once, and nothing is lost.

``LMDBRESULTS_ENDS_KILLS``: how often a process dies; a thousand in the long form.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group, uuid

from tests.support.broker_file import one_file
from tests.support.celery_needed import needs_callback_marks
from tests.support.celery_workers import OPTIONS, ROOT
from tests.support.end_tasks import (
    KILL,
    LOG,
    SETTINGS,
    errback,
    fails,
    gather,
    link,
    lost_once,
    make_app,
    quietly_stubborn,
    replaces,
    step,
    stubborn,
)

KILLS = int(os.environ.get("LMDBRESULTS_ENDS_KILLS", "12"))
#: Seconds without any progress after which the test stops waiting.
PATIENCE = 240.0


class Mortal:
    """A worker that dies by itself, or whose children do, at fault points; another one takes its place."""

    def __init__(self, folder: Path, settings: dict[str, Any], pool: str, kill: str) -> None:
        self._log, self._runs = folder / "worker.log", folder / "runs"
        self._pool, self._kill = pool, kill
        self._environment = {**os.environ, SETTINGS: json.dumps(settings), LOG: str(self._runs)}
        self._workers_lost = 0
        self._is_calm = False
        self._process: subprocess.Popen[bytes] | None = None

    def tend(self) -> None:
        """Replace a worker that has died; once enough have, by one that does not."""
        if self.deaths() >= KILLS and not self._is_calm:
            self.kill()
            self._is_calm = True
        if self._process is not None and self._process.poll() is None:
            return
        self._workers_lost += self._process is not None
        command = [sys.executable, "-m", "celery", "--app", "tests.support.end_tasks", "worker", *OPTIONS]
        dying = {} if self._is_calm else {KILL: json.dumps([self._kill, 0.05])}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--pool", self._pool, "--concurrency", "2"],
                cwd=ROOT,
                env={**self._environment, **dying},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def deaths(self) -> int:
        if self._kill == "worker":
            return self._workers_lost
        return self._log.read_text(errors="replace").count("exited with 'signal 9") if self._log.exists() else 0

    def runs(self) -> list[list[Any]]:
        return [json.loads(line) for line in self._runs.read_text().splitlines()] if self._runs.exists() else []

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None


def send_one_of_each(number: int, expected: Counter[tuple[str, int]]) -> None:
    """Send one work of each shape; count what must run, and with how many retries."""

    def expect(*labels: str, retries: int = 0) -> None:
        expected.update((label, retries) for label in labels)

    name = f"{number}"
    links = [link.s(f"{name} link {each}") for each in range(2)]
    step.s(1, f"{name} linked").apply_async(link=links)
    expect(f"{name} linked", f"{name} link 0", f"{name} link 1")

    labels = [f"{name} chain {each}" for each in range(4)]
    chain(step.s(1, labels[0]), *(step.s(label) for label in labels[1:])).apply_async()
    expect(*labels)

    header = [step.s(each, f"{name} part {each}") for each in range(3)]
    chord(header, gather.s(f"{name} body")).apply_async()
    expect(*(f"{name} part {each}" for each in range(3)), f"{name} body")

    chain(
        step.s(1, f"{name} first"), group(step.s(f"{name} inner {each}") for each in range(2)), gather.s(f"{name} last")
    ).apply_async()
    expect(f"{name} first", f"{name} inner 0", f"{name} inner 1", f"{name} last")

    stubborn.s(f"{name} retry").apply_async()
    quietly_stubborn.s(f"{name} quiet").apply_async()
    for retries in range(3):
        expect(f"{name} retry", retries=retries)
    for retries in range(2):
        expect(f"{name} quiet", retries=retries)

    replaces.s(f"{name} replaced", 1).apply_async()
    expect(f"{name} replaced", f"{name} replaced/0")
    replaces.s(f"{name} grouped", 3).apply_async()
    expect(f"{name} grouped", *(f"{name} grouped/{each}" for each in range(3)))

    only = uuid()  # a task that is not run again if its process dies: it succeeds, or has failed
    lost_once.s(f"{name} only").apply_async(
        task_id=only, link=link.s(f"one of {only}"), link_error=errback.s(f"one of {only}")
    )
    expect(f"one of {only}")

    failing = uuid()
    fails.s(f"{name} fails").apply_async(task_id=failing, link_error=errback.s(f"errback of {failing}"))
    expect(f"{name} fails", f"errback of {failing}")


def verdict(runs: list[list[Any]], expected: Counter[tuple[str, int]]) -> tuple[list[Any], list[Any]]:
    """Return what was lost and what was sent twice.

    A delivery may run twice: the pool gives a task to another child if one dies before the pool has read that it began.
    """
    ids: dict[tuple[str, int], set[str]] = {}
    first_deliveries: dict[tuple[str, int], set[str]] = {}
    for label, task_id, retries, tag, was_delivered in runs:
        ids.setdefault((label, retries), set()).add(task_id)
        first_deliveries.setdefault((label, retries), set()).update([] if was_delivered else [tag])
    twice = [each for each in ids if len(first_deliveries[each]) > 1 or len(ids[each]) > 1]
    return sorted(expected.keys() - ids.keys()), sorted(twice)


@needs_callback_marks
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("pool", "kill"), [("prefork", "child"), ("prefork", "worker"), ("threads", "worker")])
def test_what_an_end_sends_is_sent_once_while_processes_die(
    tmp_path: Path, pool: str, kill: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = one_file(tmp_path / "celery.lmdb", worker_prefetch_multiplier=2)
    app, worker = make_app(settings), Mortal(tmp_path, settings, pool, kill)
    app.set_current()
    expected: Counter[tuple[str, int]] = Counter()
    rounds, seen, until = 0, 0, time.monotonic() + PATIENCE
    try:
        while verdict(worker.runs(), expected)[0] or worker.deaths() < KILLS:
            if worker.deaths() < KILLS and len(worker.runs()) > len(expected) - 40:
                send_one_of_each(rounds, expected)
                rounds += 1
            worker.tend()
            if len(worker.runs()) > seen:
                seen, until = len(worker.runs()), time.monotonic() + PATIENCE
            assert time.monotonic() < until, f"lost: {verdict(worker.runs(), expected)[0]}"
            time.sleep(0.05)
        time.sleep(1.0)  # for what is sent twice
        with capsys.disabled():
            print(f"\nends: {pool}, {worker.deaths()} deaths of a {kill}: {len(expected)} runs due, {seen} seen")
        assert verdict(worker.runs(), expected) == ([], [])
        assert app.backend.store.check() == []
    finally:
        worker.kill()
        app.backend.close()
        app.close()
