"""What is on the disk when a real worker has stopped."""

from pathlib import Path

from tests.support.boots import keys_in_next_boot
from tests.support.celery_tasks import make_app, settings_for
from tests.support.celery_workers import Worker


def test_a_stopped_worker_leaves_nothing_to_the_next_power_cut(tmp_path: Path):
    url = f"lmdb://{tmp_path}/results.lmdb?checkpoint_interval=3600"
    settings = {**settings_for(tmp_path), "result_backend": url}
    worker = Worker(tmp_path, settings, "threads")
    try:
        app = make_app(settings)
        results = [app.send_task("add", (number, 1)) for number in range(5)]
        assert [result.get(timeout=240) for result in results] == [1, 2, 3, 4, 5]
        app.backend.store.close()
        assert worker.stop() == 0
    finally:
        worker.kill()
    assert len(keys_in_next_boot(f"{tmp_path}/results.lmdb")) == 5
