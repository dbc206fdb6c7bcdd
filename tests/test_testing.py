"""The conformance tests for stores of others: they run as described, and they find defects."""

from pathlib import Path

import pytest

from lmdbresults.testing import FakeClock, StoreConformance, sample
from tests.support.processes import run_script

EXAMPLE = """
from lmdbresults.testing import MemoryStore, StoreConformance

class MyStore(MemoryStore):
    {defect}

class TestMyStore(StoreConformance):
    def make_store(self, clock):
        return MyStore(clock=clock)
"""
RUN = "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', sys.argv[1], '-k', sys.argv[2]]))"


def test_a_sound_store_passes(tmp_path: Path):
    (tmp_path / "test_mine.py").write_text(EXAMPLE.format(defect="pass"))
    run = run_script(RUN, tmp_path, "ttl or scan or closed")
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout


@pytest.mark.parametrize(
    ("defect", "found_by"),
    [
        ("get = lambda self, key: self._records[key].value if key in self._records else None", "invisible_at_once"),
        ("add = MemoryStore.set", "add_stores_only_if_the_key_has_no_value"),
        ("mget = lambda self, keys: [self.get(key) for key in sorted(keys)]", "mget_keeps_the_order"),
        ("update = lambda self, operation: operation(self)", "undoes_the_whole_transaction"),
        ("check = lambda self: ['something is wrong']", "a_new_store_is_empty"),
    ],
    ids=["serves expired records", "add replaces", "mget sorts", "update is not a transaction", "check complains"],
)
def test_a_store_with_a_defect_fails(tmp_path: Path, defect: str, found_by: str):
    (tmp_path / "test_mine.py").write_text(EXAMPLE.format(defect=defect))
    run = run_script(RUN, tmp_path, found_by)
    assert run.returncode == 1
    assert found_by in run.stdout


def test_a_class_that_does_not_say_how_a_store_is_made_gets_an_error():
    with pytest.raises(NotImplementedError, match=r"TestMine must override make_store\(\), or the fixture store"):
        type("TestMine", (StoreConformance,), {})().make_store(FakeClock())


def test_without_pytest_the_error_says_how_to_install_it():
    run = run_script("import sys; sys.modules['pytest'] = None; import lmdbresults.testing")
    assert "ImportError: lmdbresults.testing needs pytest: pip install pytest" in run.stderr


def test_a_fake_clock_stands_still_until_it_is_moved():
    clock = FakeClock(100.0)
    clock.advance(5.5)
    clock.set_back(3.0)
    assert (clock(), clock.now) == (102.5, 102.5)


def test_samples_depend_on_size_and_seed_only():
    assert sample(1000) == sample(1000)
    assert len(sample(1000)) == 1000
    assert sample(1000) != sample(1000, seed=1)
