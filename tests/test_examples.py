"""The examples run and print what they promise."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmdbresults import open_store
from tests.support.processes import PATIENCE, run_script
from tests.test_docs import README, ROOT, python_blocks

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


def test_the_first_example_of_the_readme_runs_in_a_worker(tmp_path):
    pytest.importorskip("celery")
    (tmp_path / "proj.py").write_text(python_blocks(README)[0].replace("/var/lib/proj", str(tmp_path)))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    celery = [sys.executable, "-m", "celery", "-A", "proj", "worker", "--pool", "solo"]
    call = [sys.executable, "-c", "import proj; print(proj.add.delay(2, 2).get(timeout=60))"]
    with subprocess.Popen(
        celery, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as worker:
        try:
            done = subprocess.run(call, capture_output=True, text=True, timeout=90, env=environment, check=False)
        finally:
            worker.terminate()
    assert done.stdout == "4\n", done.stderr
