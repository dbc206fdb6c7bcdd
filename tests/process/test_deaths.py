"""A process that exits is seen at once."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lmdbresults.process import identity
from lmdbresults.process.deaths import DeathWatch
from lmdbresults.process.identity import Owner, current_owner

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the kernel tells of no exits")


@pytest.fixture
def watch() -> Iterator[DeathWatch]:
    watch = DeathWatch()
    yield watch
    watch.close()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield child
        child.kill()


def owner_of(child: "subprocess.Popen[bytes]") -> Owner:
    return Owner(child.pid, identity._start_time(child.pid), current_owner().boot)


def is_readable(watch: DeathWatch, seconds: float = 0.0) -> bool:
    return bool(select.select([watch], [], [], seconds)[0])


def test_a_killed_process_makes_the_descriptor_readable_until_it_is_drained(watch, child):
    assert watch.watch([owner_of(child), current_owner()]) is False
    descriptor = watch.fileno()
    assert is_readable(watch) is watch.drain() is False
    child.kill()
    assert is_readable(watch, 10.0) is True
    assert watch.drain() is True
    assert is_readable(watch) is watch.drain() is False
    child.wait()
    assert watch.watch([]) is False
    assert watch.fileno() == descriptor


def test_a_stopped_process_is_alive(watch, child):
    watch.watch([owner_of(child)])
    child.send_signal(signal.SIGSTOP)
    assert watch.watch([owner_of(child)]) is False
    assert is_readable(watch) is False


def test_a_process_that_has_exited_before_is_reported(watch, child):
    owner = owner_of(child)
    child.kill()
    child.wait()
    assert watch.watch([owner]) is True
    assert is_readable(watch) is False


def test_another_process_with_the_same_number_is_not_watched_in_its_place(watch, child):
    former = owner_of(child)._replace(started="1")
    assert watch.watch([former]) is True
    child.kill()
    child.wait()
    assert is_readable(watch) is False


def test_no_descriptor_is_left_open(child):
    before = set(os.listdir("/proc/self/fd"))
    watch = DeathWatch()
    for _ in range(3):
        watch.watch([owner_of(child)])
        watch.watch([])
    watch.watch([owner_of(child)])
    watch.close()
    watch.close()
    assert (watch.fileno(), watch.watch([]), watch.drain()) == (-1, False, False)
    assert set(os.listdir("/proc/self/fd")) == before
