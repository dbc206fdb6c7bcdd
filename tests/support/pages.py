"""A page of the documentation, followed by a reader in an empty folder: its files, commands and programs."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["ROOT", "follow", "missing_packages"]

ROOT = Path(__file__).parents[2]

#: Seconds for one command, and for a server to listen.
_PATIENCE = 240.0
_BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)
#: The first line of a program that is a file: its name, and whether it is added to one that exists.
_NAME = re.compile(r"# ([\w/]+\.py)(, at the end)?\n")
#: Commands that go on until the reader stops them.
_SERVERS = re.compile(r"^(celery .* worker\b|python manage.py runserver|flask .* run\b|uvicorn )")
_PORTS = re.compile(r"(?:--port |127\.0\.0\.1:)(\d+)")
_IDS = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MODULES = {"django-celery-results": "django_celery_results"}


def missing_packages(page: Path) -> list[str]:
    """Return what the page installs, besides this package, and what is not installed here."""
    lines = re.findall(r"^pip install (.*)$", page.read_text(), flags=re.MULTILINE)
    names = [name for line in lines for name in line.split() if "lmdbresults" not in name]
    missing = []
    for name in names:
        try:
            __import__(_MODULES.get(name, name))
        except ModuleNotFoundError:
            missing.append(name)
    return missing


def follow(page: Path, folder: Path) -> None:
    """Do what a page says, in its order. Fails where a program fails, or prints anything but what is shown."""
    text = page.read_text().replace("/var/lib/", f"{folder}/var/lib/")
    text = text.replace("get(timeout=30)", "get(timeout=200)")  # a busy machine is slow
    for port in set(_PORTS.findall(text)):
        text = text.replace(port, str(_free_port()))
    (folder / "var" / "lib").mkdir(parents=True)
    here = folder / "here"
    here.mkdir()
    output = None
    with _servers(here, folder) as start:
        for kind, block in _BLOCK.findall(text):
            if kind == "text":
                assert output is not None, f"nothing has printed:\n{block}"
                assert _IDS.sub("ID", output).strip() == _IDS.sub("ID", block).strip()
            elif kind == "python" and _NAME.match(block):
                _write(here, block)
            elif kind == "python":
                output = _run([sys.executable, "-c", block], here, folder)
            elif _SERVERS.search(block):
                start(block)
            else:
                commands = "\n".join(line for line in block.splitlines() if not line.startswith("pip install"))
                output = _run(["sh", "-e", "-c", commands], here, folder)


def _write(here: Path, content: str) -> None:
    name, is_added = _NAME.match(content).groups()
    file = here / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text((file.read_text() if is_added else "") + content)


def _environment(folder: Path) -> dict[str, str]:
    tools = folder / "bin"
    if not tools.exists():
        tools.mkdir()
        (tools / "lmdbresults").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmdbresults "$@"\n')
        (tools / "lmdbresults").chmod(0o755)
    path = os.pathsep.join([str(tools), os.path.dirname(sys.executable), os.environ["PATH"]])
    others = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "DJANGO_"))}
    return {**others, "PATH": path, "PYTHONPATH": f"{folder}/here{os.pathsep}{ROOT}"}


def _run(command: list[str], here: Path, folder: Path) -> str:
    done = subprocess.run(
        command, cwd=here, env=_environment(folder), capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    logs = "".join(log.read_text() for log in here.glob("*.server-log")) if done.returncode else ""
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}{logs}"
    return done.stdout


@contextmanager
def _servers(here: Path, folder: Path) -> "Iterator[object]":
    """Provide a function that starts a command in the background; end all of them, with what they have forked."""
    running: list[subprocess.Popen[bytes]] = []

    def start(block: str) -> None:
        with (here / f"{len(running)}.server-log").open("wb") as log:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {block.strip()}"],
                cwd=here,
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        running.append(process)
        for port in _PORTS.findall(block):
            _wait_for_port(int(port), process)

    try:
        yield start
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail(f"{process.args!r} does not listen")
