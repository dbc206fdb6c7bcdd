"""The place of a file: its file system, the jobs that clean it, permissions, and space."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, NamedTuple

from lmdbresults.errors import StoreError
from lmdbresults.options import Options
from lmdbresults.store.findings import ERROR, OK, WARNING, Finding
from lmdbresults.store.lmdb.file import meta, paths
from lmdbresults.store.lmdb.notify.folder import FOLDER_SUFFIX

__all__ = ["cleaners", "file_system", "permissions", "space"]

#: Types of file systems that other machines share, or a host with its virtual machines.
_SHARED: Final = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "drvfs", "fakeowner", "gfs2", "glusterfs", "gpfs", "lustre"),
    *(
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "prl_fs",
        "rclone",
        "s3fs",
        "smb3",
        "smbfs",
        "sshfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
    ),
}
_IN_MEMORY: Final = {"ramfs", "tmpfs"}
_OF_A_CONTAINER: Final = {"aufs", "overlay"}
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
#: Rules of systemd-tmpfiles, the strongest first; the kinds of lines that clean, and those that exclude.
_RULES: Final = ("/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/lib/tmpfiles.d")
_CLEANING, _EXCLUDING = "CDdeqQv", "xX"
_LOCAL_DISK: Final = "Use a folder on a local disk, such as /var/lib/NAME."
#: Users below this number are services, for systemd-logind.
_FIRST_PERSON: Final = 1000


class _Mount(NamedTuple):
    point: str
    kind: str
    is_read_only: bool


def file_system(options: Options, mounts: str = "/proc/self/mountinfo") -> Iterator[Finding]:
    """Yield whether the file system of the folder suits. ``mounts`` has the format of Linux' mountinfo."""
    mount = _mount_of(_nearest_folder(options.path), mounts)
    if mount is None:
        yield Finding("file system", OK, "Its type is unknown on this system. It must be a local disk, never NFS.")
        return
    where = f"{mount.kind}, mounted at {mount.point}"
    kind = mount.kind.removeprefix("fuse.")
    if mount.is_read_only:
        text = f"It is read-only ({where}), and even reading needs a writable lock file."
        yield Finding("file system", ERROR, text, "Mount it writable, or copy the file elsewhere.")
    elif kind in _SHARED:
        text = f"It is shared between machines ({where}): processes share the file through memory and local locks."
        yield Finding("file system", ERROR, text, _LOCAL_DISK)
    elif mount.kind.startswith("fuse"):
        yield Finding("file system", WARNING, f"It is implemented by a program ({where}).", _LOCAL_DISK)
    elif kind in _OF_A_CONTAINER:
        text = f"It is the inner layer of a container ({where}): the file is deleted with the container."
        yield Finding("file system", WARNING, text, "Mount a volume of a local disk there.")
    elif kind in _IN_MEMORY and options.durability != "none":
        text = f"It is in memory ({where}): a reboot loses the file, and it takes memory until it is deleted."
        cure = "Use a local disk; or durability=none, which loses nothing more there, and a max_size."
        yield Finding("file system", WARNING, text, cure)
    else:
        yield Finding("file system", OK, f"It is {where}.")


def cleaners(options: Options, rules: Iterable[str] = _RULES) -> Iterator[Finding]:
    """Yield the jobs that may delete the file because it looks old, by the folder and by rules of tmpfiles.d."""
    path, cure = options.path, "Use a folder of its own, such as /var/lib/NAME; or exclude it in /etc/tmpfiles.d."
    deletes = "which deletes files that look old, such as the lock file: then two processes write at once"
    rule = _rule_for(path, rules)
    if path.startswith(("/tmp/", "/var/tmp/")):  # noqa: S108
        yield Finding("cleaners", WARNING, f"/{path.split('/')[1]} is cleaned by a job, {deletes}.", cure)
    elif path.startswith("/run/user/"):
        yield Finding("cleaners", WARNING, "/run/user is deleted when the user logs out.", cure)
    elif path.startswith("/dev/shm/") and os.geteuid() >= _FIRST_PERSON:  # noqa: S108
        yield Finding("cleaners", WARNING, "systemd deletes a user's files in /dev/shm at logout (RemoveIPC).", cure)
    elif rule:
        yield Finding("cleaners", WARNING, f"A rule of {rule} cleans this folder, {deletes}.", cure)
    else:
        yield Finding("cleaners", OK, "No job is known that cleans this folder.")


def permissions(options: Options) -> Iterator[Finding]:
    """Yield whether this user may use the file, and whether too many others may."""
    folder, user = os.path.dirname(options.path), os.geteuid()
    try:
        found = paths.examine(options.path, options.mode)
    except StoreError as refusal:
        yield Finding("permissions", ERROR, str(refusal))
        return
    try:
        around = os.stat(folder)
    except OSError as error:
        yield from _missing_folder(options, error)
        return
    bad = list(_of_folder(folder, around))
    if found.has_file:
        bad += _of_file(options, around)
    yield from bad or [Finding("permissions", OK, f"User {user} may use the file and its folder.")]


def space(options: Options) -> Iterator[Finding]:
    """Yield whether the disk and ``max_size`` have room."""
    disk = os.statvfs(_nearest_folder(options.path))
    free, wanted = disk.f_bavail * disk.f_frsize, 3 * options.checkpoint_bytes
    if disk.f_files and not disk.f_favail:
        yield Finding("space", ERROR, "The file system has no inode left.", "Delete files on it.")
    if disk.f_blocks and free < wanted:
        text = f"The disk has {_size(free)} left. While results are written fast, the file grows by {_size(wanted)}."
        yield Finding("space", WARNING, text, "Free space on it, or set a smaller checkpoint_bytes.")
    else:
        yield Finding("space", OK, f"The disk has {_size(free)} left.")
    newest = _newest_meta(options.path)
    if newest is None:
        return
    live = (newest.main.pages + newest.free.pages) * newest.page_size
    text = f"{_size(live)} of max_size={_size(options.max_size)} hold data"
    if live > options.max_size * 0.7:  # an eighth of it is kept for deleting
        cure = "Raise max_size, or let results expire sooner (result_expires)."
        yield Finding("space", WARNING, f"{text}: soon nothing more can be stored.", cure)
    else:
        yield Finding("space", OK, f"{text}; the file takes {_size(os.path.getsize(options.path))}.")


def _nearest_folder(path: str) -> str:
    folder = os.path.dirname(path)
    while not os.path.isdir(folder) and folder != "/":
        folder = os.path.dirname(folder)
    return os.path.realpath(folder)


def _mount_of(folder: str, mounts: str) -> _Mount | None:
    found = None
    try:
        lines = Path(mounts).read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        ours, _, theirs = line.partition(" - ")
        fields, (kind, *_) = ours.split(), theirs.split()
        point = _ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields[4])
        if f"{folder}/".startswith(point.rstrip("/") + "/") and (found is None or len(point) >= len(found.point)):
            found = _Mount(point, kind, "ro" in fields[5].split(","))  # the last one at a point covers the others
    return found


def _rule_for(path: str, folders: Iterable[str]) -> str | None:
    """Return the file with the rule by which systemd-tmpfiles cleans a folder of the path; None if there is none."""
    files: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(Path(folder).glob("*.conf")):
            files.setdefault(file.name, file)  # a file replaces those of its name in weaker folders
    above = [path, *map(str, Path(path).parents)]
    found = None
    for file in files.values():
        for kind, where, age in _lines_of(file):
            if kind[0] in _EXCLUDING and any(fnmatch(one, where) for one in above):
                return None
            if kind[0] in _CLEANING and age != "-" and any(fnmatch(one, where) for one in above[1:]):
                found = str(file)
    return found


def _lines_of(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield kind, path and age of each line."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        kind, where, *rest = [*line.split(), "", ""]
        if kind and where and not kind.startswith("#"):
            yield kind, where.rstrip("/"), rest[3] if len(rest) > 5 else "-"  # after mode, user and group


def _missing_folder(options: Options, error: OSError) -> Iterator[Finding]:
    if isinstance(error, FileNotFoundError) and options.create_folder:
        yield Finding("permissions", OK, "The folder is missing, and create_folder=1 creates it.")
    elif isinstance(error, FileNotFoundError):
        text = f"The folder {os.path.dirname(options.path)} does not exist."
        yield Finding("permissions", ERROR, text, "Check the spelling, create it, or set create_folder=1.")
    else:
        yield Finding("permissions", ERROR, str(paths.translate_os_error(error, options.path)))


def _of_folder(folder: str, around: os.stat_result) -> Iterator[Finding]:
    if not os.access(folder, os.W_OK | os.X_OK):
        text = f"User {os.geteuid()} may not write to {folder}, where the lock file and the sockets of waiters lie."
        yield Finding("permissions", ERROR, text, "Give it write permission for the folder.")
    if around.st_mode & stat.S_IWOTH and not around.st_mode & stat.S_ISVTX:
        text = f"Every user may replace the files in {folder}, and so forge results and tasks."
        yield Finding("permissions", ERROR, text, f"chmod o-w {folder}")


def _of_file(options: Options, around: os.stat_result) -> Iterator[Finding]:
    path, folder = options.path, os.path.dirname(options.path)
    data = os.stat(path)
    mode = stat.S_IMODE(data.st_mode)
    if mode & stat.S_IWOTH:
        yield Finding("permissions", ERROR, f"Every user may write to the file (mode {mode:#o}).", f"chmod o-rw {path}")
    elif mode & ~options.mode & stat.S_IROTH and around.st_mode & stat.S_IXOTH:
        text = f"Every user may read the file (mode {mode:#o}), with all results and messages."
        yield Finding("permissions", WARNING, text, f"chmod o-r {path}")
    if data.st_uid == 0 != around.st_uid:
        text = f"The file belongs to root, and its folder to user {around.st_uid}, which cannot open it."
        cure = f"Stop every process that uses it, and chown {around.st_uid} the file and what lies beside it."
        yield Finding("permissions", WARNING, text, cure)
    if mode & stat.S_IWGRP and not around.st_mode & stat.S_ISGID:
        text = "The group may write to the file, but new files beside it get another group."
        yield Finding("permissions", WARNING, text, f"chmod g+s {folder}")
    wake = path + FOLDER_SUFFIX
    if os.path.isdir(wake) and not os.access(wake, os.W_OK | os.X_OK):
        text = f"User {os.geteuid()} may not use {wake}: its waiters poll instead of being woken."
        yield Finding("permissions", WARNING, text, "Give it permission for the folder, or run as its owner.")


def _newest_meta(path: str) -> meta.Meta | None:
    try:
        with open(path, "rb") as file:
            return meta.read_head(file.fileno()).newest
    except OSError:
        return None


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
