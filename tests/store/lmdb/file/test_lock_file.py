"""LMDB's lock file, as this package maps it."""

from pathlib import Path

from lmdbresults import open_store
from lmdbresults.store.lmdb.file.lock_file import LockFile
from tests.support.interrupting import Interruption, count_points, interrupted


def test_closing_that_a_signal_handler_interrupts_can_be_repeated(path: Path) -> None:
    def handler() -> None:
        raise Interruption

    kept: list[Interruption] = []  # with their tracebacks, whose frames hold what they were about to close
    open_store(path, durability="none").close()
    points = count_points(LockFile(str(path)).close)
    for point in range(points):
        lock_file = LockFile(str(path))
        try:
            with interrupted(point, handler):
                lock_file.close()
        except Interruption as error:
            kept.append(error)
        lock_file.close()
        assert lock_file.map is None
    assert kept
