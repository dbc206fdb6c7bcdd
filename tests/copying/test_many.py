"""Many results from a file to Redis and back, and to Celery's layout: rate and memory.

``LMDBRESULTS_COPY_RESULTS``: how many; the long form is 1,000,000.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmdbresults import LMDBStore, open_store
from tests.copying.test_stores import record

MANY = int(os.environ.get("LMDBRESULTS_COPY_RESULTS", "4000"))
#: Results that are stored in one transaction.
BATCH = 1000

#: Copies, verifies, and prints what was done, how fast, and the peak of its memory.
COPY = """
import json, sys, threading, time
from lmdbresults.copying import copy, open_source, open_target, verify
source, target, source_layout, layout = sys.argv[1:]
one, other = open_source(source, layout=source_layout), open_target(target, layout=layout)

def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

def look():
    global peak
    while True:
        peak = max(peak, own())
        time.sleep(0.01)

before = peak = own()  # without the pages of the mapped file, which the system can take back
threading.Thread(target=look, daemon=True).start()
done = copy(one, other)
differences = list(verify(one, other))
print(json.dumps([done.merged["result"].written, done.seconds, peak - before, done.problems + differences]))
"""


def run(*arguments: str) -> tuple[int, float, int, list[str]]:
    done = subprocess.run([sys.executable, "-c", COPY, *arguments], capture_output=True, text=True, check=True)
    written, seconds, kilobytes, problems = json.loads(done.stdout)
    return written, seconds, kilobytes, problems


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("layout", ["lmdbresults", "celery"])
def test_many_results_go_to_redis_and_come_back_in_little_memory(
    layout: str, tmp_path: Path, database: str, celery: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    here, back = tmp_path / "here.lmdb", tmp_path / "back.lmdb"
    with open_store(here, durability="none") as store:
        fill(store)
    there, took = (str(here), database, ("lmdbresults", layout)), 0.0
    for source, target, layouts in (there, (database, str(back), (layout, "lmdbresults"))):
        written, seconds, kilobytes, problems = run(source, target, *layouts)
        took += seconds
        with capsys.disabled():
            where = "to" if target == database else "from"
            print(f"\ncopy of {written} results {where} Redis, layout {layout}: ", end="")
            print(f"{written / seconds:.0f} a second, {kilobytes / 1024:.0f} MiB more memory at its peak")
        assert (written, problems) == (MANY, [])
        assert kilobytes < 48 << 10
    if layout == "celery":
        stock = celery(database.replace("unix://", "redis+socket://"))
        assert_all_equal(celery(f"lmdb://{here}?durability=none").backend, stock.backend)
    with open_store(here, durability="none") as one, open_store(back, durability="none") as other:
        assert sum(1 for _ in other.scan(head=0)) == MANY
        keys = [b"celery-task-meta-task-%d" % number for number in range(0, MANY, max(MANY // 100, 1))]
        # Time passes between reading and writing the time that is left: a batch at most, and no more than all took.
        assert one.ttls(keys) == pytest.approx(other.ttls(keys), abs=1.0 + took)


def assert_all_equal(ours: Any, stock: Any) -> None:
    """Read each result through both backends, and the time that is left to it."""
    for start in range(0, MANY, BATCH):
        ids = [f"task-{number}" for number in range(start, min(start + BATCH, MANY))]
        for task_id in ids:
            assert stock.get_task_meta(task_id, cache=False) == ours.get_task_meta(task_id, cache=False)
        asked = time.monotonic()
        here = ours.store.ttls([ours.get_key_for_task(task_id) for task_id in ids])
        with stock.client.pipeline(transaction=False) as pipe:
            for task_id in ids:
                pipe.pttl(stock.get_key_for_task(task_id))
            there = [left / 1000 for left in pipe.execute()]
        assert here == pytest.approx(there, abs=1.0 + time.monotonic() - asked)


def fill(store: LMDBStore) -> None:
    """Store results of about 300 bytes, which expire in a day."""
    for start in range(0, MANY, BATCH):
        numbers = range(start, min(start + BATCH, MANY))
        store.update(
            lambda txn, numbers=numbers: [
                txn.set(b"celery-task-meta-task-%d" % n, record(text=b'{"number": %d}' % n), 86400.0) for n in numbers
            ]
        )
