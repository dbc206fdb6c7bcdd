"""Several processes at work on one store while they are recorded: one forks, one is killed and started again."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.crash.recording import Recording

__all__ = ["NAME", "record", "write_files"]

#: The file of the store, in the folder that is watched.
NAME: Final = "results.lmdb"

_PROJECT: Final = Path(__file__).parent.parent.parent
#: Seconds after which a writer is taken to hang.
_PATIENCE: Final = 240.0


def record(
    place: Path,
    seed: int,
    options: dict[str, Any],
    *,
    module: str = "tests.crash.writer",
    image: Mapping[str, bytes] | None = None,
    boot: str = "",
) -> Recording:
    """Record a workload that follows from a seed, as far as processes that run side by side can.

    With durability "mixed" some of the processes use "commit" and the others "checkpoint". With ``image`` they begin
    with what is left of a store; ``boot`` is the name of the boot in which they run, if it is not the present one.
    """
    log, folder = place / f"log-{seed}", place / f"store-{seed}"
    log.mkdir()
    write_files(folder, image or {})
    recording = Recording(log, folder)
    settings = {"seed": seed, "options": options, "boot": boot, "acts": 40, "pause": 0.008}
    settings["half"] = Random(seed).choice((64 << 10, 1 << 20))  # the smaller one has no room for large values
    workload = _Workload(recording, settings, module)
    try:
        workload.run(Random(seed))
    finally:
        workload.kill_all()
    return recording


def write_files(folder: Path, files: Mapping[str, bytes]) -> dict[str, int]:
    """Put files into a folder; return their inodes."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    return {name: (folder / name).stat().st_ino for name in files}


class _Workload:
    def __init__(self, recording: Recording, settings: dict[str, Any], module: str) -> None:
        self._recording, self._settings, self._module = recording, settings, module
        #: Every other disk is slow, which gives the processes time to come between a write and its sync.
        self._delay = settings["seed"] % 2 * 0.008
        self._processes: list[subprocess.Popen[bytes]] = []

    def run(self, choose: Random) -> None:
        """Let processes work side by side; one forks, one is held up, killed and followed by another."""
        steady = [self.start("forking", threads=1, forks=True), self.start("threaded", threads=2, acts=80)]
        victim = self.start("killed", threads=2, acts=10_000)
        self.wait_for_growth()
        time.sleep(choose.random() * 0.3)
        victim.send_signal(signal.SIGSTOP)
        time.sleep(choose.random() * 0.3)
        if choose.random() < 0.5:
            victim.send_signal(signal.SIGCONT)
            time.sleep(choose.random() * 0.1)
        victim.kill()
        victim.wait()
        steady.append(self.start("late", threads=1))
        for process in steady:
            assert process.wait(_PATIENCE) == 0, "a writer has failed"
        self._recording.mark("flush", "everybody")  # as all have closed the file
        self._recording.mark("flushed", "everybody")

    def start(self, name: str, *, threads: int, forks: bool = False, **changed: Any) -> "subprocess.Popen[bytes]":
        options = dict(self._settings["options"], path=str(self._recording.folder / NAME))
        if options["durability"] == "mixed":
            options["durability"] = "commit" if name in ("forking", "late") else "checkpoint"
        settings = json.dumps({**self._settings, "options": options, "threads": threads, "forks": forks, **changed})
        command = [sys.executable, "-m", self._module, name, settings]
        process = subprocess.Popen(command, cwd=_PROJECT, env=self._recording.environment(self._delay))
        self._processes.append(process)
        return process

    def wait_for_growth(self) -> None:
        """Wait until the one that is to be killed is at work, by the marks of its name in the log."""
        until = time.monotonic() + _PATIENCE
        while b"killed.1" not in (self._recording.log / "log").read_bytes():
            assert time.monotonic() < until, "no writer has begun"
            time.sleep(0.02)

    def kill_all(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
