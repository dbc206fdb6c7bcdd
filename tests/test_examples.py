"""The examples run and print what they promise."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from lmdbresults import open_store
from tests.support.processes import PATIENCE, run_script

EXAMPLES = Path(__file__).parent.parent / "examples"
POOL_OUTPUT = "the square of 7: 49\nthe sum of 100 squares: 328350\n"


def test_the_pool_example_runs() -> None:
    command = [sys.executable, "-W", "error", EXAMPLES / "pool.py"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == (POOL_OUTPUT, "", 0)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_the_pool_example_works_with_every_start_method(method: str, path: str) -> None:
    ended = run_script(
        """
import multiprocessing, sys
method, examples, path = sys.argv[1:]
sys.path.insert(0, examples)
import pool
multiprocessing.set_start_method(method)
pool.main(path)
""",
        method,
        EXAMPLES,
        path,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == (POOL_OUTPUT, "", 0)
    with open_store(path) as store:
        assert len(list(store.scan(b"celery-task-meta-"))) == 102
        assert store.check() == []
