"""The fixtures for users, in the project of docs/guides/testing.md, in a run of pytest of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import run_script

pytest.importorskip("celery")

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guides" / "testing.md").read_text()

MORE = """
import gc
import logging
import time
from pathlib import Path

import pytest
from celery import shared_task
from proj.celery import add, app


@shared_task
def log(text):
    logging.getLogger("proj").warning(text)


@pytest.fixture(scope="module")
def lmdb_celery_settings():
    return {"task_acks_late": True}


@pytest.fixture(scope="module")
def lmdb_celery_worker_options():
    return {"pool": "threads", "concurrency": 2}


def test_settings_options_and_logging(lmdb_celery_worker, lmdb_celery_url, caplog):
    assert app.conf.task_acks_late
    assert app.conf.broker_url == app.conf.result_backend == lmdb_celery_url
    assert lmdb_celery_worker.concurrency == 2
    log.delay("from a task").get(timeout=240)
    assert "from a task" in caplog.text


def test_an_application_that_is_eager_in_tests_is_not_eager_with_a_worker(request):
    app.conf.task_always_eager = True
    request.getfixturevalue("lmdb_celery_app")
    assert add.delay(1, 1).state == "PENDING"


def test_afterwards_everything_is_as_before():
    app.conf.task_always_eager = False
    assert not app.conf.task_acks_late
    assert app.conf.broker_url == "redis://broker/0"
    assert app.conf.result_backend == "redis://broker/1"
    until = time.monotonic() + 240  # a thread of the worker may still be ending
    while is_mapped() and time.monotonic() < until:
        gc.collect()
        time.sleep(0.05)
    assert not is_mapped()


def is_mapped():
    return "celery.lmdb" in Path("/proc/self/maps").read_text()
"""

NEW = """
import pytest
from celery import current_app, shared_task


@pytest.fixture
def lmdb_celery_project():
    return None


@shared_task
def double(x):
    return 2 * x


def test_without_a_project_each_test_has_a_new_application(lmdb_celery_app, lmdb_celery_worker):
    assert double.delay(2).get(timeout=240) == 4


def test_it_is_not_the_current_one_afterwards():
    assert current_app.main != "tests"
"""


def test_the_project_of_the_page_and_another_one_pass(tmp_path: Path):
    files = dict(re.findall(r"```python\n# ([\w/]+\.py)\n(.*?)```", PAGE, flags=re.DOTALL))
    files = {**files, "tests/test_more.py": MORE, "tests/test_new.py": NEW, "pytest.ini": "[pytest]\npythonpath = .\n"}
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    # The plugin is named, as tests may run in an environment that was installed before it existed.
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "lmdbresults_pytest", "-p", "no:cacheprovider"]
    variables = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout


def test_the_plugin_imports_nothing_before_a_fixture_is_used():
    source = "import pytest, sys; before = {*sys.modules}; import lmdbresults_pytest; "
    source += "print(*sorted({name.partition('.')[0] for name in {*sys.modules} - before}))"
    assert run_script(source).stdout == "lmdbresults_pytest\n"


def test_the_names_of_the_fixtures_are_not_those_of_celery():
    import celery.contrib.pytest

    import lmdbresults_pytest

    assert not set(lmdbresults_pytest.__all__) & set(vars(celery.contrib.pytest))
