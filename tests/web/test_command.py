"""``lmdbresults web``: what it refuses to start, and why."""

import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.web.conftest import serving


def refused(*arguments: object, code: str = "pass") -> str:
    """Return what the command says that does not start."""
    command = [sys.executable, "-c", f"import sys; {code}; from lmdbresults.__main__ import main; main()", "web"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_another_address_demands_a_token(tmp_path: Path) -> None:
    path = tmp_path / "results.lmdb"
    assert "add --token-file" in refused(path, "--host", "0.0.0.0")
    assert "give it a token" in refused(path, "--allow-host", "jobs.example.org")


def test_a_file_that_cannot_be_shown_is_said_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "results.lmdb"
    path.write_bytes(b"x" * 10_000)
    assert refused(path).startswith(f"{path} is not an LMDB file")
    assert "does not serve" in refused(f"unix://{tmp_path}/no-server?retry_timeout=0")


def test_a_port_that_is_in_use_is_an_error_with_its_cure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "--port" in refused(tmp_path / "results.lmdb", "--port", taken.getsockname()[1])


@pytest.mark.parametrize("package", ["starlette", "jinja2", "uvicorn"])
def test_a_missing_package_is_named_with_how_to_install_it(tmp_path: Path, package: str) -> None:
    said = refused(tmp_path / "results.lmdb", code=f"sys.modules[{package!r}] = None")
    assert said == f"The page needs {package}: pip install 'lmdbresults[cli,web]'\n"


def test_an_application_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    said = refused(tmp_path / "results.lmdb", "--allow-actions", "--app", "no_such_module")
    assert "--app no_such_module cannot be imported" in said


def test_it_stops_at_once_though_a_page_is_open(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lmdbresults", "web", str(tmp_path / "results.lmdb"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split(" at ")[1].split()[0]
        with urlopen(f"{address}events") as events:
            assert events.readline() == b"retry: 2000\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(240) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""


def test_a_file_that_is_missing_is_waited_for_and_not_made(tmp_path: Path) -> None:
    with serving(tmp_path / "results.lmdb"):
        assert list(tmp_path.iterdir()) == []
