"""Celery's results in the database of a Django project: django-celery-results over SQLite."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers import celery
from benchmarks.peers.base import Peer, require
from benchmarks.rows import BOUNDED


class DjangoResults(celery.Backend):
    """A process has one database at a time: the last that was opened."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        _use(folder / "django.sqlite")
        super().__init__(folder, **settings)

    @classmethod
    def serve(cls, folder: Path, stack: ExitStack, **_: Any) -> None:
        for module in ("django", "django_celery_results"):
            require(module)
        from django.core.management import call_command

        _use(folder / "django.sqlite")
        call_command("migrate", verbosity=0)

    @classmethod
    def url(cls, folder: Path, **_: Any) -> str:
        return "django-db"

    def close(self) -> None:
        from django.db import connections

        connections.close_all()


def _use(path: Path) -> None:
    """Configure Django as a project with this database, or change its path."""
    import django
    from django.conf import settings
    from django.db import connections

    if settings.configured:
        connections.close_all()
        connections["default"].settings_dict["NAME"] = str(path)
        return
    pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"
    options = {"init_command": pragmas, "transaction_mode": "IMMEDIATE", "timeout": 60}
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": options}
    settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["django_celery_results"], USE_TZ=True)
    django.setup()


RESULTS = Peer(
    name="Django", configuration="django-celery-results, SQLite in WAL mode, synchronous=NORMAL", durability=BOUNDED,
    client=DjangoResults, loss="4 MB of WAL", operations=40,
)  # fmt: skip
