"""What importing the package imports: nothing of Celery, and nothing expensive that is rarely needed."""

from pathlib import Path

import pytest

from tests.support.processes import run_script

FOREIGN = ("celery", "kombu", "billiard", "amqp", "vine", "redis", "valkey")

IMPORTS = """
import sys

sys.path.insert(0, sys.argv[1])
import lmdbresults, lmdbresults.app, lmdbresults.backends, lmdbresults.results
import lmdbresults.store.redis, lmdbresults.testing

assert not set(sys.modules) & set(sys.argv[2:]), sorted(sys.modules)
for name in sys.argv[2:]:
    try:
        __import__(name)
    except AssertionError:
        pass
    else:
        raise SystemExit(f"{name} was importable, so that nothing was tested")
"""


def test_importing_the_package_loads_no_module_that_few_processes_need():
    names = ("asyncio", "subprocess", "ssl", "concurrent.futures", "multiprocessing", "bz2", "lzma", "ctypes")
    source = "import sys, uuid; before = {*sys.modules}; import lmdbresults; new = {*sys.modules} - before; "
    source += "print(*new.intersection(sys.argv[1:]))"  # Python 3.10 imports subprocess for uuid
    assert run_script(source, *names).stdout == "\n"


@pytest.mark.interface("no Celery")
def test_the_package_imports_nothing_of_celery_even_where_it_is_installed(tmp_path: Path):
    for name in FOREIGN:
        (tmp_path / f"{name}.py").write_text("raise AssertionError(f'{__name__} was imported')")
    run = run_script(IMPORTS, tmp_path, *FOREIGN)
    assert run.returncode == 0, run.stderr
