"""Damaged files, opened and read: ``python -m tests.crash.fuzz [--files 2000]`` prints what came of each kind.

A file is damaged while no process has it open, and then read by a subprocess, which may be killed by it. Each value
that comes back is compared with everything that was ever written under its key.
"""

import argparse
import faulthandler
import json
import os
import random
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lmdbresults import LMDBStore, open_store
from lmdbresults.errors import StoreError
from lmdbresults.store.lmdb.maintenance.salvage import salvage
from lmdbresults.store.lmdb.maintenance.verify_worker import problems_in
from tests.crash.damages import DAMAGES, KEYS, NAMES, make_base, other_formats, value_of

#: Where files are damaged: in memory if possible, as nothing here is about disks.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
#: Seconds after which a process that reads a file of one megabyte is taken to hang.
PATIENCE = 240.0
#: What may come of reading a file, the worst first.
OUTCOMES = (
    "wrong value",
    "hang",
    "unexpected error",
    "crash",
    "value of another store",
    "stale value",
    "missing",
    "error on read",
    "open refused",
    "no effect",
)
#: What must not come of any.
FORBIDDEN = OUTCOMES[:3]


#: Files of which LMDB never reads a page: they may end no process.
HARMLESS = ("truncated", "another format", "a hostile name", "the -checkpoint damaged")


# -- reading -----------------------------------------------------------------------------------------------------------


def judged(key: bytes, value: bytes | None) -> str:
    if value is None:
        return "missing"
    if key not in KEYS:
        return "value of another store" if value == b"of another file" * 5 else "wrong value"
    return {value_of(key, 1): "no effect", value_of(key, 0): "stale value"}.get(value, "wrong value")


def read_everything(path: str, durability: str, tell: Callable[[str], object]) -> None:
    """Use a store in every way, and tell what comes of it before going on."""
    try:
        store = open_store(path, durability=durability)
    except StoreError:
        tell("open refused")
        return
    tell("no effect")
    with store:
        for key in KEYS:
            attempt(tell, lambda key=key: tell(judged(key, store.get(key))))
        attempt(tell, lambda: scan(store, tell))
        attempt(tell, lambda: [tell(judged(key, value)) for key, value in zip(KEYS, store.mget(KEYS), strict=True)])
        attempt(tell, lambda: tell("error on read" if store.check() else "no effect"))
        attempt(tell, lambda: write(store, tell))


def attempt(tell: Callable[[str], object], operation: Callable[[], object]) -> None:
    try:
        operation()
    except StoreError:
        tell("error on read")


def scan(store: LMDBStore, tell: Callable[[str], object]) -> None:
    for key, value in store.scan():
        tell(judged(key, value))


def write(store: LMDBStore, tell: Callable[[str], object]) -> None:
    """Write, which takes pages from those that are said to be free."""
    for number in range(20):
        store.set(b"new %d" % number, b"new" * 100 * number)
    for number in range(20):
        # It may be gone, where a page was said to be free and is not: then it was written twice.
        if store.get(b"new %d" % number) not in (None, b"new" * 100 * number):
            tell("wrong value")
    for key in KEYS[::50]:
        store.delete(key)


def look_through(path: str, tell: Callable[[str], object]) -> None:
    """What `verify` does in its process."""
    tell("found" if list(problems_in(path, live=False, records=True)) else "sound")


def salvage_to(path: str, target: str, tell: Callable[[str], object]) -> None:
    """Salvage a file, and compare each record with what was written."""
    try:
        salvage(path, target)
    except StoreError:
        tell("open refused")
        return
    with open_store(target, durability="none") as store:
        tell("unexpected error" if store.check() else "no effect")
        for key, value in store.scan():
            tell(judged(key, value))
        tell(f"salvaged {sum(store.get(key) == value_of(key, 1) for key in KEYS)}")


def told_by(work: Callable[..., object], *args: object) -> list[str]:
    """Return what a function tells in a process of its own, and how that ends if not well."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _run_and_exit(theirs, work, args)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        told = _read_in_time(pipe.fileno(), pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == -signal.SIGKILL:
        told.append("hang")
    elif code < 0:
        told += ["crash", signal.Signals(-code).name]
    return told


def _run_and_exit(pipe: int, work: Callable[..., object], args: tuple[object, ...]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what glibc and our logger say
    faulthandler.disable()  # a death is an outcome here
    seen: set[str] = set()

    def tell(outcome: str) -> None:
        if outcome not in seen:
            seen.add(outcome)
            os.write(pipe, json.dumps(outcome).encode() + b"\n")

    try:
        work(*args, tell)
    except BaseException as error:
        tell("unexpected error")
        tell(repr(error))
    finally:
        os._exit(0)


def _read_in_time(descriptor: int, pid: int) -> list[str]:
    deadline, data = time.monotonic() + PATIENCE, b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while selector.select(max(deadline - time.monotonic(), 0)):
            part = os.read(descriptor, 65536)
            if not part:
                return [json.loads(line) for line in data.splitlines()]
            data += part
    os.kill(pid, signal.SIGKILL)
    return [json.loads(line) for line in data.splitlines()]


# -- all of it ---------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """What became of a file."""

    kind: str
    number: int
    outcome: str
    told: list[str]
    verified: str
    salvaged: list[str]


def cases(count: int, seed: int, folder: Path) -> Iterator[Case]:
    """Damage about so many files and yield what became of each. Kinds take turns."""
    base = make_base(folder)
    formats = list(other_formats(folder))
    kinds = [*DAMAGES, "another format", "a hostile name", "the -checkpoint damaged"]
    for number in range(count):
        kind, chance = kinds[number % len(kinds)], random.Random(f"{seed} {number}")
        data, sidecar, name = bytearray(base.final), bytearray(base.sidecar), b"results.lmdb"
        if kind in DAMAGES:
            DAMAGES[kind](chance, base, data)
        elif kind == "another format":
            data = bytearray(formats[number // len(kinds) % len(formats)])
        elif kind == "a hostile name":
            name = NAMES[number // len(kinds) % len(NAMES)]
        else:
            sidecar[chance.randrange(600) + 4096 * chance.randrange(4)] ^= 1 << chance.randrange(8)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield _case(kind, number, chance, os.path.join(place, os.fsdecode(name)), bytes(data), bytes(sidecar))


def _case(kind: str, number: int, chance: random.Random, path: str, data: bytes, sidecar: bytes) -> Case:
    Path(path).write_bytes(data)
    if chance.random() < 0.5 or "checkpoint" in kind:
        Path(path + "-checkpoint").write_bytes(sidecar)
    os.chmod(path, 0o600)
    verified = told_by(look_through, path)
    salvaged = told_by(salvage_to, path, path + ".s")
    told = told_by(read_everything, path, chance.choice(["none", "checkpoint"]))
    outcome = next(outcome for outcome in OUTCOMES if outcome in told)
    return Case(kind, number, outcome, told, verified[0], salvaged)


def table(found: list[Case]) -> str:
    """Return the table for the documentation: how many files of each kind had which outcome at worst."""
    columns = OUTCOMES[::-1]
    lines = [f"| | files | {' | '.join(columns)} | found by `check` |", "|---" * (len(columns) + 3) + "|"]
    for kind in dict.fromkeys(case.kind for case in found):
        of_kind = [case for case in found if case.kind == kind]
        counts = Counter(case.outcome for case in of_kind)
        row = [len(of_kind), *(counts[column] for column in columns)]
        bad = [case for case in of_kind if case.outcome != "no effect"]
        row.append(f"{sum(case.verified == 'found' for case in bad)} of {len(bad)}")
        lines.append(f"| {kind} | {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    try:
        found = list(cases(arguments.files, arguments.seed, folder))
    finally:
        shutil.rmtree(folder)
    print(table(found))
    print()
    print("died by:", dict(Counter(word for case in found for word in case.told if word.startswith("SIG"))))
    for case in found:
        if case.outcome in FORBIDDEN or case.salvaged[-1:] in (["crash"], ["hang"]) or "wrong value" in case.salvaged:
            print(case)
    if any(case.outcome in FORBIDDEN for case in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
