"""A program that replaces itself by exec stays the same process; what it had taken returns to the queues."""

import os
import subprocess
import sys

from lmdbresults import open_store
from lmdbresults.store.queues import Message, Recovered

TAKE_THEN_EXEC = """
import os, sys
from lmdbresults import open_store
store = open_store(sys.argv[1], durability="none")
first = store.queues.take(["q"], 2)
if len(sys.argv) == 2:
    store.close()
    os.execv(sys.executable, [sys.executable, "-c", os.environ["PROGRAM"], sys.argv[1], "again"])
print([each.body for each in first.deliveries], store.queues.recover(), store.queues.recover())
print([each.body for each in store.queues.take(["q"], 10).deliveries])
"""


def test_what_a_program_had_taken_before_exec_returns_and_is_not_overwritten(path: str):
    with open_store(path, durability="none") as store:
        store.queues.declare("q")
        store.queues.publish([Message(b"%d" % number, "q") for number in range(6)])
    command, environment = [sys.executable, "-c", TAKE_THEN_EXEC, path], {**os.environ, "PROGRAM": TAKE_THEN_EXEC}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=True).stdout
    assert said.splitlines() == [f"[b'2', b'3'] {Recovered(2, 0)} {Recovered(0, 0)}", "[b'0', b'1', b'4', b'5']"]
