"""The processes of Celery's prefork pool end by `os._exit`. At a signal before that, they close their files."""

from typing import Any

from celery.signals import worker_process_shutdown

from lmdbresults.process.exit_hooks import exits

__all__: list[str] = []


def _close_files(**kwargs: Any) -> None:
    exits.close_all()


worker_process_shutdown.connect(_close_files)  # by weak reference: the function lives as long as the module
