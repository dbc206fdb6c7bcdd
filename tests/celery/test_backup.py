"""Copies of the store of a Celery backend, and what of it is on the disk."""

from pathlib import Path

import celery


def test_a_backend_makes_a_backup(tmp_path: Path):
    app = celery.Celery("copied", broker="memory://", backend=f"lmdb://{tmp_path}/results.lmdb?durability=none")
    app.backend.store_result("task", 42, "SUCCESS")
    app.backend.backup(tmp_path / "copy.lmdb")
    app.backend.store.close()
    restored = celery.Celery("restored", broker="memory://", backend=f"lmdb://{tmp_path}/copy.lmdb?durability=none")
    assert restored.AsyncResult("task").get(timeout=240) == 42
    restored.backend.store.close()


def test_flush_makes_everything_so_far_survive_a_power_failure(tmp_path: Path):
    app = celery.Celery("flushed", broker="memory://", backend=f"lmdb://{tmp_path}/results.lmdb")
    app.backend.store_result("task", 42, "SUCCESS")
    app.backend.flush()
    assert not app.backend.store._environment.file.checkpoints.is_behind()
    app.backend.store.close()
