"""Opens stores after a power cut with the real package, each in a process of its own: a bad page may take it down."""

import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final

from lmdbresults import LMDBStore, open_store
from lmdbresults.process import boot
from tests.crash.history import DONE, PUBLISHED, QUEUE, Found, digest
from tests.crash.recording import library, mark, record_here
from tests.support.queue_audit import audit

__all__ = ["Opener"]

#: Seconds after which opening is taken to hang.
_PATIENCE: Final = 240.0
#: Seconds by which the clock is ahead, so that what was to live shortly is gone everywhere.
_LATER: Final = 60.0


class Opener:
    """A process that opens one store after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.opener"],
            cwd=Path(__file__).parent.parent.parent,
            env={**os.environ, "LD_PRELOAD": library(), "POWER_CUT_DELAY": "-1"},  # nothing here has to last
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def open(self, path: Path, options: dict[str, Any], boot_id: str, log: Path | None = None) -> Found:
        """Open a store as after a boot with some name, look at everything, go on writing, and look again.

        With ``log``, what is written meanwhile is recorded there; a mark stands where the store had been read.
        """
        request = {"path": str(path), "options": options, "boot": boot_id, "log": str(log or "")}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        found = pickle.load(self._process.stdout)
        assert isinstance(found, Found)
        return found

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


def serve() -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        pickle.dump(_in_child(json.loads(line)), sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _in_child(request: dict[str, Any]) -> Found:
    answer, theirs = os.pipe()
    child = os.fork()
    if not child:
        _answer_and_exit(theirs, request)
    os.close(theirs)
    content = _read_until(answer, time.monotonic() + _PATIENCE)
    os.close(answer)
    if content is None:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if content is None or status:
        return Found({}, [], "hangs" if content is None else f"ends with {status}", has_died=True)
    found: Found = pickle.loads(content)
    return found


def _read_until(descriptor: int, deadline: float) -> "bytes | None":
    content = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while selector.select(max(deadline - time.monotonic(), 0)):
            part = os.read(descriptor, 1 << 20)
            if not part:
                return content
            content += part
    return None


def _answer_and_exit(answer: int, request: dict[str, Any]) -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what LMDB and the package say of damage, a thousand times
        boot.boot_id = lambda: request["boot"]
        if request["log"]:
            record_here(Path(request["log"]), Path(request["path"]).parent)
        try:
            found = _look(request["path"], request["options"])
        except Exception as error:
            found = Found({}, [], f"{type(error).__name__}: {error}")
        with os.fdopen(answer, "wb") as pipe:
            pickle.dump(found, pipe)
    finally:
        os._exit(0)


def _look(path: str, options: dict[str, Any]) -> Found:
    with open_store(path, clock=lambda: time.time() + _LATER, **options) as store:
        values = {key: digest(value) for key, value in store.scan() if not key.startswith(b"queue-")}
        problems = store.check() + _problems_of_messages(store)
        mark("read", "")
        _go_on(store)
        problems += store.check()
    with open_store(path, clock=lambda: time.time() + _LATER, **options) as store:
        return Found(values, problems + store.check())


def _problems_of_messages(store: LMDBStore) -> list[str]:
    """Say which messages are not exactly once in the queue, or in the results."""
    body_of = {each.tag: each.body for each in [*store.queues.peek(QUEUE, None), *store.queues.unacknowledged()]}
    present = Counter(int(body.split()[0]) for body in body_of.values())
    present.update(int(key[len(DONE) :]) for key, _ in store.scan(DONE))
    expected = Counter(range(1, int(store.get(PUBLISHED) or 0) + 1))
    different = sorted((present - expected) + (expected - present))
    return audit(store) + ([f"messages are lost or there twice: {different[:5]}"] if different else [])


def _go_on(store: LMDBStore) -> None:
    """Write enough to meet the pages that the file holds to be free."""
    choose = Random(0)
    for number in range(12):
        keys = [b"key %d" % choose.randrange(60) for _ in range(6)]
        with store.write() as txn:
            for key in keys[1:]:
                txn.set(key, b"%d" % number * choose.choice((10, 900, 3000, 20_000)), choose.choice((None, 3600.0)))
            txn.delete(keys[0])


if __name__ == "__main__":
    serve()
