"""Child processes and threads for tests: bounded in time, and ended by their own id whatever happens."""

import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: Seconds after which a child is taken to hang and is ended; it prints the stacks of its threads then.
PATIENCE = 240.0

#: Python 3.12 and later warn of what is tested here: forks in a process that has threads.
FORKS_WITH_THREADS = "ignore:.*multi-threaded.*:DeprecationWarning"


class ChildDied(AssertionError):
    """Raised when a child ends without an answer: killed by a signal, or hanging."""


class Child:
    """A forked process that runs a function; its return value or its exception comes back through `join`."""

    def __init__(self, work: Callable[..., Any], *args: Any) -> None:
        self._answer, theirs = os.pipe()
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run_and_exit(theirs, work, args)
        os.close(theirs)

    def join(self) -> Any:
        """Wait for the end and return what the function returned, or raise what it raised."""
        deadline = time.monotonic() + PATIENCE
        answer = b""
        while _is_readable(self._answer, deadline - time.monotonic()):
            part = os.read(self._answer, 1 << 16)
            if not part:
                break
            answer += part
        else:
            os.kill(self.pid, signal.SIGABRT)  # pytest's faulthandler answers it, in the child too
            time.sleep(1)
            self.kill()
        self.wait()
        if self.status != 0 or not answer:
            raise ChildDied(f"child {self.pid} ended with {self.status} (negative: by that signal) and without answer")
        value, error = pickle.loads(answer)
        if error is not None:
            raise error
        return value

    def kill(self) -> None:
        """End the process at once, as by kill -9, if it has not been waited for."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> None:
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        self.kill()
        os.close(self._answer)


def _is_readable(descriptor: int, timeout: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(max(timeout, 0)))


def _run_and_exit(answer: int, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Run in the child, which shares nothing of the test's own ending: no fixtures, no exit handlers."""
    code = 1
    try:
        try:
            outcome = pickle.dumps((work(*args), None))
        except BaseException as error:
            traceback.print_exc()
            outcome = pickle.dumps((None, error if _survives(error) else RuntimeError(repr(error))))
        with os.fdopen(answer, "wb") as pipe:
            pipe.write(outcome)
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def _survives(error: BaseException) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False


@contextmanager
def child(work: Callable[..., Any], *args: Any) -> Iterator[Child]:
    """Run a function in a forked process meanwhile; the process is gone when the block ends."""
    process = Child(work, *args)
    try:
        yield process
    finally:
        process.close()


def in_child(work: Callable[..., Any], *args: Any) -> Any:
    """Return what a function returns, run in a forked process; raise what it raises."""
    with child(work, *args) as process:
        return process.join()


def in_children(count: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what ``work(number, *args)`` returns in each of several forked processes that run side by side."""
    processes = [Child(work, number, *args) for number in range(count)]
    try:
        return [process.join() for process in processes]
    finally:
        for process in processes:
            process.close()


def run_script(source: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run source in an interpreter of its own, to its exit."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", source, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


class Barrier:
    """Lets several processes go at the same moment. Create it before they are forked."""

    def __init__(self) -> None:
        self._ours, self._theirs = os.pipe()

    def wait(self) -> None:
        """Wait, in a child, until the barrier is opened."""
        os.close(self._theirs)
        _is_readable(self._ours, PATIENCE)

    def open(self) -> None:
        """Let everybody go, in the parent."""
        os.close(self._theirs)
        os.close(self._ours)


def in_thread(work: Callable[..., object], *args: object) -> None:
    """Run a function in a thread; fail if it hangs or raises."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work(*args)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(240)
    assert not thread.is_alive(), "the thread hangs"
    assert failures == []


@contextmanager
def busy_threads(*works: Callable[[int], object]) -> Iterator[None]:
    """Call each function over and over, with a running number, each in a thread of its own, until the block ends."""
    failures: list[BaseException] = []
    stop = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 10)  # else joining the threads mostly waits for the interpreter

    def run(work: Callable[[int], object]) -> None:
        number = 0
        try:
            while not stop.is_set():
                work(number)
                number += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(240)
        sys.setswitchinterval(interval)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


def is_open(folder: Path) -> bool:
    """Whether this process has anything in a folder open, or mapped."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{number}"))
    return any(link.startswith(str(folder)) for link in links) or str(folder) in Path("/proc/self/maps").read_text()
