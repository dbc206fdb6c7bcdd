"""What is on the disk when a real worker has stopped."""

from pathlib import Path

import pytest
from billiard.pool import Pool
from celery.concurrency.prefork import process_destructor

from lmdbresults import open_store
from tests.support.boots import keys_in_next_boot
from tests.support.celery_tasks import make_app, settings_for
from tests.support.celery_workers import Worker
from tests.support.covering import LONG, covered, last_commit


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_that_stops_leaves_nothing_to_the_next_power_cut(tmp_path: Path, pool: str):
    url = f"lmdb://{tmp_path}/results.lmdb?checkpoint_interval=3600"
    settings = {**settings_for(tmp_path), "result_backend": url}
    worker = Worker(tmp_path, settings, pool)
    try:
        app = make_app(settings)
        results = [app.send_task("add", (number, 1)) for number in range(5)]
        assert [result.get(timeout=60) for result in results] == [1, 2, 3, 4, 5]
        app.backend.store.close()
        assert worker.stop() == 0
    finally:
        worker.kill()
    assert len(keys_in_next_boot(f"{tmp_path}/results.lmdb")) == 5


def write(path: str) -> None:
    open_store(path, checkpoint_interval=LONG).set(b"key", b"value")


def test_a_process_of_the_prefork_pool_that_ends_leaves_nothing_to_the_others(tmp_path: Path):
    """As it does after ``worker_max_tasks_per_child`` tasks, by a way of ending of its own."""
    path = f"{tmp_path}/results.lmdb"
    open_store(path).close()
    with open_store(path, checkpoint_interval=LONG) as store:
        pool = Pool(1, on_process_exit=process_destructor)
        pool.apply(write, (path,))
        pool.close()
        pool.join()
        assert store.get(b"key") == b"value"
        assert covered(store) == last_commit(store)
