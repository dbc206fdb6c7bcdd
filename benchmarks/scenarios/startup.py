"""How long a new process takes to import what it needs."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, Field, scenario
from benchmarks.measure import Block, Key, time_each
from benchmarks.peers.base import Peer
from benchmarks.peers.plain import Plain
from benchmarks.rows import KILL, OWN, Row

#: What a process imports, and what is shown as its configuration.
IMPORTS = {
    OWN: "import lmdbresults",
    "Redis": "import redis",
    "SQLAlchemy": "import sqlalchemy",
    "bare LMDB": "import lmdb",
    "Python": "pass",
}


@scenario("startup", "A new Python process that imports and ends; the time of Python alone is in each")
def startup(bench: Bench) -> list[Row]:
    peers = {
        name: Peer(name=name, configuration=statement, durability=KILL, client=Plain)
        for name, statement in IMPORTS.items()
    }
    blocks: dict[Key, Block] = {
        Key(name, "import"): partial(time_each, partial(_run, bench.folder), [statement] * bench.size(1, 3, 5))
        for name, statement in IMPORTS.items()
    }
    return Field(peers).rows(bench.interleave(blocks, bench.size(1, 5, 8), warm_up=bench.mode != "tiny"), alike=True)


def _run(folder: Path, statement: str) -> None:
    variables = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", statement], cwd=folder, env=variables, check=True)
