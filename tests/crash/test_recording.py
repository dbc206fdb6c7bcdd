"""Whether the recorder sees all that processes do to the files of a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.disk import Disk
from tests.crash.recording import Event, Kind, Recording
from tests.crash.workload import record

_ALL_WAYS = """
import os, sys
from tests.crash.recording import mark
os.chdir(sys.argv[1])
with open("by write", "wb") as file:
    file.write(b"one" * 5000)
    file.flush()
    os.fsync(file.fileno())
    file.write(b"more")
with open("by write", "ab") as file:
    file.write(b"appended")
one = os.open("by pwrite", os.O_RDWR | os.O_CREAT | os.O_DSYNC)
mark("between")
os.pwrite(one, b"two", 5000)
os.pwritev(one, [b"three", b"four"], 100)
os.writev(one, [b"five", b"six"])
two = os.open("by size", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(two, 0, 20_000)
os.ftruncate(two, 10_000)
os.truncate("by size", 9_000)
os.fdatasync(two)
for name in ("renamed", "replaced", "linked", "unlinked"):
    open(name, "w").write(name)
os.rename("renamed", "new name")
os.replace("replaced", "by write")
os.link("linked", "second name")
os.unlink("unlinked")
open("linked", "w").close()
folder = os.open(".", os.O_RDONLY)
os.unlink("second name", dir_fd=folder)
os.rename("by size", "by size too", src_dir_fd=folder, dst_dir_fd=folder)
os.fsync(folder)
"""


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    for name in ("log", "watched"):
        (tmp_path / name).mkdir()
    return Recording(tmp_path / "log", tmp_path / "watched")


def run(recording: Recording, source: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", source, str(recording.folder)]
    return subprocess.Popen(command, cwd=Path(__file__).parent.parent.parent, env=recording.environment())


def replayed(recording: Recording) -> dict[str, bytes]:
    disk = Disk(recording.inode)
    for event in recording.events():
        disk.apply(event)
    return {name: content for name, content in disk.contents().items() if not name.endswith("-lock")}


def on_disk(folder: Path) -> dict[str, bytes]:
    """The files; without LMDB's lock file, which is written through a map and of no meaning after a boot."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and not path.name.endswith("-lock")
    }


def test_every_way_to_change_a_file_is_recorded(recording: Recording) -> None:
    assert run(recording, _ALL_WAYS).wait() == 0
    assert on_disk(recording.folder) == replayed(recording)
    kinds = [event.kind for event in recording.events()]
    # by fsync, of the three writes under O_DSYNC, by fdatasync, of the folder
    assert kinds.count(Kind.SYNC_BEGIN) == kinds.count(Kind.SYNC_END) == 6
    assert kinds.count(Kind.MARK) == 3  # one of the process, one of each reading of the log


@pytest.mark.parametrize("durability", ["commit", "checkpoint", "none"])
def test_the_log_of_several_processes_leads_to_the_very_files(tmp_path: Path, durability: str) -> None:
    recording = record(tmp_path, 1, {"durability": durability, "checkpoint_interval": 0.05})
    assert on_disk(recording.folder) == replayed(recording)


def test_what_a_killed_process_did_last_is_found_out(recording: Recording) -> None:
    killed = run(
        recording, "import os, sys\nfile = open(sys.argv[1] + '/file', 'wb', 0)\nwhile True: file.write(b'x' * 99999)"
    )
    while not recording.folder.joinpath("file").exists() or recording.folder.joinpath("file").stat().st_size < 1 << 20:
        assert killed.poll() is None
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert on_disk(recording.folder) == replayed(recording)


@pytest.mark.parametrize(
    "way",
    [
        "import mmap; mmap.mmap(os.open(path, os.O_RDWR), 0)",
        "os.sendfile(os.open(path, os.O_WRONLY), os.open(__import__('sys').executable, os.O_RDONLY), 0, 10)",
    ],
    ids=["map", "sendfile"],
)
def test_a_write_that_cannot_be_recorded_is_told(recording: Recording, way: str) -> None:
    recording.folder.joinpath("file").write_bytes(b"content")
    assert run(recording, f"import os, sys\npath = sys.argv[1] + '/file'\n{way}").wait() == 0
    with pytest.raises(AssertionError, match="without being recorded"):
        recording.events()


def test_files_elsewhere_are_not_recorded(recording: Recording, tmp_path: Path) -> None:
    assert run(recording, f"open({str(tmp_path / 'elsewhere')!r}, 'w').write('text')").wait() == 0
    assert not [event for event in recording.events() if written(event)]


def written(event: Event) -> bool:
    return event.kind in (Kind.WRITE, Kind.CREATE)
