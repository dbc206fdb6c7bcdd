"""A process that uses a store in every way, and notes what it does and what is acknowledged. It is recorded."""

import contextlib
import json
import os
import sys
import threading
import time
from random import Random
from typing import Any, Final

from lmdbresults import LMDBStore, open_store
from lmdbresults.process import boot
from lmdbresults.store import queues
from lmdbresults.store.base import WriteTransaction
from lmdbresults.store.lmdb.durability import log_file
from lmdbresults.store.queues import Message
from tests.crash.history import DONE, PUBLISHED, QUEUE, SINGLE, TOTAL, Change, value_of
from tests.crash.recording import mark

#: Seconds: gone before an image is looked at, and not gone then.
_SHORT: Final = 0.1
_LONG: Final = 3600.0


class _Undone(Exception):
    """Undoes a transaction."""


class Writer:
    """A thread at work, under a name of its own."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self._name, self._settings = name, settings
        self._choose = Random(f"{settings['seed']} {name}")
        self._singles = 0
        self._is_promised = settings["options"]["durability"] == "commit"
        self._store = self._open()

    def _open(self) -> LMDBStore:
        options = dict(self._settings["options"])
        return open_store(options.pop("path"), **options)

    def work(self) -> None:
        """Do many things, close the store and open it again now and then."""
        acts = [self._commit, self._single, self._message, self._undo, self._sweep, self._flush, self._reopen]
        for _ in range(self._settings["acts"]):
            self._choose.choices([*acts, self._wait], (50, 30, 20, 3, 2, 2, 1, 2))[0]()
            time.sleep(self._choose.random() * self._settings["pause"])

    def fork(self) -> int:
        """Fork; the child goes on under another name, and both use the same store."""
        child = os.fork()
        if not child:
            self._name, self._singles = f"{self._name}-child", 0
            self._choose = Random(f"{self._settings['seed']} {self._name}")
            self.work()
            self.close()
            os._exit(0)
        return child

    def close(self) -> None:
        self._store.close()

    # -- what it does --------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        changes = [self._change() for _ in range(self._choose.choice((1, 1, 2, 5)))]
        if self._choose.random() < 0.5:
            number = self._store.update(lambda txn: self._apply(txn, changes))
        else:
            with self._store.write() as txn:
                number = self._apply(txn, changes)
        mark("acknowledged", self._name, False, number, self._is_promised)

    def _message(self) -> None:
        """Publish a message, or end a task: its result and its acknowledgement are one transaction."""
        step = self._choose.choice((self._publish, self._publish, self._take, self._end, self._end))
        number = self._store.update(step)
        if number:
            mark("acknowledged", self._name, False, number, self._is_promised)

    def _publish(self, txn: WriteTransaction) -> int:
        queues.declare(txn, QUEUE)
        number = self._apply(txn, [("incr", PUBLISHED, 1)])
        size = self._choose.choice((20, 500, 12_000))
        body = (b"%b " % (txn.get(PUBLISHED) or b"")).ljust(size)
        queues.publish(txn, [Message(body, QUEUE, priority=self._choose.randrange(10))])
        return number

    def _take(self, txn: WriteTransaction) -> int:
        number = self._apply(txn, [])
        queues.take(txn, self._store.owner(), [QUEUE], 2)
        return number

    def _end(self, txn: WriteTransaction) -> int:
        held = next(queues.unacknowledged(txn), None)
        if held is None:
            return 0
        number = self._apply(txn, [("set", DONE + held.body.split()[0], 16)])
        assert queues.acknowledge(txn, held.tag), "it was held"
        return number

    def _undo(self) -> None:
        with contextlib.suppress(_Undone), self._store.write() as txn:
            number = self._apply(txn, [self._change()])
            raise _Undone
        mark("undone", self._name, number)

    def _apply(self, txn: WriteTransaction, changes: list[Change]) -> int:
        number = txn.incr(TOTAL)
        mark("begin", self._name, False, number, txn._raw.id(), [_as_seen_later(*change) for change in changes])
        for verb, key, amount in changes:
            if verb == "incr":
                txn.incr(key, amount)
            elif verb == "delete":
                txn.delete(key)
            else:
                txn.set(key, value_of(key, number, amount), {"set": None, "short": _SHORT, "long": _LONG}[verb])
        return number

    def _change(self) -> Change:
        key = b"key %d" % self._choose.randrange(60)
        verb = self._choose.choices(("set", "long", "short", "delete", "incr"), (40, 20, 10, 20, 10))[0]
        if verb == "incr":
            return verb, b"counter %d" % self._choose.randrange(4), self._choose.randrange(-3, 9)
        sizes = (range(16, 600), range(1500, 9000), range(17_000, 60_000))
        return verb, key, self._choose.choice(self._choose.choices(sizes, (90, 6, 4))[0])

    def _single(self) -> None:
        self._singles += 1
        mark("begin", self._name, True, self._singles, 0, [])
        self._store.set(SINGLE + self._name.encode(), b"%d" % self._singles)
        mark("acknowledged", self._name, True, self._singles, self._is_promised)

    def _sweep(self) -> None:
        self._store.sweep()

    def _flush(self) -> None:
        if self._settings["options"]["durability"] == "none":
            self._store.flush()  # whatever it says, the pages of that moment may be used again
            return
        mark("flush", self._name)
        self._store.flush()
        mark("flushed", self._name)

    def _wait(self) -> None:
        subscription = self._store.subscribe()
        keys = [b"key %d" % self._choose.randrange(80)]
        subscription.add(keys)
        if self._choose.random() < 0.5:
            subscription.remove(keys)
        subscription.close()

    def _reopen(self) -> None:
        self.close()
        self._store = self._open()


def _as_seen_later(verb: str, key: bytes, amount: int) -> Change:
    return ("delete" if verb == "short" else "set" if verb == "long" else verb), key, amount


def main(name: str, settings: dict[str, Any]) -> None:
    """Run the threads of one process; the first of them forks in its midst, where that is wanted."""
    if settings["boot"]:
        boot.boot_id = lambda: settings["boot"]
    log_file.HALF_BYTES = settings["half"]
    writers = [Writer(f"{name}.{number} in {settings['seed']}", settings) for number in range(settings["threads"])]
    threads = [threading.Thread(target=writer.work) for writer in writers[1:]]
    for thread in threads:
        thread.start()
    writers[0].work()
    child = writers[0].fork() if settings["forks"] else 0
    writers[0].work()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.close()
    if child and os.waitpid(child, 0)[1]:
        sys.exit(f"the child of {name} has failed")


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
