"""Chords through several Celery workers while pool processes and whole workers are killed at random.

``LMDBRESULTS_SOAK_SECONDS``: how long processes are killed; ``LMDBRESULTS_SOAK_CHORDS``: the number of chords of 50
parts. The long form is 120 seconds and 200 chords. Each chord must end with the right list.

On a Cluster a master is killed as well, in the middle, and its replica takes over. With ``min_replicas`` each chord
must end with the right list nevertheless, though the replica had fallen behind. Without it, what that master
acknowledged at last may be lost: a chord may be missing if its records, or the result of its body, lay on that master;
all others, and each that ends, are right.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import LMDBStore
from lmdbresults.store.chord_records import ENDED
from lmdbresults.store.redis.layout import SLOTS, Layout, slot_of
from tests.stress.celery_chords import Sent, make_chord, settings_with_redis
from tests.support.celery_tasks import make_app, settings_for
from tests.support.celery_workers import Worker
from tests.support.chord_keys import leftovers
from tests.support.redis_servers import fail_over, redis_cluster

SECONDS = float(os.environ.get("LMDBRESULTS_SOAK_SECONDS", "4"))
CHORDS = int(os.environ.get("LMDBRESULTS_SOAK_CHORDS", "10"))
PARTS = 50
WORKERS = 2
MASTERS = 3
#: Seconds for which a replica hears nothing before its master is killed, if writers wait for replicas.
LAG = 0.3
#: Seconds without a change after which the test stops waiting. What a broker or a master has lost never comes, so they
#: are often waited in full.
STILL = 30.0


class Fleet:
    """Several workers. Killed processes are counted and replaced."""

    def __init__(self, folder: Path, settings: dict[str, Any], choose: random.Random) -> None:
        self._settings, self._choose = settings, choose
        self.killed: Counter[str] = Counter()
        self.folders = [folder / str(number) for number in range(WORKERS)]
        for each in self.folders:
            each.mkdir()
        self._workers = [self._start(each) for each in self.folders]

    def _start(self, folder: Path) -> Worker:
        return Worker(folder, self._settings)

    def kill_one(self) -> None:
        """Kill a pool process, or one time in eight a whole worker."""
        number = self._choose.randrange(WORKERS)
        if self._choose.random() < 1 / 8:
            self._workers[number].kill()
            self._workers[number] = self._start(self.folders[number])
            self.killed["workers"] += 1
        else:
            with suppress(AssertionError):  # no pool process has stored a result yet
                self._workers[number].kill_one(self._choose)
                self.killed["processes"] += 1

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()


def wait_until_nothing_changes(count: Callable[[], int], target: int) -> None:
    """Wait until a count has reached its target, or has stopped growing."""
    seen, until = count(), time.monotonic() + STILL
    while seen < target and time.monotonic() < until:
        time.sleep(0.1)
        now = count()
        if now > seen:
            seen, until = now, time.monotonic() + STILL


def send_and_kill(app: Any, fleet: Fleet, choose: random.Random, at_half: Callable[[], None]) -> list[str]:
    """Send all chords; kill a process after each, and after the last until the time is over. Return their groups."""
    until, groups = time.monotonic() + SECONDS, list[str]()
    while time.monotonic() < until or len(groups) < CHORDS:
        if (sent := len(groups)) < CHORDS:
            groups.append(make_chord(app, sent, PARTS).apply_async(task_id=f"body-{sent}").parent.id)
            if sent == CHORDS // 2:
                at_half()
        time.sleep(SECONDS / CHORDS / 2 + choose.random() * SECONDS / CHORDS)
        fleet.kill_one()
    return groups


def unfinished(store: Any) -> list[bytes]:
    """Return what chords have left in a file, or on a server those that have not ended."""
    if isinstance(store, LMDBStore):
        return leftovers(store)
    return [key for key, head in store.chords.in_flight(b"chord-unlock-") if head.state != ENDED]


class Cluster:
    """Results on a Cluster with replicas, one master of which is killed."""

    def __init__(self, folder: Path, min_replicas: int, until: ExitStack) -> None:
        self._folder, self._until, self._min_replicas = folder, until, min_replicas
        self._nodes = until.enter_context(redis_cluster(folder, MASTERS, replicas=1))
        self._thread = until.enter_context(ThreadPoolExecutor(1))
        self._replaced: list[Future[None]] = []
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)
        self.url = f"redis+cluster://{hosts}?retry_timeout=120&min_replicas={min_replicas}"

    def replace_a_master(self) -> None:
        """Kill a master, in a thread. Its replica takes over."""
        failing = fail_over(self._folder, self._nodes, LAG if self._min_replicas else 0.0)
        self._replaced.append(self._thread.submit(self._until.enter_context, failing))

    def is_whole(self) -> bool:
        """Return True once a master was replaced, and its server is a replica."""
        [replaced] = self._replaced
        replaced.result()
        return True

    def may_have_lost(self, *keys: bytes) -> bool:
        """Return whether one of some keys may have been lost: its master did not wait for the replica that replaced it.

        The replica of a master that was silent for too long, on a busy machine, may have replaced it too.
        """
        slots = [slot_of(Layout("", 0).name(key)) for key in keys]
        return not self._min_replicas and any(
            SLOTS * number // MASTERS <= slot < SLOTS * (number + 1) // MASTERS
            for number, replica in enumerate(self._nodes[MASTERS:])
            for slot in slots
            if replica.call("ROLE")[0] == b"master"
        )


@pytest.fixture
def cluster(results: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster | None]:
    """The Cluster of the results that lie on one."""
    if "Cluster" not in results:
        yield None
        return
    with ExitStack() as until:
        yield Cluster(tmp_path_factory.mktemp("cluster"), int("replicas" in results), until)


@pytest.fixture
def backend(results: str, redis_broker: str, tmp_path: Path, cluster: Cluster | None) -> str:
    """The URL of the results."""
    if cluster is not None:
        return f"lmdbresults+{cluster.url}"
    on_redis = f"lmdbresults+unix://{redis_broker.removeprefix('redis+socket://')}?db=9"
    return on_redis if results == "on Redis" else str(settings_for(tmp_path)["result_backend"])


@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize("results", ["in a file", "on Redis", "on a Cluster", "on a Cluster and its replicas"])
def test_every_chord_ends_with_the_right_list_while_workers_are_killed(
    tmp_path: Path,
    redis_broker: str,
    results: str,
    backend: str,
    cluster: Cluster | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    choose = random.Random(5)
    settings = {**settings_with_redis(tmp_path, redis_broker), "result_backend": backend}
    app, fleet = make_app(settings), Fleet(tmp_path, settings, choose)
    store, bodies, sent = app.backend.store, [f"body-{n}" for n in range(CHORDS)], Sent(app, fleet.folders)

    def ended() -> int:
        keys = [app.backend.get_key_for_task(body) for body in bodies]
        return sum(value is not None for value in store.mget(keys))  # this read does not recover chords

    try:
        groups = send_and_kill(app, fleet, choose, cluster.replace_a_master if cluster else lambda: None)
        wait_until_nothing_changes(ended, CHORDS)
        resent = sent.send_lost_again() if ended() < CHORDS else 0
        wait_until_nothing_changes(ended, CHORDS - len(sent.lost_by_workers()))
        wait_until_nothing_changes(lambda: -len(unfinished(store)), 0)
        assert cluster is None or cluster.is_whole()
        metas = {body: result(app, body) for body in bodies if body not in sent.lost_by_workers()}
        right = [body for n, body in enumerate(bodies) if metas.get(body) == [[n, index] for index in range(PARTS)]]
        may_be_lost = cluster.may_have_lost if cluster else lambda *keys: False
        lost = [
            body
            for body, group in zip(bodies, groups, strict=True)
            if body in metas and body not in right
            if may_be_lost(b"chord-unlock-" + group.encode(), app.backend.get_key_for_task(body))
        ]
        left = [key for key in unfinished(store) if not may_be_lost(key)]
        with capsys.disabled():
            print(f"\nsoak, results {results}: {CHORDS} chords of {PARTS}, {dict(fleet.killed)} killed: ", end="")
            print(f"{len(right)} right, {len(lost)} lost with a master, ", end="")
            print(f"{len(metas) - len(right) - len(lost)} wrong or missing, {len(left)} keys left over; ", end="")
            print(f"lost by the broker: {resent} parts (sent again), {CHORDS - len(metas)} bodies")
        assert sorted([*right, *lost]) == sorted(metas)
        assert not any(isinstance(metas[body], list) for body in lost), "a list that is not right"
        assert left == []
        if isinstance(store, LMDBStore):
            assert store.check() == []
    finally:
        fleet.close()
        store.close()
        app.close()


def result(app: Any, task_id: str) -> Any:
    meta = app.backend.get_task_meta(task_id)
    return meta["result"] if meta["status"] == "SUCCESS" else meta
